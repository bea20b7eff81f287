"""The attack loop: steps inside the ball, bound by construction and after rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from apibench import defaults
from apibench._torch import torch
from apibench.attacks import composition
from apibench.attacks.budgets import ball
from apibench.attacks.catalogue import AIMS, LARGEST_RADIUS, LINF, NORMS, UNTARGETED
from apibench.attacks.ensembles import EnsembleRule
from apibench.attacks.gradients import GradientRule
from apibench.attacks.objective import Objective
from apibench.attacks.surrogates import Networks
from apibench.attacks.transforms import InputTransform, Others
from apibench.draws import Draws
from apibench.draws import generator as generator  # of an image: callers of the loop need one
from apibench.pixels import LEVELS

Tensor = torch.Tensor


@dataclass(frozen=True)
class AttackSettings:
    """An attack: its parts by ``name`` (see :mod:`~apibench.attacks.catalogue`), its ball, its aim.

    ``epsilon``: the bound, in whole levels of 255 (``linf``), or the radius for pixels in [0, 1] (``l2``); the step is
    epsilon / ``steps``; the start is zero. ``target``: ``untargeted`` moves away from the image's class; ``given`` moves towards
    the class given for the image, ``least-likely`` towards the one that the ensemble finds least likely, ``random`` towards any
    other, drawn.
    """

    name: str = defaults.ATTACK
    epsilon: float = 16
    steps: int = 10
    seed: int = 0
    norm: str = LINF
    target: str = UNTARGETED

    def __post_init__(self) -> None:
        """Raises ValueError, and ApibenchError for a name that is no attack's."""
        if self.norm not in NORMS:
            raise ValueError(f"{self.norm}: no such norm; there are {', '.join(NORMS)}")
        if self.target not in AIMS:
            raise ValueError(f"{self.target}: no such target; there are {', '.join(AIMS)}")
        parts = composition.parse(self.name)
        parts.check(self.norm, self.targeted)
        object.__setattr__(self, "name", parts.name)
        if self.norm == LINF and not (1 <= self.epsilon <= LEVELS and self.epsilon == int(self.epsilon)):
            raise ValueError(f"epsilon must be a whole number from 1 to {LEVELS} levels, got {self.epsilon}")
        if self.norm != LINF and not 0 < self.epsilon <= LARGEST_RADIUS:
            raise ValueError(
                f"epsilon must be a radius above 0 and at most {LARGEST_RADIUS}, for pixels in [0, 1], got {self.epsilon}"
            )
        object.__setattr__(self, "epsilon", int(self.epsilon) if self.norm == LINF else float(self.epsilon))
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def targeted(self) -> bool:
        return self.target != UNTARGETED

    @cached_property
    def composition(self) -> composition.Composition:
        return composition.parse(self.name)

    @property
    def variant(self) -> str:
        """What the images are called in sets and tables: ``mi-di/eps16``, ``mi-logit/random/l2-3.0``."""
        aim = f"/{self.target}" if self.targeted else ""
        bound = f"eps{self.epsilon}" if self.norm == LINF else f"l2-{self.epsilon!r}"
        return f"{self.name}{aim}/{bound}"

    def recipe(self) -> dict[str, Any]:
        """All that decides what the images are, the parts' numbers included."""
        parts = [
            {
                "name": chosen.part.name,
                **dict(zip((p.name for p in chosen.part.parameters), chosen.values, strict=True)),
            }
            for chosen in self.composition
        ]
        return {**asdict(self), "parts": parts}


class Attacked(NamedTuple):
    """``images``: (N, 3, H, W) in [0, 1], whole levels of 255. ``gradients``: those taken of a network, an image."""

    images: Tensor
    gradients: int


def attack(
    x: Tensor,
    labels: Tensor,
    networks: Networks,
    settings: AttackSettings,
    generators: Sequence[torch.Generator],
    others: Others | None = None,
) -> Attacked:
    """Move ``x`` away from ``labels``, or towards them where the attack is targeted, within the bound.

    ``x``: (N, 3, H, W) float pixels in [0, 1], whole levels of 255. ``labels``: (N,) class indices. ``generators``: one an
    image. ``others``: where a transform finds other images of the set. The noise of each result is at most epsilon in its norm,
    exactly, as whole levels of 255. Nothing computed for an image depends on the others of its batch.
    """
    parts = settings.composition
    draws = Draws(generators)
    budget = ball(settings.norm, x, settings.epsilon, settings.steps)
    transforms: list[InputTransform] = [chosen.make() for chosen in parts.transforms]
    for transform in transforms:
        transform.begin(x, others)
    rule: GradientRule = parts.gradient.make()
    ensemble: EnsembleRule = parts.ensemble.make()
    objective = Objective(networks, labels, parts.loss.make(), transforms, draws, settings.targeted)
    adversarial = x.clone()
    for _ in range(settings.steps):
        adversarial = ensemble.advance(adversarial, objective, rule, budget, draws)
    return Attacked(budget.rounded(adversarial), objective.gradients)
