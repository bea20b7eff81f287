"""Input transforms: a random view of the image before each gradient, so that the noise does not fit one network's grid."""

from __future__ import annotations

from collections.abc import Sequence

from apibench._torch import torch
from apibench.classifiers import View


class InputDiversity:
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

    def __call__(self, generators: Sequence[torch.Generator]) -> list[View | None]:
        """A view an image, drawn from its generator; always four numbers, whatever comes of them."""
        return [self._draw(generator) for generator in generators]

    def _draw(self, generator: torch.Generator) -> View | None:
        chance, ratio, top, left = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        if chance >= self.probability:
            return None
        return View(self.smallest + (1 - self.smallest) * ratio, top, left)
