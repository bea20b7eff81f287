"""Ensemble rules: how several surrogates judge one image together."""

from __future__ import annotations

from collections.abc import Sequence

from apibench._torch import torch
from apibench.attacks.budgets import Budget
from apibench.attacks.gradients import GradientRule
from apibench.attacks.losses import Loss
from apibench.attacks.objective import Objective
from apibench.attacks.surrogates import mean
from apibench.draws import Draws

Tensor = torch.Tensor


class EnsembleRule:
    """One an attack. The simple ones say how the networks' logits become one loss; others overrule the gradient or the update."""

    def combine(self, logits: Sequence[Tensor], labels: Tensor, loss: Loss) -> Tensor:
        """(N, classes) of each network -> (N,) losses, of which the gradient is taken."""
        raise NotImplementedError

    def gradient(self, x: Tensor, objective: Objective, budget: Budget) -> Tensor:  # noqa: ARG002
        """(N, 3, H, W) -> the ensemble's gradient there, of the same shape."""
        return objective.gradient(x, self.combine)

    def advance(self, x: Tensor, objective: Objective, rule: GradientRule, budget: Budget, draws: Draws) -> Tensor:
        """The image after a step."""
        return rule.advance(x, lambda point: self.gradient(point, objective, budget), budget, draws)


class MeanLogits(EnsembleRule):
    """The loss of the mean of the logits (Dong et al., CVPR 2018, section 3.4: the ensemble that transfers best)."""

    def combine(self, logits: Sequence[Tensor], labels: Tensor, loss: Loss) -> Tensor:
        return loss(mean(logits), labels)


class MeanProbabilities(EnsembleRule):
    """The loss of the mean of the probabilities (Liu et al., ICLR 2017, arXiv 1611.02770), given as their logarithm."""

    def combine(self, logits: Sequence[Tensor], labels: Tensor, loss: Loss) -> Tensor:
        logs = torch.stack([one.log_softmax(1) for one in logits])
        return loss(logs.logsumexp(0), labels)


class MeanLoss(EnsembleRule):
    """The mean of each network's own loss (Dong et al., CVPR 2018, section 3.4), each gone back through before the next."""

    def combine(self, logits: Sequence[Tensor], labels: Tensor, loss: Loss) -> Tensor:
        return mean([loss(one, labels) for one in logits])

    def gradient(self, x: Tensor, objective: Objective, budget: Budget) -> Tensor:  # noqa: ARG002
        return objective.of_mean(x)
