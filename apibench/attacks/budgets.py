"""The ball an attack may move in, around the clean image: steps, projection, and the bound after rounding to 8 bits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from apibench._torch import torch
from apibench.attacks.catalogue import L2, LINF
from apibench.pixels import LEVELS

Tensor = torch.Tensor


class Budget(ABC):
    """A ball around ``clean``, (N, 3, H, W) in [0, 1] and whole levels of 255, cut off at 0 and 1.

    ``radius`` is in pixel values of [0, 1]; ``step`` is the length of a step, radius / steps. Nothing done to an image
    depends on the others of its batch.
    """

    def __init__(self, clean: Tensor, radius: float, steps: int) -> None:
        self.clean = clean
        self.radius = radius
        self.steps = steps
        self.step = radius / steps

    @abstractmethod
    def move(self, x: Tensor, direction: Tensor, length: float | None = None) -> Tensor:
        """A step of ``length`` (``step``, if not said) from ``x``, back inside the ball. A direction of zero moves nothing."""

    @abstractmethod
    def units(self, direction: Tensor) -> Tensor:
        """(N, 1, 1, 1): by what to multiply a sum of L1-normalised gradients before it is added to pixels.

        In L-infinity by the number of values, which makes each gradient's mean absolute value 1, as the papers normalise;
        in L2 by the inverse of its norm.
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball, an image: (N, 3, H, W)."""

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """The image as a file holds it, whole levels of 255, within the bound exactly."""

    @abstractmethod
    def spread(self, share: float) -> float:
        """The half-width of uniform noise a pixel that reaches ``share`` of the radius (in L2: in the mean)."""


class LInfinityBall(Budget):
    """|x - clean| <= radius a value; a step is the sign of the direction."""

    def __init__(self, clean: Tensor, epsilon: float, steps: int) -> None:
        """``epsilon`` in whole levels of 255."""
        super().__init__(clean, epsilon / LEVELS, steps)
        self.lower, self.upper = (clean - self.radius).clamp_(min=0.0), (clean + self.radius).clamp_(max=1.0)

    def move(self, x: Tensor, direction: Tensor, length: float | None = None) -> Tensor:
        moved = x.add(direction.sign(), alpha=self.step if length is None else length)
        return torch.clamp(moved, self.lower, self.upper, out=moved)

    def units(self, direction: Tensor) -> Tensor:
        return direction.new_full((len(direction), 1, 1, 1), direction[0].numel())

    def project(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.lower, self.upper)

    def rounded(self, x: Tensor) -> Tensor:
        # Rounded, not truncated: truncating breaks the bound by one level. Epsilon is whole, so rounding cannot.
        return x.mul(LEVELS).round_().div_(LEVELS)

    def spread(self, share: float) -> float:
        return share * self.radius


class L2Ball(Budget):
    """The Euclidean norm of x - clean over all of an image's values is at most the radius; a step has a fixed norm.

    ``epsilon`` is the radius itself, for pixels in [0, 1]: 3 to 10 for a photograph.
    """

    def move(self, x: Tensor, direction: Tensor, length: float | None = None) -> Tensor:
        unit = direction * _inverse(_norm(direction))
        return self.project(x + unit * (self.step if length is None else length))

    def units(self, direction: Tensor) -> Tensor:
        return _inverse(_norm(direction))

    def project(self, x: Tensor) -> Tensor:
        noise = x - self.clean
        noise = noise * (self.radius * _inverse(_norm(noise))).clamp(max=1.0)
        return (self.clean + noise).clamp_(0.0, 1.0)  # towards the clean image: never further out

    def rounded(self, x: Tensor) -> Tensor:
        return torch.stack([self._rounded(image, clean) for image, clean in zip(x, self.clean, strict=True)])

    def _rounded(self, image: Tensor, clean: Tensor) -> Tensor:
        """Round to the nearest; where that leaves the ball, round those towards the clean image that it costs the least."""
        start = clean.mul(LEVELS).round()
        exact = image.mul(LEVELS) - start
        noise = exact.round()
        allowed = math.floor((self.radius * LEVELS) ** 2 + 1e-6)
        excess = int(noise.double().square().sum()) - allowed
        if excess > 0:
            away = noise.abs() - exact.abs()  # by how much each was rounded outwards, at most 1/2
            order = away.flatten().argsort(descending=True, stable=True)
            flat = noise.flatten()
            # One level less takes 2n - 1 off the square of n.
            saved = (2 * flat[order].abs() - 1).clamp(min=0).double().cumsum(0)
            count = int((saved < excess).sum()) + 1
            chosen = order[:count]
            flat[chosen] -= flat[chosen].sign()
            noise = flat.view_as(noise)
        return (start + noise).div_(LEVELS)

    def spread(self, share: float) -> float:
        # Uniform noise in [-a, a) has the norm a * sqrt(values / 3).
        return share * self.radius * math.sqrt(3.0 / self.clean[0].numel())


def ball(norm: str, clean: Tensor, epsilon: float, steps: int) -> Budget:
    """The ball of a norm; ``epsilon`` in levels of 255 (``linf``) or of pixels in [0, 1] (``l2``)."""
    balls: dict[str, type[LInfinityBall | L2Ball]] = {LINF: LInfinityBall, L2: L2Ball}
    return balls[norm](clean, epsilon, steps)


def _norm(x: Tensor) -> Tensor:
    """(N, 1, 1, 1): each image's own."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norm


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0 or not finite: dividing by it would give NaN."""
    usable = (x > 0) & x.isfinite()
    return torch.where(usable, 1.0 / x, torch.zeros_like(x))
