"""``apibench generate``: from a clean image set to an adversarial one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apibench._torch import torch
from apibench.attacks.catalogue import LINF
from apibench.attacks.loop import Attacked, AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.classifiers import canonical, check_all, load_all
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, Pixels, SetWriter
from apibench.pixels import LEVELS, sources_sha256, to_pixels, to_tensor
from apibench.progress import Progress


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
    shard: Shard | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> Generated:
    """Attack every image of a clean set; what is already in ``out`` stays untouched.

    Raises ApibenchError where ``images`` is not clean, a surrogate cannot be loaded, or ``out`` holds another recipe.
    """
    records = images.records[:limit]
    if any(record.variant != "clean" for record in records):
        raise ApibenchError(f"{images.folder}: only clean images are attacked; this set is {records[0].variant!r}")
    check_all(surrogates)
    names = [canonical(name) for name in surrogates]
    recipe = {
        "stage": "generate",
        "attack": settings.recipe(),
        "surrogates": names,
        "images": len(records),
        "images_sha256": sources_sha256(records),
    }
    writer = SetWriter(out, recipe)
    mine = (shard or Shard()).of(records)
    todo = [record for record in mine if writer.done(record.id) is None]
    failed: dict[str, str] = {}
    if todo:
        ensemble = Surrogates(load_all(surrogates, device))
        about = machine(device)
        for record in Progress(todo, f"attack {settings.variant}", unit="image"):
            try:
                clean = images.read_pixels(record)
            except ApibenchError as error:
                failed[record.id] = str(error)
                continue
            label, label_source = _label(record, clean, ensemble, device)
            found = _attack(clean, label, record.pixels_sha256, ensemble, settings, device)
            adversarial = to_pixels(found.images)
            noise = adversarial.astype(np.int16) - clean
            _check_bound(record, noise, settings)
            writer.write(
                record.id,
                adversarial,
                variant=settings.variant,
                source=record.pixels_sha256,
                label=label,
                label_source=label_source,
                settings={"attack": settings.recipe(), "surrogates": names},
                extra={"linf": int(np.abs(noise).max()), "l2": round(float(np.linalg.norm(noise / LEVELS)), 6)},
                **about,
            )
    if len(failed) == len(records):
        raise ApibenchError(
            f"{images.folder}: not one of its images can be read; the first:\n{next(iter(failed.values()))}"
        )
    return Generated(
        writer.finish(record.id for record in records if record.id not in failed),
        made=len(todo) - len(failed),
        kept=len(mine) - len(todo),
        failed=tuple(failed.items()),
    )


def _attack(
    clean: Pixels, label: int, identity: str, ensemble: Surrogates, settings: AttackSettings, device: str
) -> Attacked:
    """Attack one image, (H, W, 3) uint8, alone: on a CPU batching gains nothing, and the bytes then depend on nothing else."""
    x = to_tensor(clean).to(device)
    target = torch.tensor([label], device=device)
    return attack(x, target, ensemble, settings, [generator(settings.seed, identity)])


def _check_bound(record: ImageRecord, noise: npt.NDArray[np.int16], settings: AttackSettings) -> None:
    """On the pixels of the file, in whole numbers."""
    if settings.norm == LINF:
        inside = int(np.abs(noise).max()) <= settings.epsilon
    else:
        inside = int((noise.astype(np.int64) ** 2).sum()) <= (settings.epsilon * LEVELS) ** 2 + 1e-6
    if not inside:
        raise AssertionError(f"{record.id}: the bound does not hold")


def _label(record: ImageRecord, clean: Pixels, ensemble: Surrogates, device: str) -> tuple[int, str]:
    """The class to move away from: the given one, else the ensemble's own clean prediction."""
    if record.label is not None:
        return record.label, record.label_source or "given"
    with torch.no_grad():
        return int(ensemble(to_tensor(clean).to(device)).argmax()), "predicted"
