"""SVRE: the ensemble as a stochastic objective, the variance between its networks taken out of each step."""

from __future__ import annotations

from apibench._torch import torch
from apibench.attacks.budgets import Budget
from apibench.attacks.ensembles import MeanLogits
from apibench.attacks.gradients import GradientRule, Momentum
from apibench.attacks.objective import Objective
from apibench.draws import Draws

Tensor = torch.Tensor


class VarianceReduced(MeanLogits):
    """SVRE (Xiong et al., CVPR 2022, arXiv 2111.10752, algorithm 1): stochastic variance reduced gradients, as in SVRG.

    Of K networks, a step from x takes the gradient g of the loss of their mean logits and walks M = ``passes`` * K inner steps
    of the attack's own length from x. An inner step draws a network k (each image its own, uniformly) and follows
    g_k(here) - (g_k(x) - g), accumulated with the decay of the gradient rule, afresh each step. Where the inner walk was heading
    at its end is what the gradient rule is given for the step itself, from x. With ``i`` nothing is accumulated, inside or out.

    The paper's M of 16 for four networks is ``passes`` = 4. Both momenta take L1-normalised gradients, as the authors' code does.
    g_k(x) is the same throughout a step and is taken once a network, not once an inner step (in the authors' code and in
    TransferAttack): 2K + M gradients for K + 2M. Random transforms therefore show it one copy a step, the same to all networks.
    """

    def __init__(self, passes: int = 4) -> None:
        if passes < 1:
            raise ValueError(f"svre needs at least one inner step a network, got {passes}")
        self.passes = passes

    def advance(self, x: Tensor, objective: Objective, rule: GradientRule, budget: Budget, draws: Draws) -> Tensor:
        ensemble = self.gradient(x, objective, budget)
        drift = torch.stack(objective.of_each(x)).sub_(ensemble)  # (K, N, 3, H, W): g_k(x) - g
        count = len(objective.networks)
        images = torch.arange(len(x), device=x.device)
        inner = Momentum(rule.mu if isinstance(rule, Momentum) else 0.0)
        point = x
        for _ in range(self.passes * count):
            chosen = draws.whole(count)
            correction = drift[torch.tensor(chosen, device=x.device), images]
            heading = inner.accumulate(objective.of_chosen(point, chosen).sub_(correction))
            point = budget.move(point, heading)
        return rule.advance(x, lambda _: heading, budget, draws)
