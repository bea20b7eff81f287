"""Gradient rules: how the gradients of the steps so far become the direction of the next one."""

from __future__ import annotations

from apibench._torch import torch

Tensor = torch.Tensor


class Momentum:
    """MI-FGSM: accumulate L1-normalised gradients with decay ``mu`` (Dong et al., CVPR 2018, arXiv 1710.06081).

    The norm is each image's own, so that no image depends on its batch; Dong's mean absolute value differs from it by a
    factor that the sign removes. A gradient of zero adds nothing (dividing by its norm would give NaN).
    """

    def __init__(self, mu: float = 1.0) -> None:
        self.mu = mu
        self._sum: Tensor | None = None

    def __call__(self, gradient: Tensor) -> Tensor:
        """(N, 3, H, W) gradient of this step -> (N, 3, H, W) direction."""
        norm = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        # A gradient that is not finite says nothing about where to go either.
        scale = torch.where((norm > 0) & norm.isfinite(), 1.0 / norm, torch.zeros_like(norm))
        step = torch.nan_to_num(gradient * scale, nan=0.0, posinf=0.0, neginf=0.0)
        self._sum = step if self._sum is None else step.add_(self._sum, alpha=self.mu)
        return self._sum
