"""Gaussian smoothing (GS): convolve with a k x k Gaussian of width sigma."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from apibench._torch import torch
from apibench.purifiers.blindspot import reflect

Tensor = torch.Tensor


@dataclass(frozen=True)
class Smoothing:
    """The kernel of GS: ``kernel`` x ``kernel`` taps (odd) of a Gaussian of width ``sigma`` pixels, summing to one."""

    kernel: int = 5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0 or not 0 < self.sigma < math.inf:
            raise ValueError(f"smoothing needs an odd kernel and a sigma above 0, got {self.kernel} and {self.sigma}")

    @property
    def radius(self) -> int:
        return self.kernel // 2

    def taps(self) -> Tensor:
        """The one-dimensional kernel, (k,) float64; the two-dimensional one is its outer product with itself."""
        offsets = torch.arange(self.kernel, dtype=torch.float64) - self.radius
        weights = torch.exp(-0.5 * (offsets / self.sigma) ** 2)
        return weights / weights.sum()

    def valid(self, x: Tensor) -> Tensor:
        """Smooth where the whole kernel fits: (N, C, H, W) -> (N, C, H - 2r, W - 2r)."""
        channels = x.shape[1]
        taps = self.taps().to(x)
        column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        x = torch.nn.functional.conv2d(x, column, groups=channels)
        return torch.nn.functional.conv2d(x, row, groups=channels)

    def same(self, x: Tensor) -> Tensor:
        """Smooth a whole picture, its border reflected: (N, C, H, W) -> the same shape."""
        return self.valid(reflect(x, self.radius))

    def operator(self, length: int, iterations: int) -> Tensor:
        """``iterations`` passes along one axis as a matrix, (length, length) float64, reflection included.

        Exact, since a symmetric kernel commutes with reflection: n passes over X are ``A**n @ X @ (A**n).T``.
        """
        if length == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        rows = torch.arange(length)
        matrix = torch.zeros(length, length, dtype=torch.float64)
        period = 2 * (length - 1)
        for offset, weight in zip(range(-self.radius, self.radius + 1), self.taps().tolist(), strict=True):
            folded = (rows + offset) % period
            columns = torch.minimum(folded, period - folded)
            matrix[rows, columns] += weight
        return cast(Tensor, torch.linalg.matrix_power(matrix, iterations))
