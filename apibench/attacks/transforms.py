"""Input transforms: what is shown in the image's place, so that the noise does not fit one network and its grid."""

from __future__ import annotations

from collections.abc import Callable

from apibench._torch import torch
from apibench.classifiers import View
from apibench.draws import Draws

Tensor = torch.Tensor

#: Draws of a batch and the size (height, width) -> (N, 3, H, W): for each image another one of the set, of another class.
Others = Callable[[Draws, tuple[int, int]], Tensor]


class InputTransform:
    """One an attack. A transform changes pixels, the view that networks get of them, or the gradient that comes back.

    The gradient of a step is the mean over ``copies`` transformed copies (over all combinations, with several transforms);
    each copy has draws of its own, each image from its own generator.
    """

    copies = 1

    def begin(self, clean: Tensor, others: Others | None) -> None:
        """Called once, before the first step, with the clean (N, 3, H, W) images."""

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:  # noqa: ARG002
        """(N, 3, H, W) -> the copy of that number, the same shape, differentiable."""
        return x

    def views(self, draws: Draws) -> list[View | None] | None:  # noqa: ARG002
        """How the networks are shown the copy, a view an image; None where this is no matter of this transform."""
        return None

    def gradient(self, gradient: Tensor) -> Tensor:
        """(N, 3, H, W) -> what is used of it."""
        return gradient


class InputDiversity(InputTransform):
    """DI: shrink the image by a random ratio and lay it at a random place on black (Xie et al., CVPR 2019, arXiv 1803.06978).

    Each image has its own draws, from its own generator, with ``probability`` (it is shown whole otherwise); all surrogates
    are shown the same view, each at its own input size. Xie et al. let the picture grow from 299 to 330 pixels and pad to 330:
    a ratio of 0.906 to 1 of what the network sees, the default here.
    """

    def __init__(self, probability: float = 0.9, smallest: float = 299 / 330) -> None:
        if not (0 <= probability <= 1 and 0 < smallest <= 1):
            raise ValueError("input diversity needs a probability in [0, 1] and a smallest ratio in (0, 1]")
        self.probability = probability
        self.smallest = smallest

    def views(self, draws: Draws) -> list[View | None]:
        """A view an image; always four numbers drawn, whatever comes of them."""
        return [self._view(*numbers) for numbers in draws.numbers(4)]

    def _view(self, chance: float, ratio: float, top: float, left: float) -> View | None:
        if chance >= self.probability:
            return None
        return View(self.smallest + (1 - self.smallest) * ratio, top, left)
