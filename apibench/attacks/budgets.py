"""The ball an attack may move in, around the clean image: steps, projection, and the bound after rounding to 8 bits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction

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
        """A point of the ball and of [0, 1], ``x`` itself where it is one: (N, 3, H, W)."""

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """The image as a file holds it, whole levels of 255, within the bound exactly whatever ``x`` is.

        Of a point of the ball, no value is moved by more than one level from the nearest.
        """

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
        # Rounded, not truncated: truncating breaks the bound by one level. Epsilon is whole, so rounding cannot; clamped all
        # the same, in whole numbers, so that the bound rests on nothing that was computed before.
        start, epsilon = self.clean.mul(LEVELS).round_(), round(self.radius * LEVELS)
        lower, upper = (start - epsilon).clamp_(min=0.0), (start + epsilon).clamp_(max=LEVELS)
        return torch.clamp(x.mul(LEVELS).round_(), lower, upper).div_(LEVELS)

    def spread(self, share: float) -> float:
        return share * self.radius


class L2Ball(Budget):
    """The Euclidean norm of x - clean over all of an image's values is at most the radius; a step has a fixed norm.

    ``epsilon`` is the radius itself, for pixels in [0, 1]: 3 to 10 for a photograph.
    """

    def move(self, x: Tensor, direction: Tensor, length: float | None = None) -> Tensor:
        return self.project(x + unit(direction) * (self.step if length is None else length))

    def units(self, direction: Tensor) -> Tensor:
        return inverse(_norm(direction))

    def project(self, x: Tensor) -> Tensor:
        """Scaled towards the clean image, then cut off at 0 and 1, which never leads further out.

        Where something is cut off, a point a little nearer to ``x`` may be in the ball too.
        """
        noise = x - self.clean
        norm = _norm(noise)
        # What is inside stays as it is: clean + (x - clean) is not x in the last bits.
        inside = torch.where(norm > self.radius, self.clean + noise * (self.radius * inverse(norm)), x)
        return inside.clamp_(0.0, 1.0)

    def rounded(self, x: Tensor) -> Tensor:
        pairs = zip(self.project(x), self.clean, strict=True)
        return torch.stack([self._rounded(image, clean) for image, clean in pairs])

    def _rounded(self, image: Tensor, clean: Tensor) -> Tensor:
        """Round to the nearest; where that leaves the ball, round towards the clean image what was rounded away from it the most.

        Rounding all towards the clean image is inside, so that one level less a value is always enough.
        """
        start = clean.mul(LEVELS).round()
        exact = image.mul(LEVELS) - start
        noise = exact.round()
        excess = int(noise.double().square().sum()) - self._allowed
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

    @property
    def _allowed(self) -> int:
        """The greatest sum of squared whole levels; of the radius as it is written, 0.2 being 51 levels and not a little less."""
        return math.floor((Fraction(str(self.radius)) * LEVELS) ** 2)

    def spread(self, share: float) -> float:
        # Uniform noise in [-a, a) has the norm a * sqrt(values / 3).
        return share * self.radius * math.sqrt(3.0 / self.clean[0].numel())


def ball(norm: str, clean: Tensor, epsilon: float, steps: int) -> Budget:
    """The ball of a norm; ``epsilon`` in levels of 255 (``linf``) or of pixels in [0, 1] (``l2``)."""
    balls: dict[str, type[LInfinityBall | L2Ball]] = {LINF: LInfinityBall, L2: L2Ball}
    return balls[norm](clean, epsilon, steps)


def unit(x: Tensor, over: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """(N, 3, H, W): each image's own, divided by its Euclidean norm; zero where it is zero or not finite.

    ``over``: the dimensions of a vector; (1,) makes each pixel's three channels one.
    """
    largest = x.abs().amax(dim=over, keepdim=True)
    # Divided by its largest value first: the squares of a faint gradient (1e-20 and less) would be zero in float32.
    scaled = torch.where((largest > 0) & largest.isfinite(), x / largest, torch.zeros_like(x))
    return scaled / _norm(scaled, over).clamp_(min=1.0)  # one value is 1 or -1, unless all are zero


def _norm(x: Tensor, over: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """(N, 1, 1, 1): each image's own."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=over, keepdim=True)
    return norm


def inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0 or not finite: dividing by it would give NaN. Never more than 1 / the smallest normal number.

    Where denormals are not flushed (on GPUs) the inverse of one would be infinite, and a zero times that NaN.
    """
    usable = (x > 0) & x.isfinite()
    return torch.where(usable, 1.0 / x.clamp(min=torch.finfo(x.dtype).tiny), torch.zeros_like(x))
