"""SSA: the image with its frequencies weighed anew, as if another network looked at it."""

from __future__ import annotations

import math
from functools import lru_cache

from apibench._torch import torch
from apibench.attacks.transforms import InputTransform
from apibench.draws import Draws
from apibench.pixels import LEVELS

Tensor = torch.Tensor


class SpectrumSimulation(InputTransform):
    """SSA: the mean gradient over copies IDCT(DCT(x + xi) * m), xi ~ N(0, sigma^2), m ~ U(1 - rho, 1 + rho) a frequency
    (Long et al., ECCV 2022, arXiv 2207.05382).

    ``copies``: 20 as in the paper, a gradient each. ``sigma``: in levels of 255; the paper takes epsilon, which there is 16, the
    default here: ``ssa:20,8`` for an epsilon of 8. ``rho``: 0.5. Noise and mask are drawn for each value of each copy, in that
    order; the copy is not cut off at 0 and 1. The gradient is that with respect to the image, back through the transform;
    TransferAttack, like the authors' code, takes that with respect to the copy.
    """

    def __init__(self, copies: int = 20, sigma: float = 16.0, rho: float = 0.5) -> None:
        if copies < 1 or not sigma >= 0 or not 0 <= rho <= 1:
            raise ValueError("spectrum simulation needs at least one copy, sigma of at least 0 and rho in [0, 1]")
        self.copies = copies
        self.sigma = sigma
        self.rho = rho

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:  # noqa: ARG002
        """(N, 3, H, W) -> the same shape, of any height and width."""
        rows, columns = (cosines(size, x.dtype, x.device) for size in x.shape[-2:])
        noise = draws.normal(x, self.sigma / LEVELS)
        mask = draws.uniform(x, self.rho).add_(1.0)
        spectrum = rows @ (x + noise) @ columns.T
        return rows.T @ (spectrum * mask) @ columns


@lru_cache(maxsize=8)
def cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II of ``size`` values as a matrix (size, size), a frequency a row: its transpose is its inverse."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
