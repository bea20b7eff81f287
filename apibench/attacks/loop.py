"""The attack loop: sign steps inside the L-infinity ball, bound by construction and after rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apibench._torch import torch
from apibench.attacks.gradients import Momentum
from apibench.attacks.transforms import InputDiversity
from apibench.classifiers import View
from apibench.draws import generator as generator  # of an image: callers of the loop need one
from apibench.errors import ApibenchError
from apibench.pixels import LEVELS

Tensor = torch.Tensor

ATTACKS = ("mi-di",)


@dataclass(frozen=True)
class AttackSettings:
    """An attack: MI (momentum ``mu``) with DI (``di_probability``, ``di_smallest``), untargeted.

    ``epsilon`` is the bound in whole levels of 255; the step is epsilon / ``steps``; the start is zero.
    """

    name: str = "mi-di"
    epsilon: int = 16
    steps: int = 10
    mu: float = 1.0
    di_probability: float = 0.9
    di_smallest: float = 299 / 330
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise ValueError(f"{self.name}: no such attack; there is {', '.join(ATTACKS)}")
        if not 1 <= self.epsilon <= LEVELS or self.steps < 1:
            raise ValueError(f"epsilon must be 1 to {LEVELS} and steps at least 1, got {self.epsilon} and {self.steps}")

    @property
    def variant(self) -> str:
        """What the images are called in sets and tables: ``mi-di/eps16``."""
        return f"{self.name}/eps{self.epsilon}"


def attack(
    x: Tensor,
    labels: Tensor,
    logits: Callable[[Tensor, Sequence[View | None]], Tensor],
    settings: AttackSettings,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Move ``x`` away from ``labels`` within the bound.

    ``x``: (N, 3, H, W) float pixels in [0, 1], whole levels of 255. ``labels``: (N,) class indices. ``logits``: the
    ensemble, (N, 3, H, W) and a view an image -> (N, classes). ``generators``: one an image. Returns (N, 3, H, W) in [0, 1],
    whole levels of 255, with ``|result - x| <= epsilon / 255``. Nothing computed for an image depends on the others of its
    batch.
    """
    bound = settings.epsilon / LEVELS
    lower, upper = (x - bound).clamp_(min=0.0), (x + bound).clamp_(max=1.0)
    direction = Momentum(settings.mu)
    diversity = InputDiversity(settings.di_probability, settings.di_smallest)
    adversarial = x.clone()
    for _ in range(settings.steps):
        adversarial.requires_grad_()
        # Summed, not averaged: each image's gradient is its own, whatever the size of the batch.
        loss = torch.nn.functional.cross_entropy(logits(adversarial, diversity(generators)), labels, reduction="sum")
        if not math.isfinite(loss.item()):
            raise ApibenchError(
                "a surrogate's logits are not finite numbers; are its weights whole, its mean and std right?"
            )
        # Only the gradient of the input is asked for; weight gradients would cost half as much again.
        (gradient,) = torch.autograd.grad(loss, adversarial)
        with torch.no_grad():
            adversarial = adversarial.detach().add_(direction(gradient).sign(), alpha=bound / settings.steps)
            torch.clamp(adversarial, lower, upper, out=adversarial)
    # Rounded, not truncated: truncating breaks the bound by one level. Epsilon is whole, so rounding cannot.
    return adversarial.mul_(LEVELS).round_().div_(LEVELS)
