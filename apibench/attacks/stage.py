"""``apibench generate``: from a clean image set to an adversarial one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apibench._torch import torch
from apibench.attacks.catalogue import GIVEN, LINF
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.others import OtherImages
from apibench.attacks.surrogates import Surrogates
from apibench.attacks.targets import read_targets, target
from apibench.classifiers import Classifier, canonical, check_all, load_all
from apibench.distortion import Noise, difference, linf, measured, square
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
    targets: Path | None = None,
    shard: Shard | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> Generated:
    """Attack every image of a clean set; what is already in ``out`` stays untouched.

    ``targets``: where ``settings.target`` is ``given``, the file that says which class for which image (see
    :func:`~apibench.attacks.targets.read_targets`). Raises ApibenchError where ``images`` is not clean, a surrogate cannot be
    loaded, or ``out`` holds another recipe.
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
    check_targets(settings, targets)
    given = {} if targets is None else read_targets(targets, records)
    if given:
        recipe["targets_sha256"] = _sha256(given)
    writer = SetWriter(out, recipe)
    mine = (shard or Shard()).of(records)
    todo = [record for record in mine if writer.done(record.id) is None]
    failed: dict[str, str] = {}
    if todo:
        attacker = Attacker(images, records, settings, load_all(surrogates, device), given, device)
        if given:
            attacker.check_given(todo)
        about = machine(device)
        for record in Progress(todo, f"attack {settings.variant}", unit="image"):
            try:
                clean = images.read_pixels(record)
            except ApibenchError as error:
                failed[record.id] = str(error)
                continue
            made = attacker.attack(record, clean)
            writer.write(
                record.id,
                made.pixels,
                variant=settings.variant,
                source=record.pixels_sha256,
                label=made.label,
                label_source=made.label_source,
                settings={"attack": settings.recipe(), "surrogates": names},
                extra=made.extra,
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


@dataclass(frozen=True)
class Adversarial:
    """An attacked image. ``extra``, what was measured, goes into its record.

    ``linf`` (levels of 255), ``l2`` (pixels in [0, 1]) and ``ssim`` of the file against the clean one; ``gradients`` taken of a
    network; ``loss_before`` and ``loss_after``: the cross-entropy, in nats, of the label under the mean of the surrogates' logits
    on the clean and the adversarial file; where the attack is targeted ``target``, and the same of it as ``target_loss_...``.
    """

    pixels: Pixels
    label: int
    label_source: str
    extra: dict[str, Any]


class Attacker:
    """Attacks images of a set one at a time, with surrogates that are loaded once.

    One at a time: on a CPU batching gains nothing, and the bytes then depend on nothing else. ``records``: the images of the set
    that may be mixed into others, by transforms that do so. ``given``: classes by id, for a target of ``given``.
    """

    def __init__(
        self,
        images: ImageSet,
        records: Sequence[ImageRecord],
        settings: AttackSettings,
        surrogates: Sequence[Classifier],
        given: Mapping[str, int],
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = device
        self._ensemble = Surrogates(surrogates)
        self._given = given
        self._images = images
        self._others = OtherImages(images, records)

    def attack(self, record: ImageRecord, clean: Pixels) -> Adversarial:
        """``clean``: the pixels of ``record``, (H, W, 3)."""
        settings = self.settings
        before = self._logits(clean)
        label, towards = self._aim(record, before)
        label_source = "predicted" if record.label is None else record.label_source or "given"
        found = attack(
            to_tensor(clean).to(self.device),
            torch.tensor([label if towards is None else towards], device=self.device),
            self._ensemble,
            settings,
            [generator(settings.seed, record.pixels_sha256)],
            self._others.of([record]),
        )
        adversarial = to_pixels(found.images)
        _check_bound(record, difference(clean, adversarial), settings)
        after = self._logits(adversarial)
        extra = {**measured(clean, adversarial), "gradients": found.gradients, **_losses("", before, after, label)}
        if towards is not None:
            extra |= {"target": towards, **_losses("target_", before, after, towards)}
        return Adversarial(adversarial, label, label_source, extra)

    def check_given(self, records: Sequence[ImageRecord]) -> None:
        """Before the first image is made: another file of targets is another recipe. Raises ApibenchError, see :func:`target`."""
        for record in Progress(records, "check targets", unit="image"):
            try:
                clean = self._images.read_pixels(record)
            except ApibenchError:
                continue  # it is reported when its own turn comes
            self._aim(record, self._logits(clean))

    def _aim(self, record: ImageRecord, logits: torch.Tensor) -> tuple[int, int | None]:
        """The image's class, the given one, else the ensemble's own clean prediction; and the one to move towards, if any."""
        label = int(logits.argmax()) if record.label is None else record.label
        if not self.settings.targeted:
            return label, None
        return label, target(self.settings.target, record, label, logits, self.settings.seed, self._given)

    def _logits(self, pixels: Pixels) -> torch.Tensor:
        """(classes,) on the CPU: the mean of the surrogates'."""
        with torch.no_grad():
            mean: torch.Tensor = self._ensemble(to_tensor(pixels).to(self.device))[0].cpu()
        return mean


def check_targets(settings: AttackSettings, targets: Path | None, aim: str = "target", file: str = "targets") -> None:
    """Raises ApibenchError where a file of targets is missing, or there for nothing. ``aim``, ``file``: what they are called."""
    if settings.target == GIVEN and targets is None:
        raise ApibenchError(f"{aim} {GIVEN}: give {file}, a CSV with the columns 'file' and 'target'")
    if settings.target != GIVEN and targets is not None:
        raise ApibenchError(f"{file} {targets}: the attack has no use for it; give {aim} {GIVEN}")


def _losses(prefix: str, before: torch.Tensor, after: torch.Tensor, label: int) -> dict[str, float]:
    """The cross-entropy of a class, before and after."""
    loss = {"before": -before.double().log_softmax(0)[label], "after": -after.double().log_softmax(0)[label]}
    return {f"{prefix}loss_{when}": round(float(value), 6) for when, value in loss.items()}


def _sha256(targets: Mapping[str, int]) -> str:
    return hashlib.sha256("\n".join(f"{id}\t{targets[id]}" for id in sorted(targets)).encode()).hexdigest()


def _check_bound(record: ImageRecord, noise: Noise, settings: AttackSettings) -> None:
    """On the pixels of the file, in whole numbers."""
    if settings.norm == LINF:
        inside = linf(noise) <= settings.epsilon
    else:
        inside = square(noise) <= (settings.epsilon * LEVELS) ** 2 + 1e-6
    if not inside:
        raise AssertionError(f"{record.id}: the bound does not hold")
