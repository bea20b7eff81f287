"""Patch-wise noise: long steps, of which what the bound cuts off is handed to the pixels around."""

from __future__ import annotations

from apibench._torch import torch
from apibench.attacks.budgets import Budget
from apibench.attacks.gradients import Gradient, GradientRule
from apibench.draws import Draws

Tensor = torch.Tensor


class PatchWise(GradientRule):
    """PI-FGSM: steps ``amplification`` times as long, the noise cut off projected onto a ``kernel`` x ``kernel`` neighbourhood
    (Gao et al., ECCV 2020, arXiv 2007.06765). In L-infinity, without momentum.

    All moves so far are summed, uncut; where the sum exceeds epsilon, the sign of the excess of a pixel's neighbours (a uniform
    kernel with nothing in the middle, zero beyond the border) is a second move, as long as the first. The project factor is
    the amplified step, as in the authors' code; TransferAttack fixes it at 16/255, the same for an epsilon of 16 only.
    """

    def __init__(self, amplification: float = 10.0, kernel: int = 3) -> None:
        self.amplification = amplification
        self.kernel = kernel
        self.moves: Tensor | None = None  # in steps, of which epsilon has a whole number

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:  # noqa: ARG002
        """The two moves together, in steps: whole numbers, in which an excess of zero is zero and has no sign."""
        move = gradient(x).sign().mul_(self.amplification)
        moves = move if self.moves is None else self.moves + move
        excess = moves.sign() * (moves.abs() - budget.steps).clamp_(min=0.0)
        projected = self._around(excess).sign_().mul_(self.amplification)
        self.moves = moves + projected
        return move + projected

    def advance(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:
        return budget.project(x.add(self.direction(x, gradient, budget, draws), alpha=budget.step))

    def _around(self, excess: Tensor) -> Tensor:
        """(N, 3, H, W): the sum of a pixel's neighbours. The sign of their mean is wanted, so they are not divided."""
        size, border = self.kernel, self.kernel // 2
        square = torch.nn.functional.avg_pool2d(excess, size, stride=1, padding=border, divisor_override=1)
        return square - excess
