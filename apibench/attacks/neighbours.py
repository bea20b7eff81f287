"""Gradient rules that look around before each step: the gradients of a neighbourhood, not of the point alone.

A neighbourhood is as wide as a share of the budget (``Budget.spread``), so each rule is the same in L-infinity and L2. All take a
step from L1-normalised, accumulated gradients (:class:`~apibench.attacks.gradients.Momentum`), whose guards against a gradient of
zero, or one that is not finite, are theirs too.
"""

from __future__ import annotations

from apibench._torch import torch
from apibench.attacks.budgets import Budget
from apibench.attacks.gradients import Gradient, Momentum, Nesterov
from apibench.draws import Draws

Tensor = torch.Tensor


class VarianceTuned(Momentum):
    """VMI-FGSM: momentum, each gradient corrected by how those around the last point differed from its own (Wang and He, CVPR
    2021, arXiv 2103.15571).

    The correction is the mean gradient at ``samples`` points drawn uniformly within ``beta`` times the budget of the last
    point, minus the gradient there; the first step has none. It is computed when it is used: the last step's, used by none, is
    not, so an attack takes ``samples`` gradients fewer than the paper's code.
    """

    def __init__(self, samples: int = 20, beta: float = 1.5, mu: float = 1.0) -> None:
        super().__init__(mu)
        self.samples = samples
        self.beta = beta
        self.last: tuple[Tensor, Tensor] | None = None  # the point of the last step and the gradient it went by

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:
        variance = self._variance(gradient, budget, draws)
        current = gradient(self.looked_at(x, budget))
        self.last = x, current
        return self.accumulate(current if variance is None else current + variance)

    def looked_at(self, x: Tensor, budget: Budget) -> Tensor:  # noqa: ARG002
        """Where the gradient of a step is taken: (N, 3, H, W)."""
        return x

    def _variance(self, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor | None:
        """(N, 3, H, W): the correction of this step by the neighbourhood of the last one."""
        if self.last is None:
            return None
        x, current = self.last
        total = torch.zeros_like(x)
        for _ in range(self.samples):
            total += gradient(_neighbour(x, self.beta, budget, draws))
        return total.div_(self.samples).sub_(current)


class VarianceTunedNesterov(VarianceTuned, Nesterov):
    """VNI-FGSM: variance tuning, the gradient taken a step of the momentum ahead (Wang and He, CVPR 2021, arXiv 2103.15571).

    As in the authors' code the neighbours lie around the point itself, and the gradient taken from their mean is the one ahead;
    TransferAttack looks ahead from the neighbours too.
    """

    def looked_at(self, x: Tensor, budget: Budget) -> Tensor:
        return self.ahead(x, budget)


class PenalizedGradientNorm(Momentum):
    """PGN: towards maxima that are high and flat (Ge et al., NeurIPS 2023, arXiv 2306.05225).

    At each of ``samples`` points, uniform within ``zeta`` times the budget, the gradient there and the one a step downhill from
    there count 1 - ``delta`` and ``delta``; the second stands for the Hessian in the gradient of the gradient's norm. A
    step downhill is as the authors' code has it, against the gradient over its mean absolute value (in L2: over its norm), and
    each of the two points is transformed anew, once; TransferAttack transforms the second one twice.
    """

    def __init__(self, samples: int = 20, zeta: float = 3.0, delta: float = 0.5, mu: float = 1.0) -> None:
        super().__init__(mu)
        self.samples = samples
        self.zeta = zeta
        self.delta = delta

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:
        total = torch.zeros_like(x)
        for _ in range(self.samples):
            near = _neighbour(x, self.zeta, budget, draws)
            uphill = gradient(near)
            normalised = _normalised(uphill)
            below = near - normalised * budget.units(normalised) * budget.step
            total.add_(uphill, alpha=1 - self.delta).add_(gradient(below), alpha=self.delta)
        return self.accumulate(total)


class EnhancedMomentum(Momentum):
    """EMI-FGSM: the mean gradient at points along the last step's mean gradient (Wang et al., BMVC 2021, arXiv 2103.10609).

    ``samples`` points, evenly from ``eta`` steps behind to ``eta`` steps ahead, a step being the mean gradient over its mean
    absolute value (in L2: over its norm) times the step length; in the first step they are one point.
    """

    def __init__(self, samples: int = 11, eta: float = 7.0, mu: float = 1.0) -> None:
        super().__init__(mu)
        self.samples = samples
        self.eta = eta
        self.last: Tensor | None = None  # the last step's mean gradient, normalised

    def direction(self, x: Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor:  # noqa: ARG002
        last = torch.zeros_like(x) if self.last is None else self.last
        step = last * budget.units(last) * budget.step
        total = torch.zeros_like(x)
        for factor in torch.linspace(-self.eta, self.eta, self.samples, dtype=torch.float64).tolist():
            total += gradient(x.add(step, alpha=factor))
        self.last = _normalised(total)
        return self.accumulate(total)


def _neighbour(x: Tensor, share: float, budget: Budget, draws: Draws) -> Tensor:
    """A point around each image, uniform within ``share`` of the budget: (N, 3, H, W), cut off nowhere."""
    return x + draws.uniform(x, budget.spread(share))


def _normalised(gradient: Tensor) -> Tensor:
    """Each image's gradient over its L1 norm: the first sum of a momentum. Zero where it is zero or not finite."""
    return Momentum(0.0).accumulate(gradient)
