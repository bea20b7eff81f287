"""Power spectra of noise and of photographs, and what a Gaussian smoothing takes from each. numpy and scipy only.

Frequencies are in cycles per pixel, so that images of any size share one grid. For the density, each image's mean is taken off
and the rest is windowed (Hann, along both axes), so that opposite borders, which the FFT takes for neighbours, add no energy of
their own; the power is divided by the window's own, so that density times area is the windowed mean square (Parseval).

What smoothing takes is computed without a window, which would favour the middle of a picture (on photographs it overstates the
share by two fifths): from the cosine spectrum, that of the picture mirrored at its borders. (There the border pixel stands twice;
where the purifier mirrors, once.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from apibench.evaluation.noise import Floats
from apibench.evaluation.noise_patches import CHANNELS

STEP = 1 / 128  # cycles per pixel
BINS = 91  # the corner of the plane of frequencies is at sqrt(1/2), 0.7071


@dataclass(frozen=True)
class Filter:
    """``passes`` smoothings with a ``kernel`` × ``kernel`` Gaussian of width ``sigma`` pixels (as the purifier ``gaussian``)."""

    kernel: int
    sigma: float
    passes: int = 1

    @property
    def name(self) -> str:
        return f"{self.kernel}×{self.kernel} sigma {self.sigma:g} ×{self.passes}"

    def response(self, frequencies: Floats) -> Floats:
        """What is left of an amplitude, at frequencies along one axis; the two axes' responses multiply."""
        offsets = np.arange(self.kernel) - self.kernel // 2
        taps = np.exp(-0.5 * (offsets / self.sigma) ** 2)
        waves = np.cos(2 * np.pi * frequencies[:, None] * offsets)
        response: Floats = ((waves * (taps / taps.sum())).sum(axis=1)) ** self.passes
        return response


FILTERS = (Filter(5, 1.0, 1), Filter(5, 1.0, 2), Filter(5, 1.0, 4), Filter(11, 2.0, 1))


def power(image: npt.NDArray[np.generic], *, window: bool = True) -> tuple[Floats, Floats]:
    """Mean and power of an (H, W, C) image: (C,) and (C, H, W // 2 + 1), which sums to the mean square about that mean.

    Half of the plane, each coefficient counting for its mirror image too. With a window, mean and mean square are weighted
    by it (the mean by the window, the square by its square).
    """
    height, width, _ = image.shape
    values = image.transpose(2, 0, 1).astype(np.float64)
    weights = np.outer(_hann(height), _hann(width)) if window else np.ones((height, width))
    mean: Floats = (values * weights).sum(axis=(1, 2)) / weights.sum()
    transform = np.fft.rfft2((values - mean[:, None, None]) * weights)
    energy = (transform.real**2 + transform.imag**2) / (np.square(weights).sum() * height * width)
    return mean, energy * _mirrored(width)


def _hann(length: int) -> Floats:
    """Between the samples of the usual one, so that it vanishes nowhere and a length of 1 is 1."""
    window: Floats = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)
    return window


def _mirrored(width: int) -> Floats:
    """How often each column of the half plane stands in the whole one."""
    times = np.full(width // 2 + 1, 2.0)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return times


@lru_cache(maxsize=8)
def _bins(height: int, width: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """The radial bin of each coefficient of the half plane, flat, and the area of each bin; DC has none."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    index = np.minimum((radius / STEP).astype(np.intp), BINS - 1).ravel()
    times = np.broadcast_to(_mirrored(width), radius.shape).ravel().copy()
    times[0] = 0
    return index, np.bincount(index, times, BINS) / (height * width)


class Spectrum:
    """The mean over images of their power density by radial frequency; every image weighs the same.

    ``edges``: (BINS + 1,) cycles per pixel. Channels are R, G, B.
    """

    edges: Floats = STEP * np.arange(BINS + 1, dtype=np.float64)

    def __init__(self, *, window: bool = True) -> None:
        self._window = window
        self._energy = np.zeros((len(CHANNELS) - 1, BINS))
        self._area = np.zeros(BINS)

    def add(self, image: npt.NDArray[np.generic]) -> None:
        """``image``: (H, W, 3) levels."""
        _, energy = power(image, window=self._window)
        index, area = _bins(*image.shape[:2])
        for channel, values in enumerate(energy):
            self._energy[channel] += np.bincount(index, values.ravel(), BINS)
        self._area += area

    def density(self, channel: str = "all") -> Floats:
        """(BINS,) levels² per (cycle per pixel)², without DC; NaN where no image has a coefficient.

        Over the plane of frequencies (area 1) it integrates to the mean square about the mean.
        """
        empty = np.full(BINS, np.nan)
        density: Floats = np.divide(_of(self._energy, channel), self._area, out=empty, where=self._area > 0)
        return density


class Smoothed:
    """What each of FILTERS leaves of pictures and changes in them, in levels; every image weighs the same.

    Exact for pictures mirrored at their borders (the border pixel twice).
    """

    def __init__(self) -> None:
        channels = len(CHANNELS) - 1
        self.images = 0
        self._total = np.zeros(channels)
        self._mean = np.zeros(channels)  # the square of the mean, which no smoothing takes
        self._kept = np.zeros((len(FILTERS), channels))
        self._changed = np.zeros((len(FILTERS), channels))

    def add(self, image: npt.NDArray[np.generic]) -> None:
        """``image``: (H, W, 3) levels."""
        height, width, _ = image.shape
        cosines = dctn(image.transpose(2, 0, 1).astype(np.float64), axes=(1, 2), norm="ortho")
        energy = np.square(cosines) / (height * width)
        total = energy.sum(axis=(1, 2))
        self.images += 1
        self._total += total
        self._mean += energy[:, 0, 0]
        for number, one in enumerate(FILTERS):
            down, across = (one.response(np.arange(n, dtype=np.float64) / (2 * n)) for n in (height, width))
            kept = np.einsum("chw,h,w->c", energy, down**2, across**2, optimize=True)
            self._kept[number] += kept
            # (1 - H)² = 1 - 2 H + H²: what the smoothed picture differs by.
            self._changed[number] += total - 2 * np.einsum("chw,h,w->c", energy, down, across, optimize=True) + kept

    def energy(self, channel: str = "all", *, mean: bool) -> float:
        """Mean square, in levels², with the square of each image's mean or without it."""
        return (_number(self._total, channel) - (0 if mean else _number(self._mean, channel))) / max(1, self.images)

    def removed(self, number: int, channel: str = "all", *, mean: bool) -> float | None:
        """The share of that energy which filter ``number`` takes; None where there is none."""
        total = self.energy(channel, mean=mean) * self.images
        taken = _number(self._total - self._kept[number], channel)
        # Without noise, what is left of a mean may be a rounding error.
        return taken / total if total > 1e-9 * _number(self._total, channel) else None

    def left(self, number: int, channel: str = "all") -> float:
        """RMS of what filter ``number`` leaves, the mean included."""
        return math.sqrt(_number(self._kept[number], channel) / max(1, self.images))

    def changed(self, number: int, channel: str = "all") -> float:
        """RMS of the difference that filter ``number`` makes."""
        return math.sqrt(max(0.0, _number(self._changed[number], channel)) / max(1, self.images))


def _of(values: Floats, channel: str) -> Floats:
    """One channel, or the mean of the three: the first axis."""
    chosen: Floats = values.mean(axis=0) if channel == "all" else values[CHANNELS.index(channel)]
    return chosen


def _number(values: Floats, channel: str) -> float:
    return float(_of(values, channel))
