"""The measuring unit of evaluation and tuning: one image set behind one purifier, every classifier and pass count at once.

Each image is purified once (a pass count goes on from the one before), rounded to the 8 bits that would be sent, and shown to
all classifiers. What is known is written down image by image, so that a unit that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apibench import classifiers as library
from apibench import text
from apibench._torch import torch
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.evaluation import cells
from apibench.evaluation.cells import NONE, Cell, Key, Verdict
from apibench.imageset import ImageRecord, ImageSet, Pixels, write_atomically
from apibench.pixels import sources_sha256, to_pixels, to_tensor
from apibench.progress import Progress
from apibench.purifiers.contract import Purifier

Failed = list[tuple[str, str]]  # (image id, reason)
Predicted = dict[int, dict[str, int]]  # passes -> classifier -> class


class Classifiers:
    """Classifiers by the names that results carry, each loaded when it is first asked."""

    def __init__(self, names: Sequence[str], device: str = "cpu") -> None:
        """Raises ApibenchError where there is no such classifier, or one is named twice."""
        library.check_all(names)
        self.device = device
        self._given = {library.canonical(name): name for name in names}
        self._loaded: dict[str, torch.nn.Module] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._given)

    def __getitem__(self, name: str) -> torch.nn.Module:
        if name not in self._loaded:
            self._loaded[name] = library.load(self._given[name], self.device)
        return self._loaded[name]


@dataclass(frozen=True)
class Unit:
    """``images`` (all of one attack) behind ``purifier`` (None: as they are), each pass count and each classifier a cell.

    ``seed`` and an image's identity decide the draws of a random purifier.
    """

    images: ImageSet
    attack: str
    classifiers: tuple[str, ...]
    purifier: Purifier | None = None
    passes: tuple[int, ...] = (0,)
    family: str = NONE
    epsilon: float | None = None
    aware: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        return NONE if self.purifier is None else self.purifier.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the results, but for classifier and passes, which are in a cell's key."""
        records = self.images.records
        settings: dict[str, Any] = {
            "images": len(records),
            "images_sha256": sources_sha256(records),
            "set": records[0].settings,
        }
        if self.purifier is not None:
            settings["purifier"] = describe(self.purifier)
            if self.purifier.random:
                settings["seed"] = self.seed
        return settings

    def key(self, classifier: str, passes: int) -> Key:
        return Key(classifier, self.attack, self.name, passes, self.aware)

    def cells(self) -> Iterator[Key]:
        return (self.key(classifier, passes) for passes in self.passes for classifier in self.classifiers)


def describe(purifier: Purifier) -> dict[str, Any]:
    """What decides a purifier's result, but for the number of passes."""
    settings: dict[str, Any] = purifier.settings()
    return {key: value for key, value in settings.items() if key != "iterations"}


def missing(unit: Unit, out: Path) -> list[Key]:
    """The cells of a unit to measure: those that are not there, and those that lack an image, which may be back.

    Raises ApibenchError where one was measured by other settings.
    """
    found = ((key, cells.present(out / "cells", key, unit.settings, unit.family)) for key in unit.cells())
    return [key for key, cell in found if cell is None or cell.failed]


def unmeasured(unit: Unit, out: Path) -> bool:
    """Whether a cell of a unit is not there at all. One that lacks what cannot be read is as good as done."""
    return any(cells.present(out / "cells", key, unit.settings, unit.family) is None for key in unit.cells())


def measure(unit: Unit, out: Path, classifiers: Classifiers) -> Failed:
    """Measure what is missing of a unit into ``out/cells``; the images that could not be read, with the reason.

    Raises ApibenchError where not one image can be read.
    """
    keys = missing(unit, out)
    if not keys:
        return []
    log = _Log(out / "partial" / f"{_unit_slug(unit)}.jsonl", unit.settings)
    failed: Failed = []
    for record in Progress(log.todo(unit.images.records, keys), _title(unit), unit="image"):
        begun = time.monotonic()
        try:
            pixels = unit.images.read_pixels(record)
        except ApibenchError as error:
            failed.append((record.id, str(error)))
            continue
        predicted = _ask(unit, pixels, record, keys, classifiers)
        log.add(record.id, predicted, time.monotonic() - begun)
    if len(failed) == len(unit.images.records):
        raise ApibenchError(f"{unit.images.folder}: not one of its images can be read; the first:\n{failed[0][1]}")
    _write_cells(unit, out, keys, log, [id for id, _ in failed], classifiers.device)
    if not failed:
        log.path.unlink(missing_ok=True)
    return failed


