"""``apibench evaluate``: classifiers × attacks × purifiers on this machine, to one result file a cell.

Images are imported, adversarial sets are made, and each set behind each purifier is measured; every step picks up what is
already there, and is written so that it can be killed at any point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from apibench import classifiers as library
from apibench import photographs, purifiers, sources
from apibench.attacks.stage import Shard
from apibench.errors import ApibenchError
from apibench.evaluation import attacked
from apibench.evaluation.attacked import OnOne, Planned
from apibench.evaluation.cells import CLEAN, RUN
from apibench.evaluation.measure import Classifiers, Failed, Unit, describe, labelled, measure, missing, unmeasured
from apibench.evaluation.protocol import Defence, Protocol
from apibench.imageset import ImageSet, write_atomically
from apibench.purifiers.chain import Chain
from apibench.purifiers.contract import Purifier
from apibench.purifiers.registry import find

Say = Callable[[str], None]


@dataclass
class Evaluated:
    """What a run did. ``waiting``: other shards have work left, so that there is no table yet."""

    folder: Path
    waiting: bool = False
    problems: list[str] = field(default_factory=list)


class Evaluation:
    """A checked recipe, with its names looked up. Raises ApibenchError where something in it would fail later.

    ``purifiers``: by the recipe's name and the number of passes; the same name has the same weights.
    """

    def __init__(self, protocol: Protocol, device: str = "cpu") -> None:
        self.protocol = protocol
        self.classifiers = Classifiers(protocol.classifiers, device)
        canonical = {name: library.canonical(name) for name in protocol.classifiers}
        self._check_surrogates()
        self.purifiers = self._purifiers()
        self._check_reference()
        self.planned: list[Planned] = [
            *attacked.transfers(protocol, self.classifiers),
            *attacked.blind(protocol, canonical),
            *attacked.aware(protocol, canonical, self.purifiers),
        ]
        attacked.check(self.planned)
        if not ImageSet.is_set(Path(protocol.images.source)):
            photographs.find(protocol.images.source, protocol.images.labels)

    def _check_surrogates(self) -> None:
        for section in self.protocol.transfer:
            library.check_all(section.surrogates)
            for name in section.surrogates:
                if library.canonical(name) in self.classifiers.names:
                    raise ApibenchError(
                        f"recipe: {name} is a surrogate of the transfer attack and one of the classifiers too; "
                        "transfer to it would say nothing"
                    )

    def _purifiers(self) -> dict[tuple[str, int], Purifier]:
        made: dict[tuple[str, int], Purifier] = {}
        seen: dict[object, str] = {}
        for defence in self.protocol.defences:
            for passes in defence.iterations:
                purifier = purifiers.create(defence.purifier, passes)
                if purifier.iterations != passes:
                    raise ApibenchError(
                        f"recipe: purify: {defence.purifier}: leave the passes out of its name, and write iterations = "
                        f"[{purifier.iterations}] (only the parts of a chain say their own)"
                    )
                made[defence.purifier, passes] = purifier
            other = seen.setdefault(_identity(purifier), defence.purifier)
            if other != defence.purifier:
                raise ApibenchError(f"recipe: purify: {defence.purifier} and {other} are one purifier under two names")
        return made

    def _family(self, defence: Defence) -> str:
        return defence.family or attacked.family(self.purifiers[defence.purifier, defence.iterations[0]].name)

    def _check_reference(self) -> None:
        """That the family which the recipe names is one of its own; the default need not be."""
        families = sorted({self._family(defence) for defence in self.protocol.defences})
        reference = self.protocol.reference
        if families and "reference" in self.protocol.model_fields_set and reference not in families:
            raise ApibenchError(
                f"recipe: reference: {reference} is the family of none of its purifiers; there are {', '.join(families)}"
            )

    def units(self, images: ImageSet, planned: Planned | None = None) -> list[Unit]:
        """The measuring units of a set: without a purifier and behind each; of an aware attack, the one it went through."""
        variant = CLEAN if planned is None else planned.variant
        epsilon = None if planned is None else planned.epsilon
        asked = self.classifiers.names if planned is None else planned.classifiers
        if isinstance(planned, OnOne) and planned.purifier is not None:
            behind, seed = planned.purifier, self.protocol.seed
            once = (behind.iterations,)
            return [Unit(images, variant, asked, behind, once, planned.family, epsilon, aware=True, seed=seed)]
        units = [Unit(images, variant, asked, epsilon=epsilon)]
        for defence in self.protocol.defences:
            purifier = self.purifiers[defence.purifier, defence.iterations[0]]
            passes, family = tuple(defence.iterations), self._family(defence)
            units.append(Unit(images, variant, asked, purifier, passes, family, epsilon, seed=self.protocol.seed))
        return units

    def files(self, images: ImageSet) -> list[str]:
        """The names of all result files; of the images nothing is in them."""
        units = [unit for planned in (None, *self.planned) for unit in self.units(images, planned)]
        return sorted(key.file for unit in units for key in unit.cells())


def _identity(purifier: Purifier) -> object:
    """What is the same for one purifier under two names, such as ``gaussian`` and ``gaussian:5,1``, but for its passes."""
    if isinstance(purifier, Chain):
        return tuple((_identity(part), part.iterations) for part in purifier.parts)
    settings = describe(purifier)
    kind, _, argument = settings["purifier"].partition(":")
    # Weights are known by what is in them, but the smoothing that goes with them is not hashed.
    values = settings.get("weights_sha256") or argument or find(kind).default
    return kind, values, getattr(purifier, "smoothing", None)


def evaluate(evaluation: Evaluation, say: Say, *, shard: Shard | None = None) -> Evaluated:
    """Run a checked recipe below its folder: ``sets/``, ``cells/`` and, while a unit is measured, ``partial/``.

    Of several processes, each with its ``shard`` of the same recipe, each makes its share of the images and measures its share
    of the units; the one that finds everything done says so by ``waiting`` being False.
    """
    protocol, part = evaluation.protocol, shard or Shard()
    out = protocol.folder
    result = Evaluated(out)
    clean = _import(protocol, say, result)
    _write_run(protocol, evaluation.files(clean))
    units = evaluation.units(clean)
    for planned in evaluation.planned:
        made = attacked.make(planned, clean, out, evaluation.classifiers, part, protocol.seed)
        result.problems += [reason for _, reason in made.failed]
        if made.made:
            say(f"attack: {planned.folder}: {made.made} made, {made.kept} were there")
        if made.images is None:
            result.waiting = True
        else:
            units += evaluation.units(made.images, planned)
    if result.waiting:
        say("other shards have images left to make; when they are done, run this again")
        return result
    _measure(units[part.index - 1 :: part.count], out, evaluation.classifiers, say, result)
    result.waiting = part.count > 1 and any(unmeasured(unit, out) for unit in units)
    if result.waiting:
        say(
            "other shards have sets left to measure; when they are done, 'apibench evaluate --report-only' makes the tables"
        )
    return result


def _measure(units: Sequence[Unit], out: Path, classifiers: Classifiers, say: Say, result: Evaluated) -> None:
    waiting = [unit for unit in units if missing(unit, out)]
    done = len(units) - len(waiting)
    if done:
        say(f"measure: {done} of {len(units)} sets behind a purifier were there")
    for number, unit in zip(count(done + 1), waiting, strict=False):
        failed: Failed = measure(unit, out, classifiers)
        result.problems += [reason for _, reason in failed]
        knows = " (aware)" if unit.aware else ""
        say(f"measure: {number}/{len(units)}: {unit.attack}{knows} behind {unit.name}")


def _import(protocol: Protocol, say: Say, result: Evaluated) -> ImageSet:
    """The clean images that have a label; what could not be read or has none is noted."""
    source = sources.open_source(
        protocol.images.source,
        protocol.folder / "sets" / CLEAN,
        labels=protocol.images.labels,
        max_side=protocol.images.max_side,
        limit=protocol.images.limit,
    )
    result.problems += [reason for _, reason in source.failed]
    images, unlabelled = labelled(ImageSet(source.images.folder, source.images.records[: protocol.images.limit]))
    result.problems += [reason for _, reason in unlabelled]
    if any(record.variant != CLEAN for record in images.records):
        raise ApibenchError(f"{images.folder}: is not a clean image set ({images.records[0].variant})")
    say(f"images: {len(images.records)} photographs with a label")
    return images


def _write_run(protocol: Protocol, files: list[str]) -> None:
    content = {"name": protocol.name, "reference": protocol.reference, "notes": protocol.notes, "cells": files}
    write_atomically(protocol.folder / RUN, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
