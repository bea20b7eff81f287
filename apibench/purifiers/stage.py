"""``apibench purify``: from any image set to a purified one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from apibench._torch import torch
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, SetWriter
from apibench.pixels import sources_sha256, to_pixels, to_tensor
from apibench.progress import Progress
from apibench.purifiers.contract import Purifier


@dataclass(frozen=True)
class Purified:
    """What a run of the stage did."""

    images: ImageSet
    made: int
    kept: int
    failed: tuple[tuple[str, str], ...] = ()  # (file, reason) of images that cannot be read


def purify(images: ImageSet, out: Path, purifier: Purifier, *, device: str = "cpu", seed: int = 0) -> Purified:
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
    failed: dict[str, str] = {}
    purifier = purifier.to(device)
    about = machine(device)
    about["versions"] |= {library: version(library) for library in purifier.libraries}
    for record in Progress(todo, f"purify {purifier.variant}", unit="image"):
        try:
            before = images.read_pixels(record)
        except ApibenchError as error:
            failed[record.id] = str(error)
            continue
        purifier.seed(seed, record.pixels_sha256)
        with torch.inference_mode():
            after = to_pixels(purifier(to_tensor(before).to(device)))
        writer.write(
            record.id,
            after,
            variant=f"{record.variant}+{purifier.variant}",
            source=record.source,
            label=record.label,
            label_source=record.label_source,
            settings={**record.settings, "purify": [*_purified_with(record), settings]},
            extra=_of_the_attack(record)
            | {"mean_change": round(float(np.abs(after.astype(np.int16) - before).mean()), 4)},
            **about,
        )
    if len(failed) == len(images.records):
        raise ApibenchError(
            f"{images.folder}: not one of its images can be read; the first:\n{next(iter(failed.values()))}"
        )
    finished = writer.finish(record.id for record in images.records if record.id not in failed)
    assert finished is not None
    kept = len(images.records) - len(todo)
    return Purified(finished, made=len(todo) - len(failed), kept=kept, failed=tuple(failed.items()))


def _purified_with(record: ImageRecord) -> list[object]:
    """What an image was purified with before, so that purifying it again does not lose it."""
    before = record.settings.get("purify", [])
    return before if isinstance(before, list) else [before]


def _of_the_attack(record: ImageRecord) -> dict[str, object]:
    """What stays true of an image once it is purified: the class it was moved towards, and what that took."""
    return {key: record.extra[key] for key in ("target", "gradients") if key in record.extra}
