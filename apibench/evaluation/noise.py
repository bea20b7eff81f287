"""What an attack adds, looked at by patch: its mean and its skewness. numpy only.

That both are close to zero is the observation that Gaussian smoothing rests on (Cha et al., NCIS, arXiv 2106.11644): averaging
over a patch then leaves little of the noise. Noise is adversarial minus clean, in levels of 0-255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PATCH = 16
RESAMPLES = 10_000
SEED = 0
_QUANTITIES = ("mean", "absolute_mean", "skewness", "absolute_skewness")

Floats = npt.NDArray[np.float64]
Noise = npt.NDArray[np.int16]


@dataclass(frozen=True)
class PatchStatistics:
    """One image pair. ``mean``: (P,) levels, one a patch and channel; ``skewness``: (S,) of those S that are not flat."""

    mean: Floats
    skewness: Floats

    @property
    def patches(self) -> int:
        return len(self.mean)

    @property
    def flat(self) -> int:
        """Patches of zero variance, whose skewness is not defined."""
        return len(self.mean) - len(self.skewness)


def patch_statistics(
    clean: npt.NDArray[np.uint8], adversarial: npt.NDArray[np.uint8], patch: int = PATCH
) -> PatchStatistics:
    """Mean and skewness of the noise in each ``patch`` × ``patch`` tile of each channel.

    Both images are (H, W, C) uint8. Tiles do not overlap and start at the top left; what is left over at the right and bottom
    is not looked at, so an image smaller than a tile has no patches. Skewness is the third central moment over the 1.5th power
    of the second, without a correction for small samples. Raises ValueError where the shapes differ.
    """
    cut = tiles(difference(clean, adversarial), patch)
    tiled = cut.reshape(-1, cut.shape[-1])
    # A constant tile is told by its integers: its computed variance may be a rounding error above zero.
    varied = tiled[(tiled != tiled[:, :1]).any(axis=1)].astype(np.float64)
    centred = varied - varied.mean(axis=1, keepdims=True)
    skewness = (centred**3).mean(axis=1) / (centred**2).mean(axis=1) ** 1.5
    return PatchStatistics(tiled.mean(axis=1, dtype=np.float64), skewness)


def difference(clean: npt.NDArray[np.uint8], adversarial: npt.NDArray[np.uint8]) -> Noise:
    """Adversarial minus clean, (H, W, C) int16 levels, of two (H, W, C) uint8. Raises ValueError where the shapes differ."""
    if clean.shape != adversarial.shape:
        raise ValueError(f"shapes differ: {clean.shape} and {adversarial.shape}")
    return adversarial.astype(np.int16) - clean


def tiles(noise: Noise, patch: int) -> Noise:
    """(H, W, C) -> (tiles, C, ``patch``²): tiles that do not overlap, from the top left; what is left over is cut off."""
    height, width, channels = noise.shape
    rows, columns = height // patch, width // patch
    cut = noise[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, channels)
    return cut.transpose(0, 2, 4, 1, 3).reshape(rows * columns, channels, patch * patch)


@dataclass(frozen=True)
class Estimate:
    """A mean over patches, with the 95 % percentile interval of a bootstrap over images. None: no patch had the quantity."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class NoiseSummary:
    """All image pairs of one attack. Means are in levels of 0-255, skewness has no unit."""

    images: int
    patches: int
    flat_patches: int
    mean: Estimate
    absolute_mean: Estimate
    skewness: Estimate
    absolute_skewness: Estimate


def summarise(images: Sequence[PatchStatistics], *, resamples: int = RESAMPLES, seed: int = SEED) -> NoiseSummary:
    """Mean over patches of each quantity and of its absolute value.

    The patches of one image are alike, so the bootstrap draws images, each with all its patches, and not patches.
    """
    sums = np.array([[q.sum() for q in _quantities(image)] for image in images]).reshape(-1, len(_QUANTITIES))
    counts = np.array([[len(q) for q in _quantities(image)] for image in images]).reshape(-1, len(_QUANTITIES))
    drawn = resample(np.hstack([sums, counts]), resamples, seed)
    drawn_sums, drawn_counts = np.hsplit(drawn, 2)
    estimates = {}
    for column, name in enumerate(_QUANTITIES):
        total = counts[:, column].sum()
        defined = drawn_counts[:, column] > 0
        if not total:
            estimates[name] = Estimate(None, None, None)
            continue
        low, high = np.quantile(drawn_sums[defined, column] / drawn_counts[defined, column], [0.025, 0.975])
        estimates[name] = Estimate(float(sums[:, column].sum() / total), float(low), float(high))
    return NoiseSummary(
        images=len(images),
        patches=sum(image.patches for image in images),
        flat_patches=sum(image.flat for image in images),
        **estimates,
    )


def _quantities(image: PatchStatistics) -> tuple[Floats, ...]:
    return image.mean, np.abs(image.mean), image.skewness, np.abs(image.skewness)


def resample(table: Floats, resamples: int = RESAMPLES, seed: int = SEED, chunk: int = 500) -> Floats:
    """Column sums, (resamples, Q), over images (rows of ``table``, (N, Q)) drawn with replacement.

    In chunks, to bound the memory.
    """
    n = len(table)
    if n == 0:
        return np.zeros((resamples, table.shape[1]))
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, chunk):
        weights = generator.multinomial(n, np.full(n, 1 / n), size=min(chunk, resamples - start)).astype(np.float64)
        # einsum without BLAS: the same sum in the same order on every machine.
        parts.append(np.einsum("rn,nq->rq", weights, table.astype(np.float64)))
    return np.concatenate(parts)
