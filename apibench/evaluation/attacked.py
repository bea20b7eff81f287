"""The adversarial image sets of a local evaluation: which there are, and how each is made, resumed and shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apibench._torch import torch
from apibench.attacks.loop import AttackSettings
from apibench.attacks.stage import Shard, generate
from apibench.engines import EngineSettings
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.evaluation.aware import Guarded
from apibench.evaluation.cells import slug
from apibench.evaluation.library import LibraryAttack, attack_pixels, not_installed
from apibench.evaluation.measure import Classifiers, Failed, describe
from apibench.evaluation.protocol import Aware, Library, Protocol
from apibench.imageset import ImageRecord, ImageSet, Pixels, SetWriter
from apibench.photographs import read_labels
from apibench.pixels import sources_sha256
from apibench.progress import Progress
from apibench.purifiers.contract import Purifier


@dataclass(frozen=True)
class Transfer:
    """A set made on surrogates; every classifier is asked about it."""

    settings: AttackSettings
    surrogates: tuple[str, ...]
    classifiers: tuple[str, ...]
    targets: Path | None = None

    @property
    def variant(self) -> str:
        return self.settings.variant

    @property
    def epsilon(self) -> float:
        return float(self.settings.epsilon)

    @property
    def folder(self) -> str:
        return slug(self.variant)


@dataclass(frozen=True)
class OnOne:
    """A set made on one classifier, or on it behind ``purifier``; only that classifier is asked about it.

    ``base``: another set; images that it fooled are taken from there.
    """

    attack: LibraryAttack
    classifier: str
    limit: int | None = None
    base: OnOne | None = None
    purifier: Purifier | None = None
    family: str = ""
    eot: int = 1

    @property
    def variant(self) -> str:
        return self.attack.variant

    @property
    def epsilon(self) -> float | None:
        return self.attack.epsilon

    @property
    def folder(self) -> str:
        through = "" if self.purifier is None else f"--through-{slug(self.purifier.name)}-{self.purifier.iterations}"
        return f"{slug(self.variant)}--on-{slug(self.classifier)}{through}"

    @property
    def classifiers(self) -> tuple[str, ...]:
        return (self.classifier,)

    def settings(self, seed: int) -> dict[str, Any]:
        """Everything that decides an image's noise; ``seed``: of random purifiers."""
        settings: dict[str, Any] = {"attack": asdict(self.attack), "classifier": self.classifier}
        if self.base is not None:
            settings["only_where_right"] = {"set": self.base.folder, **self.base.settings(seed)}
        if self.purifier is not None:
            settings["through"] = {**describe(self.purifier), "passes": self.purifier.iterations}
            if self.purifier.random:
                settings["through"] |= {"eot": self.eot, "seed": seed}
        return settings


Planned = Transfer | OnOne


def transfers(protocol: Protocol, classifiers: Classifiers) -> list[Planned]:
    found: list[Planned] = []
    for section in protocol.transfer:
        for epsilon in section.epsilon:
            settings, surrogates = section.settings(epsilon), tuple(section.surrogates)
            found.append(Transfer(settings, surrogates, classifiers.names, section.targets))
    return found


def blind(protocol: Protocol, canonical: dict[str, str]) -> list[OnOne]:
    """The sets of the recipe's library attacks. ``canonical``: the names results carry, by those of the recipe."""
    found: list[OnOne] = []
    by_name: dict[tuple[str, float | None, str], OnOne] = {}
    for section in protocol.attack:
        for epsilon in section.epsilons:
            attack = _attack(section, section.name, epsilon)
            for name in section.chosen(protocol.classifiers):
                base = by_name[section.only_where, epsilon, name] if section.only_where else None
                one = OnOne(attack, canonical[name], section.limit, base)
                by_name[section.name, epsilon, name] = one
                found.append(one)
    return found


def aware(protocol: Protocol, canonical: dict[str, str], purifiers: dict[tuple[str, int], Purifier]) -> list[OnOne]:
    """The sets of purifier-aware attacks. ``purifiers``: by name and passes."""
    found: list[OnOne] = []
    for section in protocol.aware:
        for epsilon in section.epsilon:
            attack = _attack(section, section.attack, epsilon)
            for defence in section.purify:
                for passes in defence.iterations:
                    purifier = purifiers[defence.purifier, passes]
                    if purifier.random and attack.info.asks:
                        raise ApibenchError(
                            f"recipe: aware: {attack.name} goes by the defended system's answers, and could try the draws of "
                            f"{purifier.name} until one suits it; attack that by pgd-adaptive with an eot"
                        )
                    for name in section.chosen(protocol.classifiers):
                        one = OnOne(
                            attack,
                            canonical[name],
                            section.limit,
                            purifier=purifier,
                            family=defence.family or family(purifier.name),
                            eot=section.eot,
                        )
                        found.append(one)
    return found


def family(purifier: str) -> str:
    """Which purifiers are settings of one method: ``jpeg:50`` and ``jpeg:75``; of a chain, its parts' kinds."""
    return "+".join(part.partition(":")[0].partition("/")[0] for part in purifier.split("+"))


def _attack(section: Library | Aware, name: str, epsilon: float | None) -> LibraryAttack:
    return LibraryAttack(name, epsilon, section.steps, section.seed)


