"""Histograms that grow image by image, beside a normal curve of the same mean and standard deviation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from apibench.evaluation.noise import Floats
from apibench.evaluation.noise_patches import CHANNELS

_REACH = 255  # levels


class Histogram:
    """Counts of values in [-255, 255], by channel, in bins of ``width`` levels centred on its multiples."""

    def __init__(self, width: float) -> None:
        self.width = width
        self._offset = int(_REACH / width)
        self.centres: Floats = width * np.arange(-self._offset, self._offset + 1, dtype=np.float64)
        self._counts = np.zeros((len(CHANNELS) - 1, len(self.centres)), dtype=np.int64)
        self._sums = np.zeros((len(CHANNELS) - 1, 2))

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """``values``: (..., 3) levels, the last axis R, G, B."""
        columns = values.reshape(-1, values.shape[-1]).astype(np.float64).T
        for channel, column in enumerate(columns):
            bins = np.floor(column / self.width + 0.5).astype(np.int64) + self._offset
            self._counts[channel] += np.bincount(bins, minlength=len(self.centres))
        self._sums += np.stack([columns.sum(axis=1), np.square(columns).sum(axis=1)], axis=1)

    def counts(self, channel: str = "all") -> npt.NDArray[np.int64]:
        """(bins,), beside ``centres``."""
        counts: npt.NDArray[np.int64] = (
            self._counts.sum(axis=0) if channel == "all" else self._counts[CHANNELS.index(channel)]
        )
        return counts

    def moments(self, channel: str = "all") -> tuple[float, float]:
        """Mean and standard deviation, of the values and not of their bins; (0, 0) where there are none."""
        total = int(self.counts(channel).sum())
        if not total:
            return 0.0, 0.0
        sums = self._sums.sum(axis=0) if channel == "all" else self._sums[CHANNELS.index(channel)]
        mean = float(sums[0]) / total
        return mean, max(0.0, float(sums[1]) / total - mean**2) ** 0.5

    def normal(self, channel: str = "all") -> Floats:
        """What a normal of the same mean and deviation would put in each bin: (bins,) expected counts."""
        mean, deviation = self.moments(channel)
        if not deviation:
            return np.zeros(len(self.centres))
        edges = (np.append(self.centres, self.centres[-1] + self.width) - self.width / 2 - mean) / deviation
        expected: Floats = self.counts(channel).sum() * np.diff(ndtr(edges))
        return expected

    def kolmogorov(self, channel: str = "all") -> float | None:
        """The largest gap between the distribution and that normal's, at the bins' edges: 0 none, 1 all; None if all are alike.

        A distance, not a test: with millions of pixels every difference is significant, and only its size says something.
        """
        counts, expected = self.counts(channel), self.normal(channel)
        if not expected.any():
            return None
        mean, deviation = self.moments(channel)
        edges = (self.centres + self.width / 2 - mean) / deviation
        return float(np.abs(counts.cumsum() / counts.sum() - ndtr(edges)).max())
