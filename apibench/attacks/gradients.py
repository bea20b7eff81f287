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
        norm = torch.linalg.vector_norm(gradient, ord=1, dim=(1, 2, 3), keepdim=True)
        if not norm.isfinite().all():
            # A gradient that is not finite says nothing about where to go either: that image's counts as zero.
            gradient = torch.where(norm.isfinite(), gradient, torch.zeros_like(gradient))
        usable = (norm > 0) & norm.isfinite()
        scale = torch.where(usable, 1.0 / norm, torch.zeros_like(norm))
        if self._sum is None:
            self._sum = torch.zeros_like(gradient)
        self._sum.mul_(self.mu).addcmul_(gradient, scale)
        return self._sum
