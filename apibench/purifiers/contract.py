"""The purifier contract."""

from __future__ import annotations

from abc import abstractmethod

from apibench._torch import torch

Tensor = torch.Tensor


class Purifier(torch.nn.Module):
    """RGB pixels (N, 3, H, W) in [0, 1] in, the same shape and range out; any N, H and W.

    A ``torch.nn.Module``, so that it also drops into other libraries' pipelines. ``forward`` runs ``iterations`` passes and
    clamps once, at the end. ``name`` is what sets and tables call it, such as ``ncis`` or ``jpeg:50``.
    """

    differentiable = True

    def __init__(self, name: str, iterations: int) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"{name}: iterations must be at least 1, got {iterations}")
        self.name = name
        self.iterations = iterations

    @property
    def variant(self) -> str:
        """The part it adds to an image's variant: ``ncis/4``."""
        return f"{self.name}/{self.iterations}"

    @abstractmethod
    def once(self, x: Tensor) -> Tensor:
        """One pass, unclamped."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.iterations):
            x = self.once(x)
        return x.clamp(0.0, 1.0)
