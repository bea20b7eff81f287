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
from apibench.errors import ApibenchError, ExitCode
from apibench.evaluation import attacked
from apibench.evaluation.attacked import OnOne, Planned
from apibench.evaluation.cells import CLEAN, RUN
from apibench.evaluation.measure import Classifiers, Failed, Unit, labelled, measure, missing
from apibench.evaluation.protocol import Protocol
from apibench.imageset import ImageSet, write_atomically
from apibench.purifiers.contract import Purifier

Say = Callable[[str], None]


@dataclass
class Evaluated:
    """What a run did. ``waiting``: other shards have work left, so that there is no table yet."""

    folder: Path
    waiting: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.SOME_FAILED if self.problems else ExitCode.DONE


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
        self.blind = [*attacked.transfers(protocol, self.classifiers), *attacked.blind(protocol, canonical)]
        self.aware = attacked.aware(protocol, canonical, self.purifiers)
        attacked.names([*self.blind, *self.aware])
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
        seen: set[str] = set()
        for defence in self.protocol.defences:
            for passes in defence.iterations:
                purifier = purifiers.create(defence.purifier, passes)
                made[defence.purifier, passes] = purifier
            if purifier.name in seen:
                raise ApibenchError(f"recipe: purify: {purifier.name} stands in it under two names")
            seen.add(purifier.name)
        return made

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
            name = defence.family or attacked.family(purifier.name)
            passes = tuple(defence.iterations)
            units.append(Unit(images, variant, asked, purifier, passes, name, epsilon, seed=self.protocol.seed))
        return units


def evaluate(evaluation: Evaluation, say: Say, *, shard: Shard | None = None) -> Evaluated:
    """Run a checked recipe below its folder: ``sets/``, ``cells/`` and, while a unit is measured, ``partial/``.

    Of several processes, each with its ``shard`` of the same recipe, each makes its share of the images and measures its share
    of the units; the one that finds everything done says so by ``waiting`` being False.
    """
    protocol, part = evaluation.protocol, shard or Shard()
    out = protocol.folder
    result = Evaluated(out)
    clean = _import(protocol, say, result)
    _write_run(protocol)
    units = evaluation.units(clean)
    for planned in [*evaluation.blind, *evaluation.aware]:
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
    result.waiting = part.count > 1 and any(missing(unit, out) for unit in units)
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


def _write_run(protocol: Protocol) -> None:
    content = {"name": protocol.name, "reference": protocol.reference, "notes": protocol.notes}
    write_atomically(protocol.folder / RUN, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
