"""Attacks the images of a set, with surrogates that are loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apibench._torch import torch
from apibench.attacks.catalogue import LINF
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.others import OtherImages
from apibench.attacks.surrogates import Surrogates
from apibench.attacks.targets import target
from apibench.classifiers import Classifier
from apibench.distortion import Noise, difference, linf, measured, square
from apibench.imageset import ImageRecord, ImageSet, Pixels
from apibench.pixels import LEVELS, to_pixels, to_tensor

Tensor = torch.Tensor


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
    """Attacks images of a set, ``chunk`` at a time: what is left of a chunk is filled up with copies of its last image.

    What is computed for an image depends on no other, but its last bits do on the shape of the batch: so that is always the same.
    One at a time on a CPU, where batching gains nothing. ``records``: the images of the set that may be mixed into others, by
    transforms that do so. ``given``: classes by id, for a target of ``given``.
    """

    def __init__(
        self,
        images: ImageSet,
        records: Sequence[ImageRecord],
        settings: AttackSettings,
        surrogates: Sequence[Classifier],
        given: Mapping[str, int],
        device: str = "cpu",
        chunk: int = 1,
    ) -> None:
        self.settings = settings
        self.device = device
        self.chunk = chunk
        self._ensemble = Surrogates(surrogates)
        self._given = given
        self._others = OtherImages(images, records)

    def attack(self, records: Sequence[ImageRecord], clean: Sequence[Pixels]) -> list[Adversarial]:
        """``clean``: the pixels of ``records``, (H, W, 3) each, of one height and width; at most ``chunk``."""
        settings = self.settings
        count = len(records)
        records = [*records, *[records[-1]] * (self.chunk - count)]
        x = self._batch([*clean, *[clean[-1]] * (self.chunk - count)])
        before = self._logits(x)
        aims = [self._aim(record, logits) for record, logits in zip(records, before, strict=True)]
        found = attack(
            x,
            torch.tensor([label if towards is None else towards for label, towards in aims], device=self.device),
            self._ensemble,
            settings,
            [generator(settings.seed, record.pixels_sha256) for record in records],
            self._others.of(records),
        )
        adversarial = [to_pixels(image[None]) for image in found.images]
        after = self._logits(self._batch(adversarial))
        made = []
        for i in range(count):
            noise = difference(clean[i], adversarial[i])
            _check_bound(records[i], noise, settings)
            label, towards = aims[i]
            extra = {**measured(clean[i], adversarial[i]), "gradients": found.gradients}
            extra |= _losses("", before[i], after[i], label)
            if towards is not None:
                extra |= {"target": towards, **_losses("target_", before[i], after[i], towards)}
            source = "predicted" if records[i].label is None else records[i].label_source or "given"
            made.append(Adversarial(adversarial[i], label, source, extra))
        return made

    def check_given(self, record: ImageRecord, clean: Pixels) -> None:
        """Raises ApibenchError where an image's given target cannot be; see :func:`~apibench.attacks.targets.target`."""
        self._aim(record, self._logits(self._batch([clean] * self.chunk))[0])

    def _aim(self, record: ImageRecord, logits: Tensor) -> tuple[int, int | None]:
        """The image's class, the given one, else the ensemble's own clean prediction; and the one to move towards, if any."""
        label = int(logits.argmax()) if record.label is None else record.label
        if not self.settings.targeted:
            return label, None
        return label, target(self.settings.target, record, label, logits, self.settings.seed, self._given)

    def _batch(self, pixels: Sequence[Pixels]) -> Tensor:
        """(N, 3, H, W) in [0, 1] on the device."""
        return torch.cat([to_tensor(one) for one in pixels]).to(self.device)

    def _logits(self, x: Tensor) -> Tensor:
        """(N, classes) on the CPU: the mean of the surrogates'."""
        with torch.no_grad():
            mean: Tensor = self._ensemble(x).cpu()
        return mean


def _losses(prefix: str, before: torch.Tensor, after: torch.Tensor, label: int) -> dict[str, float]:
    """The cross-entropy of a class, before and after."""
    loss = {"before": -before.double().log_softmax(0)[label], "after": -after.double().log_softmax(0)[label]}
    return {f"{prefix}loss_{when}": round(float(value), 6) for when, value in loss.items()}


def _check_bound(record: ImageRecord, noise: Noise, settings: AttackSettings) -> None:
    """On the pixels of the file, in whole numbers."""
    if settings.norm == LINF:
        inside = linf(noise) <= settings.epsilon
    else:
        inside = square(noise) <= (settings.epsilon * LEVELS) ** 2 + 1e-6
    if not inside:
        raise AssertionError(f"{record.id}: the bound does not hold")
