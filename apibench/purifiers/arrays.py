"""Purifiers that other libraries compute on arrays, an image at a time, without a gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apibench._torch import torch
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor
Array = NDArray[np.floating[Any]]


class ArrayPurifier(Purifier):
    """Computed on the CPU, each image alone, in the tensor's precision (float32 where that is less)."""

    differentiable = False

    @torch.no_grad()
    def once(self, x: Tensor) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        for index, image in enumerate(x.detach().to("cpu", wide).permute(0, 2, 3, 1)):
            y[index] = torch.from_numpy(self.image(image.contiguous().numpy())).permute(2, 0, 1).to(y)
        return y

    @abstractmethod
    def image(self, pixels: Array) -> Array:
        """One pass over one image: (H, W, 3) in, about [0, 1], the same shape out."""
