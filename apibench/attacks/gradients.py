"""Gradient rules: at which points gradients are taken, and how those of the steps so far become the direction of the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from apibench._torch import torch
from apibench.attacks.budgets import Budget, inverse
from apibench.draws import Draws

Tensor = torch.Tensor

#: (N, 3, H, W) images -> the gradient of what the attack climbs, of the same shape, each image's its own.
Gradient = Callable[[Tensor], Tensor]


class GradientRule(ABC):
    """One an attack: it remembers the steps so far. (N, 3, H, W) throughout; no image depends on the others of its batch."""

    @abstractmethod
    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:
        """Where to go from ``x``."""

    def advance(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:
        """The image after a step. Only a rule that says more than a direction has another."""
        return budget.move(x, self.direction(x, gradient, budget, draws))


class Plain(GradientRule):
    """I-FGSM: the gradient of this step (Kurakin, Goodfellow, Bengio, arXiv 1607.02533)."""

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:  # noqa: ARG002
        return gradient(x)


class Momentum(GradientRule):
    """MI-FGSM: accumulate L1-normalised gradients with decay ``mu`` (Dong et al., CVPR 2018, arXiv 1710.06081).

    The norm is each image's own, so that no image depends on its batch; Dong's mean absolute value differs from it by a
    factor that the sign removes. A gradient of zero adds nothing (dividing by its norm would give NaN), and one that is fainter
    than a normal number of its type adds less than the others.
    """

    def __init__(self, mu: float = 1.0) -> None:
        self.mu = mu
        self.sum: Tensor | None = None

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:  # noqa: ARG002
        return self.accumulate(gradient(x))

    def accumulate(self, gradient: Tensor) -> Tensor:
        """(N, 3, H, W) gradient of this step -> (N, 3, H, W) direction."""
        norm = torch.linalg.vector_norm(gradient, ord=1, dim=(1, 2, 3), keepdim=True)
        if not norm.isfinite().all():
            # A gradient that is not finite says nothing about where to go either: that image's counts as zero.
            gradient = torch.where(norm.isfinite(), gradient, torch.zeros_like(gradient))
        if self.sum is None:
            self.sum = torch.zeros_like(gradient)
        self.sum.mul_(self.mu).addcmul_(gradient, inverse(norm))
        return self.sum


class Nesterov(Momentum):
    """NI-FGSM: momentum, the gradient taken a step of it ahead (Lin et al., ICLR 2020, arXiv 1908.06281).

    Ahead by step * mu * g, g normalised by its mean absolute value as in Lin et al.'s code; the first step has none.
    """

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:  # noqa: ARG002
        return self.accumulate(gradient(self.ahead(x, budget)))

    def ahead(self, x: Tensor, budget: Budget) -> Tensor:
        """Where the momentum leads. The sum of normalised gradients is not normalised again: in L-infinity it grows."""
        if self.sum is None:
            return x
        return x + self.sum * budget.units(self.sum) * (budget.step * self.mu)
