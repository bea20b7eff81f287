"""The image an attack is after, and the model as the attack may ask it: counted, capped, and as a system that is sent files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.evaluation.aware import Guarded
from apibench.evaluation.library import LEVELS, LibraryAttack
from apibench.imageset import Pixels
from apibench.pixels import to_pixels, to_tensor

Tensor = torch.Tensor


@dataclass(frozen=True)
class Task:
    """One image to attack: ``clean`` (H, W, 3) uint8, the same as ``x`` (1, 3, H, W), its class, and by what."""

    clean: Pixels
    x: Tensor
    label: int
    attack: LibraryAttack

    @property
    def labels(self) -> Tensor:
        return torch.tensor([self.label], device=self.x.device)

    @property
    def bound(self) -> float:
        """Epsilon for pixels in [0, 1]; infinite without one."""
        epsilon = self.attack.epsilon
        if epsilon is None:
            return math.inf
        return epsilon / LEVELS if self.attack.info.norm == "linf" else epsilon

    def fit(self, x: Tensor) -> Pixels:
        """(1, 3, H, W) of any values -> the pixels of a file, (H, W, 3) uint8, within the bound after rounding."""
        pixels = to_pixels(x.clamp(0, 1))
        if self.attack.epsilon is None:
            return pixels
        if self.attack.info.norm == "linf":
            epsilon = int(self.attack.epsilon)
            noise = np.clip(pixels.astype(np.int16) - self.clean, -epsilon, epsilon)
            return cast(Pixels, (self.clean + noise).astype(np.uint8))
        if self._square(pixels) <= (self.attack.epsilon * LEVELS) ** 2:
            return pixels
        return self._shortened((x - self.x).clamp(-1, 1))

    def _shortened(self, noise: Tensor) -> Pixels:
        """The longest multiple of ``noise`` that is in the L2 ball once rounded: rounding itself adds to the norm."""
        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            inside = self._square(self._at(noise, middle)) <= (cast(float, self.attack.epsilon) * LEVELS) ** 2
            low, high = (middle, high) if inside else (low, middle)
        return self._at(noise, low)

    def _at(self, noise: Tensor, length: float) -> Pixels:
        return to_pixels((self.x + noise * length).clamp(0, 1))

    def _square(self, pixels: Pixels) -> int:
        return int(((pixels.astype(np.int64) - self.clean) ** 2).sum())


class Finished(Exception):  # noqa: N818 - no error: the way out of a library's loop
    """The attack is over: its queries are spent, or it has what it is after (``Asked.best``)."""


class Asked(torch.nn.Module):
    """The model as an attack may ask it: (N, 3, H, W) pixels in [0, 1] -> logits, counted and capped.

    A black-box attack gets ``budget`` answers and not one more; its queries are rounded to 8 bits, as a system that is sent files
    would see them. Where any noise in the ball will do, the first query that fools as a file ends the attack; an attack that only
    sees decisions goes on looking for a closer one, until one is in the ball, if there is a ball. ``best`` is what came of it:
    the file that fools, else, if the attack sees more than decisions, the query that came nearest to it. Raises Finished, and
    ApibenchError where logits are not finite.
    """

    def __init__(self, model: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.budget = task.attack.budget if task.attack.info.black_box else None
        self.queries = 0
        self.gradients = 0
        self.best: Tensor | None = None
        self._rank = math.inf
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.budget is None:
            # Without a gradient to come, none is prepared: some purifiers are then much cheaper.
            with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
                logits = self._answer(self.model, x)
            if logits.requires_grad:
                logits.register_hook(self._count_gradient)  # type: ignore[no-untyped-call]
        else:
            if self.queries + len(x) > self.budget:
                raise Finished
            x = x.detach().clamp(0, 1).mul(LEVELS).round().div(LEVELS)
            with torch.no_grad():
                logits = self._answer(self.judge, x)
        if self.task.attack.info.sees == "decisions":
            self._keep_closest(x, logits)
        elif self.task.attack.info.stops:
            self._keep_nearest_to_fooling(x.detach(), logits.detach())
        return logits

    @property
    def random(self) -> bool:
        """Whether the system draws: its answers to a file are then not the attacker's to try."""
        return isinstance(self.model, Guarded) and self.model.random

    def judge(self, x: Tensor) -> Tensor:
        """What the system says at test time; not counted."""
        with torch.no_grad():
            return cast(Tensor, self.model.judge(x) if isinstance(self.model, Guarded) else self.model(x))

    def counted_judge(self, x: Tensor) -> Tensor:
        return self._answer(self.judge, x)

    def fools(self, pixels: Pixels) -> bool:
        """Whether the system is wrong on a file, (H, W, 3) uint8; not counted."""
        return int(self.judge(to_tensor(pixels).to(self.task.x)).argmax(1)) != self.task.label

    def _answer(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.queries += len(x)
        logits = model(x)
        if not logits.isfinite().all():
            raise ApibenchError(
                "the classifier's logits are not finite numbers; are its weights whole, its mean and std right?"
            )
        return logits

    def _count_gradient(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)

    def _keep_nearest_to_fooling(self, x: Tensor, logits: Tensor) -> None:
        others = logits.clone()
        others[:, self.task.label] = -math.inf
        for image, margin in zip(x, (logits[:, self.task.label] - others.amax(1)).tolist(), strict=True):
            if margin <= 0:
                pixels = self.task.fit(image[None])
                if self.budget is None:
                    self.queries += 1
                if self.fools(pixels):
                    self.best = to_tensor(pixels).to(x)
                    raise Finished
            if margin < self._rank:
                self.best, self._rank = image[None].clone(), margin

    def _keep_closest(self, x: Tensor, logits: Tensor) -> None:
        for image in x[logits.argmax(1) != self.task.label]:
            distance = float((image - self.task.x[0]).norm(p=math.inf if self.task.attack.info.norm == "linf" else 2))
            if distance < self._rank:
                self.best, self._rank = image[None].clone(), distance
            if distance <= self.task.bound + 1e-7 and self.task.attack.epsilon is not None:
                raise Finished
