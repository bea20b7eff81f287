"""``gaussian``: iterated Gaussian smoothing, the baseline that NCIS builds on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from apibench._torch import torch
from apibench.purifiers.contract import Purifier
from apibench.purifiers.smoothing import Smoothing

Tensor = torch.Tensor

# The one-shot form multiplies by (H, H) and (W, W) matrices: work that grows with the cube of the side, so that repeated
# convolution wins on large pictures.
ONE_SHOT_SIDE = 1024


class Gaussian(Purifier):
    """Convolve with a Gaussian, ``iterations`` times, the border reflected (GS in Cha et al., arXiv 2106.11644).

    Nothing sits between the passes, so they are one linear operation, ``A**n @ X @ (A**n).T``, exact but for rounding.
    """

    def __init__(self, name: str, iterations: int, smoothing: Smoothing) -> None:
        super().__init__(name, iterations)
        self.smoothing = smoothing

    def once(self, x: Tensor) -> Tensor:
        return self.smoothing.same(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._times(x, self.iterations)

    def passes(self, x: Tensor, iterations: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        counts = list(iterations)
        if counts != sorted({count for count in counts if count > 0}):
            raise ValueError(f"{self.name}: pass counts must rise from 1 or more, got {counts}")
        for count in counts:
            yield count, self._times(x, count)

    def _times(self, x: Tensor, count: int) -> Tensor:
        height, width = x.shape[-2:]
        if count == 1 or max(height, width) > ONE_SHOT_SIDE:
            for _ in range(count):
                x = self.once(x)
            return x.clamp(0.0, 1.0)
        rows = _operator(self.smoothing, height, count, x.dtype, x.device)
        columns = _operator(self.smoothing, width, count, x.dtype, x.device)
        return (rows @ x @ columns.T).clamp(0.0, 1.0)


def create(name: str, iterations: int, kernel: int, sigma: float) -> Gaussian:
    """``kernel`` taps a side (odd), ``sigma`` in pixels."""
    return Gaussian(name, iterations, Smoothing(kernel, sigma))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept from a call without gradients is used in one with them
def _operator(smoothing: Smoothing, length: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, since the pictures of a set have few sizes and the power costs more than applying it to one of them."""
    return smoothing.operator(length, count).to(device, dtype)
