"""``apibench generate``: from a clean image set to an adversarial one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apibench import engines
from apibench._torch import torch
from apibench.attacks.attacker import Attacker
from apibench.attacks.catalogue import GIVEN
from apibench.attacks.loop import AttackSettings
from apibench.attacks.targets import read_targets
from apibench.classifiers import canonical, check_all, load_all
from apibench.defaults import RAY
from apibench.engines import HERE, EngineSettings
from apibench.engines.job import Failures
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, Pixels, SetWriter
from apibench.pixels import sources_sha256
from apibench.progress import Progress

GPU_CHUNK = 32  # images at a time where nothing is said


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count`` of a job; which images it takes depends on their order in the set alone."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"shard {self.index}/{self.count}: write i/n with i from 1 to n")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``i/n``. Raises ApibenchError for anything else."""
        index, _, count = text.partition("/")
        try:
            return cls(int(index), int(count))
        except ValueError as error:
            raise ApibenchError(f"--shard {text}: write I/N with I from 1 to N, such as 1/4") from error

    def of(self, records: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
        return records[self.index - 1 :: self.count]


@dataclass(frozen=True)
class Generated:
    """What a run of the stage did. ``images`` is None while other shards have images to make."""

    images: ImageSet | None
    made: int
    kept: int
    failed: tuple[tuple[str, str], ...] = ()  # (file, reason) of images that cannot be read


def generate(
    images: ImageSet,
    out: Path,
    settings: AttackSettings,
    surrogates: Sequence[str],
    *,
    targets: Path | None = None,
    shard: Shard | None = None,
    limit: int | None = None,
    chunk: int | None = None,
    engine: EngineSettings = HERE,
) -> Generated:
    """Attack every image of a clean set; what is already in ``out`` stays untouched.

    ``targets``: where ``settings.target`` is ``given``, the file that says which class for which image (see
    :func:`~apibench.attacks.targets.read_targets`). ``chunk``: images at a time; None: one on a CPU, 32 on a GPU. Raises
    ApibenchError where ``images`` is not clean, a surrogate cannot be loaded, or ``out`` holds another recipe.
    """
    records = images.records[:limit]
    if any(record.variant != "clean" for record in records):
        raise ApibenchError(f"{images.folder}: only clean images are attacked; this set is {records[0].variant!r}")
    check_all(surrogates)
    chunk = chunk or (GPU_CHUNK if engine.device.startswith("cuda") else 1)
    recipe = {
        "stage": "generate",
        "attack": settings.recipe(),
        "surrogates": [canonical(name) for name in surrogates],
        "images": len(records),
        "images_sha256": sources_sha256(records),
        **({"chunk": chunk} if chunk > 1 else {}),  # it decides the last bits
    }
    check_targets(settings, targets)
    given = {} if targets is None else read_targets(targets, records)
    if given:
        recipe["targets_sha256"] = _sha256(given)
    job = GenerateJob(images, records, out, settings, tuple(surrogates), given, recipe, chunk)
    writer = SetWriter(out, recipe)
    mine = (shard or Shard()).of(records)
    todo = [record for record in mine if writer.done(record.id) is None]
    if given and todo:
        job.check_given(todo, "cpu" if engine.name == RAY else engine.device)
    failed = engines.run(job, todo, engine) if todo else []
    if len(failed) == len(records):
        raise ApibenchError(f"{images.folder}: not one of its images can be made; the first:\n{failed[0][1]}")
    left_out = {id for id, _ in failed}
    return Generated(
        writer.finish(record.id for record in records if record.id not in left_out),
        made=len(todo) - len(failed),
        kept=len(mine) - len(todo),
        failed=tuple(failed),
    )


@dataclass(frozen=True)
class GenerateJob:
    """What a worker has to know to attack images of a set and write them into another. ``records``: all of the set."""

    images: ImageSet
    records: Sequence[ImageRecord]
    out: Path
    settings: AttackSettings
    surrogates: tuple[str, ...]
    given: Mapping[str, int]
    recipe: Mapping[str, Any]
    chunk: int

    @property
    def title(self) -> str:
        return f"attack {self.settings.variant}"

    def begin(self, device: str) -> GenerateWorker:
        self.images.check_folder()
        if [canonical(name) for name in self.surrogates] != self.recipe["surrogates"]:
            raise ApibenchError("a surrogate's weights are not those that the command was started with")
        return GenerateWorker(self, self.attacker(device), SetWriter(self.out, self.recipe), machine(device))

    def attacker(self, device: str) -> Attacker:
        # Which algorithm a GPU's library picks would otherwise differ from run to run, and the last bits with it.
        torch.backends.cudnn.deterministic = True
        surrogates = load_all(self.surrogates, device)
        return Attacker(self.images, self.records, self.settings, surrogates, self.given, device, self.chunk)

    def check_given(self, records: Sequence[ImageRecord], device: str) -> None:
        """Before the first image is made: another file of targets is another recipe. Raises ApibenchError."""
        attacker = self.attacker(device)
        for record in Progress(records, "check targets", unit="image"):
            try:
                clean = self.images.read_pixels(record)
            except ApibenchError:
                continue  # it is reported when its own turn comes
            attacker.check_given(record, clean)


@dataclass(frozen=True)
class GenerateWorker:
    """A :class:`~apibench.engines.job.Worker`. ``about``: what it computes with."""

    job: GenerateJob
    attacker: Attacker
    writer: SetWriter
    about: Mapping[str, Any]

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        clean: dict[str, Pixels] = {}
        failed: Failures = []
        for record in records:
            try:
                clean[record.id] = self.job.images.read_pixels(record)
            except ApibenchError as error:
                failed.append((record.id, str(error)))
        readable = [record for record in records if record.id in clean]
        made = self.attacker.attack(readable, list(clean.values())) if readable else []
        for record, image in zip(readable, made, strict=True):
            self.writer.write(
                record.id,
                image.pixels,
                variant=self.job.settings.variant,
                source=record.pixels_sha256,
                label=image.label,
                label_source=image.label_source,
                settings={"attack": self.job.settings.recipe(), "surrogates": self.job.recipe["surrogates"]},
                extra=image.extra,
                **self.about,
            )
        return failed


def check_targets(settings: AttackSettings, targets: Path | None, aim: str = "target", file: str = "targets") -> None:
    """Raises ApibenchError where a file of targets is missing, or there for nothing. ``aim``, ``file``: what they are called."""
    if settings.target == GIVEN and targets is None:
        raise ApibenchError(f"{aim} {GIVEN}: give {file}, a CSV with the columns 'file' and 'target'")
    if settings.target != GIVEN and targets is not None:
        raise ApibenchError(f"{file} {targets}: the attack has no use for it; give {aim} {GIVEN}")


def _sha256(targets: Mapping[str, int]) -> str:
    return hashlib.sha256("\n".join(f"{id}\t{targets[id]}" for id in sorted(targets)).encode()).hexdigest()
