"""``apibench purify``: from any image set to a purified one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from apibench import engines
from apibench._torch import torch
from apibench.engines import HERE, EngineSettings
from apibench.engines.job import Failures
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, SetWriter
from apibench.pixels import sources_sha256, to_pixels, to_tensor
from apibench.purifiers.contract import Purifier


@dataclass(frozen=True)
class Purified:
    """What a run of the stage did."""

    images: ImageSet
    made: int
    kept: int
    failed: tuple[tuple[str, str], ...] = ()  # (file, reason) of images that cannot be read


def purify(
    images: ImageSet, out: Path, purifier: Purifier, *, seed: int = 0, engine: EngineSettings = HERE
) -> Purified:
    """Purify every image of a set, one at a time (that fits the cache); what is already in ``out`` stays untouched.

    ``seed``: with each image's identity it decides what a random purifier draws; the others do without.
    """
    settings = purifier.settings()
    if purifier.random:
        settings["seed"] = seed
    recipe = {
        "stage": "purify",
        **settings,
        "images": len(images.records),
        "images_sha256": sources_sha256(images.records),
    }
    writer = SetWriter(out, recipe)
    todo = [record for record in images.records if writer.done(record.id) is None]
    job = PurifyJob(images.folder, out, purifier, settings, seed, recipe)
    failed = engines.run(job, todo, engine) if todo else []
    if len(failed) == len(images.records):
        raise ApibenchError(f"{images.folder}: not one of its images can be made; the first:\n{failed[0][1]}")
    left_out = {id for id, _ in failed}
    finished = writer.finish(record.id for record in images.records if record.id not in left_out)
    if finished is None:
        raise ApibenchError(f"{out}: images that were made are not there any more; run the same command again")
    kept = len(images.records) - len(todo)
    return Purified(finished, made=len(todo) - len(failed), kept=kept, failed=tuple(failed))


@dataclass(frozen=True)
class PurifyJob:
    """What a worker has to know to purify images of a set and write them into another."""

    folder: Path
    out: Path
    purifier: Purifier
    settings: Mapping[str, Any]
    seed: int
    recipe: Mapping[str, Any]
    chunk: int = 1

    @property
    def title(self) -> str:
        return f"purify {self.purifier.variant}"

    def begin(self, device: str) -> PurifyWorker:
        ImageSet(self.folder, []).check_folder()
        torch.backends.cudnn.deterministic = True  # see GenerateJob
        about = machine(device)
        about["versions"] |= {library: version(library) for library in self.purifier.libraries}
        writer = SetWriter(self.out, self.recipe)
        purifier = deepcopy(self.purifier).to(device)  # the caller's stays where it is
        return PurifyWorker(self, ImageSet(self.folder, []), purifier, device, writer, about)


@dataclass(frozen=True)
class PurifyWorker:
    """A :class:`~apibench.engines.job.Worker`. ``about``: what it computes with."""

    job: PurifyJob
    images: ImageSet
    purifier: Purifier
    device: str
    writer: SetWriter
    about: Mapping[str, Any]

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        failed: Failures = []
        for record in records:
            try:
                before = self.images.read_pixels(record)
            except ApibenchError as error:
                failed.append((record.id, str(error)))
                continue
            self.purifier.seed(self.job.seed, record.pixels_sha256)
            with torch.inference_mode():
                after = to_pixels(self.purifier(to_tensor(before).to(self.device)))
            self.writer.write(
                record.id,
                after,
                variant=f"{record.variant}+{self.purifier.variant}",
                source=record.source,
                label=record.label,
                label_source=record.label_source,
                settings={**record.settings, "purify": [*_purified_with(record), dict(self.job.settings)]},
                extra=_of_the_attack(record)
                | {"mean_change": round(float(np.abs(after.astype(np.int16) - before).mean()), 4)},
                **self.about,
            )
        return failed


def _purified_with(record: ImageRecord) -> list[object]:
    """What an image was purified with before, so that purifying it again does not lose it."""
    before = record.settings.get("purify", [])
    return before if isinstance(before, list) else [before]


def _of_the_attack(record: ImageRecord) -> dict[str, object]:
    """What stays true of an image once it is purified: the class it was moved towards, and what that took."""
    return {key: record.extra[key] for key in ("target", "gradients") if key in record.extra}