@dataclass(frozen=True)
class Made:
    """``images`` is None while other shards have images left to make."""

    images: ImageSet | None
    made: int
    kept: int
    failed: Failed


def make(planned: Planned, clean: ImageSet, out: Path, classifiers: Classifiers, shard: Shard, seed: int = 0) -> Made:
    """Make a set below ``out/sets``, or go on with it. Raises ApibenchError where it holds another recipe's images."""
    folder = out / "sets" / planned.folder
    if isinstance(planned, Transfer):
        done = generate(
            clean,
            folder,
            planned.settings,
            planned.surrogates,
            targets=planned.targets,
            shard=shard,
            engine=EngineSettings(device=classifiers.device),
        )
        return Made(done.images, done.made, done.kept, list(done.failed))
    return _Maker(planned, clean, folder, classifiers, seed).make(shard)


class _Maker:
    """Attacks the images of one set, one after the other."""

    def __init__(self, planned: OnOne, clean: ImageSet, folder: Path, classifiers: Classifiers, seed: int) -> None:
        self.planned, self.clean, self.classifiers, self.seed = planned, clean, classifiers, seed
        self.records = clean.records[: planned.limit]
        self.base = None if planned.base is None else folder.parent / planned.base.folder
        self.settings = planned.settings(seed)
        recipe = {"images": len(self.records), "images_sha256": sources_sha256(self.records), **self.settings}
        self.writer = SetWriter(folder, {"stage": "evaluate", **recipe})

    def make(self, shard: Shard) -> Made:
        mine = shard.of(self.records)
        todo = [record for record in mine if self.writer.done(record.id) is None]
        failed: Failed = []
        about = machine(self.classifiers.device)
        about["versions"] |= {library: version(library) for library in self._libraries()}
        title = f"attack {self.planned.variant}" + (" (aware)" if self.planned.purifier is not None else "")
        for record in Progress(todo, title, unit="image"):
            try:
                pixels, extra = self._attacked(record)
            except _UnreadableError as error:
                failed.append((record.id, str(error)))
                continue
            self.writer.write(
                record.id,
                pixels,
                variant=self.planned.variant,
                source=record.pixels_sha256,
                label=record.label,
                label_source=record.label_source,
                settings=self.settings,
                extra=extra,
                **about,
            )
        if len(failed) == len(self.records):
            raise ApibenchError(f"{self.clean.folder}: not one of its images can be read; the first:\n{failed[0][1]}")
        lost = {id for id, _ in failed}
        images = self.writer.finish(record.id for record in self.records if record.id not in lost)
        return Made(images, len(todo) - len(failed), len(mine) - len(todo), failed)

    def _libraries(self) -> list[str]:
        """Distributions, beside those of every record, whose version decides the images."""
        package, purifier = self.planned.attack.info.package, self.planned.purifier
        return [*([package] if package else []), *(purifier.libraries if purifier is not None else ())]

    def _attacked(self, record: ImageRecord) -> tuple[Pixels, dict[str, Any]]:
        """The adversarial pixels of one image, and what was measured on the way."""
        assert record.label is not None, "sets without labels are refused before anything is attacked"
        if self.base is not None:
            before = _record(self.base, record.id)
            if before.extra["success"]:
                # The stronger attack would begin with this one: what is fooled already stays as it is.
                pixels = _read(ImageSet(self.base, []), before)
                return pixels, {**before.extra, "queries": 0, "gradients": 0, "taken_from": self.base.name}
        clean = _read(self.clean, record)
        result = attack_pixels(clean, record.label, record.pixels_sha256, self._model, self.planned.attack)
        return result.pixels, {
            "linf": int(result.linf),
            "l2": round(float(result.l2), 6),
            "queries": int(result.queries),
            "gradients": int(result.gradients),
            "success": bool(result.success),
            **({} if result.target is None else {"target": int(result.target)}),
        }

    @cached_property
    def _model(self) -> torch.nn.Module:
        """What is attacked: the classifier, or it behind the purifier."""
        model = self.classifiers[self.planned.classifier]
        if self.planned.purifier is None:
            return model
        return Guarded(model, self.planned.purifier.to(self.classifiers.device), self.planned.eot, self.seed)


class _UnreadableError(Exception):
    """An image that cannot be read: it is left out, and the others go on."""


def _read(images: ImageSet, record: ImageRecord) -> Pixels:
    try:
        return images.read_pixels(record)
    except ApibenchError as error:
        raise _UnreadableError(str(error)) from error


def _record(folder: Path, id: str) -> ImageRecord:
    """An image's record in a set that may not be finished."""
    path = folder / f"{id}.json"
    try:
        return ImageRecord.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise _UnreadableError(f"{path}: is not there or not a record; it should be made before this one") from error


def check(planned: Sequence[Planned]) -> None:
    """Raises ApibenchError where two sets would go to one folder, or a library or file of targets that makes one is not there."""
    for targets in [one.targets for one in planned if isinstance(one, Transfer) and one.targets is not None]:
        read_labels(targets, "target")
    for package in [one.attack.info.package for one in planned if isinstance(one, OnOne)]:
        if package is not None and find_spec(package) is None:
            raise not_installed(package)
    folders = [one.folder for one in planned]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ApibenchError(f"recipe: the attack of sets/{folder} stands in it twice")