def _ask(unit: Unit, pixels: Pixels, record: ImageRecord, keys: Sequence[Key], classifiers: Classifiers) -> Predicted:
    """The classes that the classifiers see in one image after each number of passes."""
    x = to_tensor(pixels).to(classifiers.device)
    wanted: dict[int, list[str]] = {}
    for key in keys:
        wanted.setdefault(key.passes, []).append(key.classifier)
    predicted: Predicted = {}
    with torch.inference_mode():
        for passes, seen in _purified(unit, x, record, sorted(wanted)):
            # What a classifier is sent is an 8-bit image.
            sent = to_tensor(to_pixels(seen)).to(classifiers.device)
            predicted[passes] = {name: int(classifiers[name](sent).argmax()) for name in wanted[passes]}
    return predicted


def _purified(
    unit: Unit, x: torch.Tensor, record: ImageRecord, passes: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    if unit.purifier is None:
        return iter([(0, x)])
    purifier = unit.purifier.to(x.device)
    # By the identity of what the purifier is given: a defender knows no other.
    purifier.seed(unit.seed, record.pixels_sha256)
    return purifier.passes(x, passes)


def _write_cells(unit: Unit, out: Path, keys: Sequence[Key], log: _Log, failed: list[str], device: str) -> None:
    records = [record for record in unit.images.records if record.id in log.predicted]
    about = machine(device)
    for distribution in () if unit.purifier is None else unit.purifier.libraries:
        about["versions"][distribution] = version(distribution)
    for key in keys:
        said = {record.id: log.predicted[record.id][key.passes][key.classifier] for record in records}
        verdicts = [Verdict(r.id, r.source, _label(r), said[r.id]) for r in records]
        cell = Cell(
            key=key,
            family=unit.family,
            epsilon=unit.epsilon,
            images=tuple(verdicts),
            settings=unit.settings,
            failed=tuple(failed),
            seconds=round(log.seconds, 3),
            **about,
        )
        cells.write(out / "cells", cell)


def _label(record: ImageRecord) -> int:
    assert record.label is not None, "sets without labels are refused before anything is measured"
    return record.label


def _title(unit: Unit) -> str:
    return text.plain(f"{'aware ' if unit.aware else ''}{unit.attack} | {unit.name}")[:60]


def _unit_slug(unit: Unit) -> str:
    # By all that decides the answers: sets of the same folder's name, or of one attack, must not share their progress. Not by
    # classifiers and passes: one that is added to the recipe meanwhile finds what is already known.
    knows = "aware" if unit.aware else "blind"
    decides = json.dumps([unit.attack, unit.name, unit.settings], sort_keys=True)
    digest = hashlib.sha256(decides.encode()).hexdigest()[:12]
    return f"{cells.slug(unit.attack)}--{cells.slug(unit.name)}--{knows}-{digest}"


@dataclass
class _Log:
    """What is known of a unit so far: a line an image, appended as it comes. A line cut short by a kill is left out."""

    path: Path
    settings: Mapping[str, Any]
    predicted: dict[str, Predicted] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        head = json.dumps({"settings": self.settings}, sort_keys=True)
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.is_file() else []
        kept = [head]
        if lines and lines[0] == head:
            for line in lines[1:]:
                if self._take(line):
                    kept.append(line)
        # Written anew without what a kill left half done, which the next line would be glued to.
        write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())

    def _take(self, line: str) -> bool:
        try:
            content = json.loads(line)
            predicted = {int(passes): dict(said) for passes, said in content["predicted"].items()}
            self.seconds += content["seconds"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        self._merge(content["id"], predicted)
        return True

    def _merge(self, id: str, predicted: Predicted) -> None:
        known = self.predicted.setdefault(id, {})
        for passes, said in predicted.items():
            known.setdefault(passes, {}).update(said)

    def todo(self, records: Sequence[ImageRecord], keys: Sequence[Key]) -> list[ImageRecord]:
        def known(id: str) -> bool:
            said = self.predicted.get(id, {})
            return all(key.classifier in said.get(key.passes, {}) for key in keys)

        waiting = [record for record in records if not known(record.id)]
        for record in waiting:
            # Half of what is wanted now (a classifier was added meanwhile) would make no whole cell.
            self.predicted.pop(record.id, None)
        return waiting

    def add(self, id: str, predicted: Predicted, seconds: float) -> None:
        self._merge(id, predicted)
        self.seconds += seconds
        line = json.dumps({"id": id, "predicted": predicted, "seconds": round(seconds, 3)}) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())


def labelled(images: ImageSet) -> tuple[ImageSet, Failed]:
    """The images that have a class to be right about, and the others. Raises ApibenchError where none has."""
    kept = [record for record in images.records if record.label is not None and record.label_source != "predicted"]
    if not kept:
        raise ApibenchError(
            f"{images.folder}: none of its images has a label, and accuracy needs one: give a labels.csv with the columns "
            "file,label (ImageNet class 0-999)"
        )
    named = {record.id for record in kept}
    return ImageSet(images.folder, kept), [
        (record.id, f"{record.file}: has no label, and accuracy needs one")
        for record in images.records
        if record.id not in named
    ]
