"""Input transforms: a random view of the image before each gradient, so that the noise does not fit one network's grid."""

from __future__ import annotations

from collections.abc import Sequence

from apibench._torch import torch

Tensor = torch.Tensor


class InputDiversity:
    """DI: shrink the image by a random ratio and lay it at a random place on black (Xie et al., CVPR 2019, arXiv 1803.06978).

    Each image has its own draws, from its own generator, with ``probability`` (its view is the image itself otherwise).
    Xie et al. let the picture grow from 299 to 330 pixels and pad to 330: a ratio of 0.906 to 1 of what the network sees,
    the default here.
    """

    def __init__(self, probability: float = 0.9, smallest: float = 299 / 330) -> None:
        if not (0 <= probability <= 1 and 0 < smallest <= 1):
            raise ValueError("input diversity needs a probability in [0, 1] and a smallest ratio in (0, 1]")
        self.probability = probability
        self.smallest = smallest

    def __call__(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(N, 3, H, W) in [0, 1] and a generator an image -> (N, 3, H, W), differentiable."""
        views = [self._view(image[None], generator) for image, generator in zip(x, generators, strict=True)]
        return torch.cat(views) if len(views) > 1 else views[0]

    def _view(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chance, ratio, top, left = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        height, width = x.shape[-2:]
        if chance >= self.probability:
            return x
        ratio = self.smallest + (1 - self.smallest) * ratio
        small = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        if small == (height, width):
            return x
        x = torch.nn.functional.interpolate(x, small, mode="bilinear", align_corners=False)
        above, before = int(top * (height - small[0] + 1)), int(left * (width - small[1] + 1))
        return torch.nn.functional.pad(x, (before, width - small[1] - before, above, height - small[0] - above))
