"""``gaussian``: iterated Gaussian smoothing, the baseline that NCIS builds on."""

from __future__ import annotations

from apibench._torch import torch
from apibench.purifiers.contract import Purifier
from apibench.purifiers.smoothing import Smoothing

Tensor = torch.Tensor

# The one-shot form multiplies by (H, H) and (W, W) matrices: work that grows with the cube of the side, so that repeated
# convolution wins on large pictures.
ONE_SHOT_SIDE = 1024


class Gaussian(Purifier):
    """Convolve with a Gaussian, ``iterations`` times, the border reflected.

    Nothing sits between the passes, so they are one linear operation, ``A**n @ X @ (A**n).T``, exact but for rounding.
    """

    def __init__(self, name: str, iterations: int, smoothing: Smoothing) -> None:
        super().__init__(name, iterations)
        self.smoothing = smoothing

    def once(self, x: Tensor) -> Tensor:
        return self.smoothing.same(x)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.iterations == 1 or max(height, width) > ONE_SHOT_SIDE:
            return super().forward(x)
        rows = self.smoothing.operator(height, self.iterations).to(x)
        columns = self.smoothing.operator(width, self.iterations).to(x)
        return (rows @ x @ columns.T).clamp(0.0, 1.0)
