"""Purifiers that resize: ``crop-resize`` and the random ``resize-pad``. Bilinear, antialiased, differentiable."""

from __future__ import annotations

from apibench._torch import torch
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor


class CropResize(Purifier):
    """``crop-resize``: the centre, ``share`` of each side, resized to the whole (Guo et al., ICLR 2018, arXiv 1711.00117)."""

    def __init__(self, name: str, iterations: int, share: float) -> None:
        super().__init__(name, iterations)
        self.share = share

    def once(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = _scaled(height, self.share), _scaled(width, self.share)
        top, left = (height - rows) // 2, (width - columns) // 2
        return _resized(x[..., top : top + rows, left : left + columns], height, width)


class ResizePad(Purifier):
    """``resize-pad``: shrink to a random share, ``smallest`` to 1, and pad with black at random (Xie et al., arXiv 1711.01991).

    In the paper a picture grows from 299 to 331 pixels; here it keeps its size, and shrinks instead, which is the same to a
    classifier that resizes.
    """

    random = True

    def __init__(self, name: str, iterations: int, smallest: float) -> None:
        super().__init__(name, iterations)
        self.smallest = smallest

    def once(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        size, down, across = torch.rand(3, generator=self.generator(), dtype=torch.float64).tolist()
        share = self.smallest + size * (1 - self.smallest)
        rows, columns = _scaled(height, share), _scaled(width, share)
        top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
        pad = (left, width - columns - left, top, height - rows - top)
        return torch.nn.functional.pad(_resized(x, rows, columns), pad)


def _scaled(side: int, share: float) -> int:
    return max(1, round(side * share))


def _resized(x: Tensor, rows: int, columns: int) -> Tensor:
    if x.shape[-2:] == (rows, columns):
        return x
    return torch.nn.functional.interpolate(x, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
