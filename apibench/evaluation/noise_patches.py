"""Noise by patch, by channel and by size of patch, with intervals: the table behind the claims. numpy only.

Noise is adversarial minus clean, in levels of 255. Each image is reduced to a small table of sums, so that the memory does not
grow with the pictures, and an interval is a bootstrap over images: what is in one image is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apibench.evaluation.noise import RESAMPLES, SEED, Estimate, Floats, Noise, resample, tiles

WHOLE = 0  # in place of a patch's side: the whole image is the one patch
SIDES = (8, 16, 32, WHOLE)
CHANNELS = ("R", "G", "B", "all")

# Sums over the patches of one channel of one image.
_COLUMNS = (
    "patches",
    "mean",
    "absolute_mean",
    "mean_square",  # of the patches' means, about zero
    "independent",  # what mean_square would be, were the pixels independent: the mean square over the number of pixels
    "varied",  # patches that are not flat: only these have the moments below
    "skewness",
    "absolute_skewness",
    "kurtosis",
    "pixels",  # of the whole image, whatever the patch
    "square",  # of the noise, over the whole image
)
_Sums = Mapping[str, Floats]


def _rms(sums: _Sums) -> Floats:
    return np.sqrt(_ratio(sums["square"], sums["pixels"]))


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _mean(column: str, over: str = "patches") -> Callable[[_Sums], Floats]:
    return lambda sums: _ratio(sums[column], sums[over])


# ``..._share`` is in units of the noise's RMS. ``times_independent`` is the RMS of the patch means over what it would be for
# independent pixels of the same power (RMS over the patch's side): 1 for those, the side itself for noise constant in a patch.
# RMS, not deviation: an offset does not average out either.
QUANTITIES: Mapping[str, Callable[[_Sums], Floats]] = {
    "rms": _rms,
    "mean": _mean("mean"),
    "mean_share": lambda sums: _ratio(_mean("mean")(sums), _rms(sums)),
    "absolute_mean": _mean("absolute_mean"),
    "absolute_mean_share": lambda sums: _ratio(_mean("absolute_mean")(sums), _rms(sums)),
    "times_independent": lambda sums: np.sqrt(_ratio(sums["mean_square"], sums["independent"])),
    "skewness": _mean("skewness", "varied"),
    "absolute_skewness": _mean("absolute_skewness", "varied"),
    "excess_kurtosis": _mean("kurtosis", "varied"),
}


def image_sums(noise: Noise) -> Floats:
    """(H, W, 3) int16 -> (sides, 3, columns): the sums of one image."""
    flat = noise.reshape(1, -1, noise.shape[2]).transpose(0, 2, 1)
    whole = np.stack([np.full(noise.shape[2], flat.shape[2]), np.square(flat[0], dtype=np.float64).sum(axis=1)], axis=1)
    parts = [_patch_sums(flat if side == WHOLE else tiles(noise, side)) for side in SIDES]
    return np.stack([np.concatenate([part, whole], axis=1) for part in parts])


def _patch_sums(tiled: Noise) -> Floats:
    """(tiles, C, n) -> (C, the columns before ``pixels``)."""
    size = tiled.shape[2]
    values = tiled.astype(np.float64)
    mean = values.mean(axis=2)
    power = np.einsum("tcn,tcn->tc", values, values) / size
    values -= mean[..., None]
    squares = values * values
    # A constant tile is told by its integers: its computed variance may be a rounding error above zero.
    varied = (tiled != tiled[..., :1]).any(axis=2)
    second = np.where(varied, squares.mean(axis=2), 1)
    skewness = np.where(varied, np.einsum("tcn,tcn->tc", squares, values) / size / second**1.5, 0)
    kurtosis = np.where(varied, np.einsum("tcn,tcn->tc", squares, squares) / size / second**2 - 3, 0)
    columns = (np.ones_like(mean), mean, np.abs(mean), mean**2, power / size)
    moments = (varied.astype(np.float64), skewness, np.abs(skewness), kurtosis)
    return np.stack([column.sum(axis=0) for column in (*columns, *moments)], axis=1)


@dataclass(frozen=True)
class PatchTable:
    """All images of one noise. ``estimates`` and ``patches`` (all, and those not flat) are by (side, channel)."""

    images: int
    patches: Mapping[tuple[int, str], tuple[int, int]]
    estimates: Mapping[tuple[int, str], Mapping[str, Estimate]]

    def __getitem__(self, key: tuple[str, int, str]) -> Estimate:
        """The estimate of (quantity, side, channel)."""
        quantity, side, channel = key
        return self.estimates[side, channel][quantity]


def tabulate(images: Sequence[Floats], *, resamples: int = RESAMPLES, seed: int = SEED) -> PatchTable:
    """Each quantity over all patches of all images (:func:`image_sums`), with its 95 % percentile interval over images."""
    shape = (len(SIDES), len(CHANNELS) - 1, len(_COLUMNS))
    table = (
        np.array(images, dtype=np.float64).reshape(len(images), -1) if images else np.zeros((0, int(np.prod(shape))))
    )
    drawn = np.concatenate([table.sum(axis=0, keepdims=True), resample(table, resamples, seed)]).reshape(-1, *shape)
    patches, estimates = {}, {}
    for row, side in enumerate(SIDES):
        for channel, name in enumerate(CHANNELS):
            these = drawn[:, row].sum(axis=1) if name == "all" else drawn[:, row, channel]
            sums = dict(zip(_COLUMNS, these.T, strict=True))
            patches[side, name] = (int(sums["patches"][0]), int(sums["varied"][0]))
            estimates[side, name] = {what: _estimate(of(sums)) for what, of in QUANTITIES.items()}
    return PatchTable(len(images), patches, estimates)


def _estimate(values: Floats) -> Estimate:
    """The first value, and the interval of the rest."""
    if np.isnan(values[0]):
        return Estimate(None, None, None)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))
