"""CWA: towards a weakness that the networks have in common, where their losses are flat and their optima close together."""

from __future__ import annotations

import math

from apibench._torch import torch
from apibench.attacks.budgets import Budget, unit
from apibench.attacks.ensembles import MeanLogits
from apibench.attacks.gradients import GradientRule, Momentum
from apibench.attacks.objective import Objective
from apibench.draws import Draws

Tensor = torch.Tensor


class CommonWeakness(MeanLogits):
    """CWA (Chen et al., ICLR 2024, arXiv 2303.09105, algorithm 1, MI-CWA): sharpness-aware, and the networks in turn.

    A step from x goes back first, against the loss of the mean logits, by epsilon / ``back`` (sharpness-aware minimisation;
    16/255/15 in the paper). From there each network in turn, in the order given, moves the image by ``inner`` times the sum of
    L2-normalised gradients of their own losses (the cosine similarity encourager), which has the decay of the gradient rule and
    lasts the attack. From x to where that ends is what the gradient rule is given, in place of a gradient, for the step itself,
    twice as long as other attacks': epsilon / 5 at ten steps, as in the paper. With ``i`` neither sum is kept.

    ``inner`` is the paper's 250, for pixels in [0, 1], whatever epsilon: over a photograph's values a normalised gradient is so
    faint that this is a few epsilon a value, and most are cut off at the bound. Each image is normalised by its own L1 norm,
    where the authors' code and TransferAttack take the whole batch's; with a target the authors' code leaves out the step back,
    here as in the paper it is made.
    """

    def __init__(self, inner: float = 250.0, back: float = 15.0) -> None:
        if not (0 < inner < math.inf and 0 < back < math.inf):
            raise ValueError("cwa needs an inner step and a divisor of the step back above 0")
        self.inner = inner
        self.back = back
        self._sum: Tensor | float = 0.0

    def advance(self, x: Tensor, objective: Objective, rule: GradientRule, budget: Budget, draws: Draws) -> Tensor:
        decay = rule.mu if isinstance(rule, Momentum) else 0.0
        point = budget.move(x, -self.gradient(x, objective, budget), budget.radius / self.back)
        for index in range(len(objective.networks)):
            self._sum = decay * self._sum + unit(objective.of_network(point, index))
            point = budget.project(point + self.inner * self._sum)
        return budget.move(x, rule.direction(x, lambda _: point - x, budget, draws), 2 * budget.step)
