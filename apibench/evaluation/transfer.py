"""``apibench evaluate SET...``: what held-out classifiers say to adversarial image sets, one result file a set and classifier.

The sets are there already, of any attacks and bounds, purified or not. Each is shown to every classifier, and so are the clean
images that they were made from; what is measured is not measured again. The report (:mod:`~apibench.evaluation.transfer_report`)
is made from the result files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from apibench import text
from apibench.attacks.stage import Shard
from apibench.errors import ApibenchError
from apibench.evaluation.cells import CLEAN
from apibench.evaluation.measure import Classifiers, Unit, labelled, measure, missing, unmeasured
from apibench.evaluation.transfer_rates import Variant, check_reference
from apibench.evaluation.transfer_report import TRANSFER
from apibench.evaluation.transfer_sets import open_sets
from apibench.imageset import ImageRecord, ImageSet, write_atomically

Say = Callable[[str], None]


@dataclass
class Transferred:
    """What a run did. ``waiting``: other shards have sets left to measure, so that there is no table yet."""

    waiting: bool = False
    problems: list[str] = field(default_factory=list)


def evaluate(
    sets: Sequence[Path],
    targets: Sequence[str],
    out: Path,
    say: Say,
    *,
    clean: Path | None = None,
    reference: str | None = None,
    shard: Shard | None = None,
    device: str = "cpu",
) -> Transferred:
    """Measure ``targets`` (names of classifiers) on ``sets`` into ``out/cells``; ``out/transfer.json`` says what was asked for.

    The clean images are those of ``clean``, else of the one set among ``sets`` that nobody attacked; they are found by the
    identities in ``source``, and their labels hold for everything made from them. ``reference``: the attack that the others of
    its bound are compared with (None: the strongest). Of several processes, each measures its ``shard`` of the sets.

    An image that cannot be read is left out and a problem; the next run tries it again. Raises ApibenchError where a set cannot
    be read, is given twice, or lacks its clean images.
    """
    classifiers = Classifiers(targets, device)
    given, photographs = open_sets(sets, clean)
    check_reference([Variant.parse(name) for name in given], reference)
    result, part = Transferred(), shard or Shard()
    units = _units(given, photographs, classifiers.names, result)
    _write_run(out, units, given, reference)
    mine = [number for number in range(len(units)) if number % part.count == part.index - 1]
    for number in mine:
        unit = units[number]
        if missing(unit, out):
            result.problems += [reason for _, reason in measure(unit, out, classifiers)]
            say(f"measure: {number + 1}/{len(units)}: {text.plain(unit.attack)}")
    result.waiting = part.count > 1 and any(unmeasured(unit, out) for unit in units)
    if result.waiting:
        say("other shards have sets left to measure; when they are done, run this again for the tables")
        return result
    # A table that lacks images of another shard's sets has a problem too.
    lacking = [unit for number, unit in enumerate(units) if number not in mine and missing(unit, out)]
    result.problems += [f"{unit.images.folder}: some of its images could not be read" for unit in lacking]
    return result


def _units(
    given: Mapping[str, ImageSet], photographs: ImageSet, classifiers: tuple[str, ...], result: Transferred
) -> list[Unit]:
    """The clean images that are needed, then every set, all under the clean images' labels."""
    by_source = {record.source: record for record in photographs.records}
    wanted: set[str] = set()
    for images in given.values():
        sources = {record.source for record in images.records}
        absent = len(sources - by_source.keys())
        if absent:
            raise ApibenchError(
                f"{images.folder}: the clean images of {absent} of its {len(sources)} are not in {photographs.folder}; "
                "name the set that it was made from with --clean SET"
            )
        wanted |= sources
    needed = [record for record in photographs.records if record.source in wanted]
    clean, unlabelled = labelled(ImageSet(photographs.folder, needed))
    result.problems += [reason for _, reason in unlabelled]
    of_label = {record.source: record for record in clean.records}
    units = [Unit(clean, CLEAN, classifiers)]
    for variant, images in given.items():
        # A set that was made without labels, or towards a target, has others: what is right is what the photograph shows.
        records = [
            _relabelled(record, of_label[record.source]) for record in images.records if record.source in of_label
        ]
        if not records:
            raise ApibenchError(f"{images.folder}: none of its clean images has a label, and accuracy needs one")
        epsilon = Variant.parse(variant).epsilon
        units.append(Unit(ImageSet(images.folder, records), variant, classifiers, epsilon=epsilon))
    return units


def _relabelled(record: ImageRecord, clean: ImageRecord) -> ImageRecord:
    return replace(record, label=clean.label, label_source=clean.label_source)


def _write_run(out: Path, units: Sequence[Unit], given: Mapping[str, ImageSet], reference: str | None) -> None:
    content = {
        "reference": reference,
        "gradients": {variant: _gradients(images.records) for variant, images in given.items()},
        "targets": {variant: _targets(variant, images.records) for variant, images in given.items()},
        "cells": sorted(key.file for unit in units for key in unit.cells()),
    }
    write_atomically(out / TRANSFER, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _gradients(records: Sequence[ImageRecord]) -> float | None:
    """Network-gradients an image, on average; None where the manifest does not say."""
    known = [record.extra["gradients"] for record in records if record.extra.get("gradients") is not None]
    return round(fmean(known), 3) if len(known) == len(records) else None


def _targets(variant: str, records: Sequence[ImageRecord]) -> dict[str, int]:
    """The classes that images were moved towards, by the clean images' identities; empty for a set without an aim."""
    aimed = records if Variant.parse(variant).aim else ()
    return {record.source: record.extra["target"] for record in aimed if record.extra.get("target") is not None}
