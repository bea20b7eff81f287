"""AdaEA: networks whose noise transfers to the others weigh more, and pixels on which the networks disagree are left alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from apibench._torch import torch
from apibench.attacks.budgets import Budget, unit
from apibench.attacks.ensembles import EnsembleRule
from apibench.attacks.losses import Loss
from apibench.attacks.objective import Objective

Tensor = torch.Tensor

#: A loss below this says only that a network is sure: float32 cannot tell it from zero, and ratios of it would be noise.
SURE = 1e-6


class Adaptive(EnsembleRule):
    """AdaEA (Chen et al., ICCV 2023, arXiv 2308.02897): the gradient of the loss of a weighted sum of logits, filtered.

    *Adaptive gradient modulation*: each of K networks makes a trial step of its own from x; its weight is the softmax over the
    networks of ``beta`` times the sum, over the others, of their loss on that trial in units of their loss on their own. (A
    target makes the losses fall, so the ratio is turned over; the paper has no targets.) *Disparity-reduced filter*: a pixel
    where the cosine of the networks' gradients (over its three channels, the mean of all pairs) is below ``threshold`` does
    not move. All of it is an image's own: weights, losses and cosines; the authors' code and TransferAttack weigh by the mean
    loss of the batch. Their filter also leaves out the last network's row and divides by K all the same, which takes the
    cosines towards zero (by half, for two networks); the authors' momentum attack weighs in the first step only. Here both
    are as the paper has them.

    A step costs K gradients of the networks' own losses and K of the weighted one, all networks shown the same copies in each;
    and K² forward passes without a gradient, which no count of gradients shows, to judge the trials as they are, untransformed.
    """

    def __init__(self, beta: float = 10.0, threshold: float = -0.3) -> None:
        if not (beta >= 0 and -1 <= threshold <= 1):
            raise ValueError("adaea needs a beta of at least 0 and a threshold in [-1, 1]")
        self.beta = beta
        self.threshold = threshold

    def gradient(self, x: Tensor, objective: Objective, budget: Budget) -> Tensor:
        own = objective.of_each(x)
        weights = self.weights(x, own, objective, budget)

        def weighted(logits: Sequence[Tensor], labels: Tensor, loss: Loss) -> Tensor:
            return loss((weights[:, :, None] * torch.stack([*logits])).sum(0), labels)

        return objective.gradient(x, weighted) * (agreement(own) >= self.threshold)

    def weights(self, x: Tensor, own: Sequence[Tensor], objective: Objective, budget: Budget) -> Tensor:
        """(K, N): of each network's logits for each image, from the gradients at ``x`` of the networks' ``own`` losses."""
        trials = [budget.move(x, gradient) for gradient in own]
        # losses[i, j]: of network i on what network j made.
        rows = [torch.stack([objective.losses(trial, i) for trial in trials]) for i in range(len(own))]
        losses = torch.stack(rows).double().clamp_(min=SURE)
        ratios = losses / losses.diagonal().T[:, None]
        if objective.targeted:
            ratios = 1.0 / ratios
        others = ratios.sum(0) - 1.0  # a network's loss on its own trial is no evidence, and is 1 of its own
        return (self.beta * others).softmax(0).to(x)


def agreement(gradients: Sequence[Tensor]) -> Tensor:
    """(N, 1, H, W): the cosine, over the channels, of two networks' gradients at a pixel, the mean of all pairs.

    1 where there is one network alone; a gradient of zero, or one that is not finite, agrees and disagrees with nothing: 0.
    """
    if len(gradients) == 1:
        return torch.ones_like(gradients[0][:, :1])
    directions = [unit(gradient, over=(1,)) for gradient in gradients]
    cosines = [(a * b).sum(1, keepdim=True) for a, b in itertools.combinations(directions, 2)]
    return torch.stack(cosines).mean(0)
