"""Purifier-aware attacks: the classifier behind its purifier as one model, and PGD through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from apibench._torch import torch
from apibench.imageset import pixels_sha256
from apibench.pixels import LEVELS, to_pixels, to_tensor
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor


class Guarded(torch.nn.Module):
    """A classifier behind a purifier: (N, 3, H, W) pixels in [0, 1] -> logits.

    ``forward`` is what an attacker differentiates: the purifier's own gradient, or the identity's where it has none (BPDA,
    Athalye, Carlini, Wagner, ICML 2018, arXiv 1802.00420). Where the purifier draws, the logits are averaged over ``eot`` draws,
    fresh ones in every call (EOT, Athalye et al., ICML 2018, arXiv 1707.07397). The mean of logits and the mean of
    log-probabilities differ by a constant of the image, so cross-entropy and every margin are the same for both.

    ``judge`` is what the defended system answers. Raises ValueError where ``eot`` is below 1.
    """

    def __init__(self, classifier: torch.nn.Module, purifier: Purifier, eot: int = 1, seed: int = 0) -> None:
        super().__init__()
        if eot < 1:
            raise ValueError(f"eot must be at least 1, got {eot}")
        self.classifier = classifier
        self.purifier = purifier
        self.eot = eot if purifier.random else 1
        self._judge_seed = seed
        self.seed(seed, "")
        self.eval()

    @property
    def random(self) -> bool:
        """Whether the purifier draws."""
        return self.purifier.random

    def seed(self, seed: int, identity: str) -> None:
        """From now on the attacker's draws are this image's."""
        self._attacker = (seed, identity)
        self._drawn = 0

    def forward(self, x: Tensor) -> Tensor:
        total = self._once(x)
        for _ in range(self.eot - 1):
            total = total + self._once(x)
        return total / self.eot if self.eot > 1 else total

    def _once(self, x: Tensor) -> Tensor:
        if self.random:
            seed, identity = self._attacker
            # Numbered, so that what the judge draws in between does not change what the attacker draws next.
            self.purifier.seed(seed, f"attacker/{identity}/{self._drawn}")
            self._drawn += 1
        return cast(Tensor, self.classifier(self.purifier.through(x)))

    @torch.no_grad()
    def judge(self, x: Tensor) -> Tensor:
        """The defended system's logits at test time, (N, 3, H, W) -> (N, classes).

        Rounded to 8 bits on the way in, since a file is what is sent, and on the way out, as ``apibench purify`` writes it;
        each image alone, a purifier that draws seeded by the identity of the image it is given.
        """
        return torch.cat([self._judge_one(image[None]) for image in x])

    def _judge_one(self, x: Tensor) -> Tensor:
        pixels = to_pixels(x)
        self.purifier.seed(self._judge_seed, pixels_sha256(pixels))
        purified = self.purifier(to_tensor(pixels).to(x.device))
        return cast(Tensor, self.classifier(to_tensor(to_pixels(purified)).to(x.device)))


def adaptive(
    x: Tensor,
    label: int,
    model: Callable[[Tensor], Tensor],
    *,
    epsilon: int,
    steps: int,
    draws: torch.Generator,
    judge: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """PGD in the L-infinity ball that keeps its best iterate: the strong attack on a system with a purifier.

    ``x``: (1, 3, H, W), whole levels of 255. ``model``: pixels in [0, 1] -> logits, with a gradient. ``epsilon``: whole levels.
    Start: uniform in the ball. Step: a quarter of epsilon, so that the noise can cross the ball many times within ``steps``
    (Tramer et al., NeurIPS 2020, arXiv 2002.08347, on adaptive attacks). Start and step are whole levels, so every iterate is a
    file, and what is learnt about it holds for the file. The best iterate is the one of highest cross-entropy, the clean image
    among them; with ``judge`` (the defended system's own answer) the first best one that fools it ends the attack. More steps
    walk the same way further: they never do worse.

    Returns (1, 3, H, W), whole levels of 255, within the bound.
    """
    clean = x.mul(LEVELS).round()
    lower, upper = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=LEVELS)
    step = max(1, round(epsilon / 4))
    target = torch.tensor([label], device=x.device)
    with torch.no_grad():
        best, best_loss = clean, float(torch.nn.functional.cross_entropy(model(clean / LEVELS), target))
    start = torch.randint(-epsilon, epsilon + 1, clean.shape, generator=draws)
    current = (clean + start.to(clean)).clamp(lower, upper)
    for remaining in range(steps, -1, -1):
        pixels = (current / LEVELS).requires_grad_(remaining > 0)
        loss = torch.nn.functional.cross_entropy(model(pixels), target)
        if loss.item() > best_loss:
            best, best_loss = current, loss.item()
            if judge is not None and judge(best / LEVELS).argmax(1).item() != label:
                break
        if remaining:
            (gradient,) = torch.autograd.grad(loss, pixels)
            current = (current + step * gradient.sign()).clamp(lower, upper)
    return best / LEVELS
