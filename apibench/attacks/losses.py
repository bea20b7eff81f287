"""Losses: how far an image's logits are from a class. An untargeted attack makes that grow, a targeted one makes it shrink."""

from __future__ import annotations

from collections.abc import Callable

from apibench._torch import torch

Tensor = torch.Tensor

#: (N, classes) logits and (N,) classes -> (N,), the higher the further from the class.
Loss = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy:
    """-log p(class), p the softmax (Goodfellow et al., arXiv 1412.6572)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


class Logit:
    """Minus the class's logit: unlike cross-entropy's, its gradient does not fade as the class wins (Zhao et al., 2012.11207)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -logits.gather(1, labels[:, None])[:, 0]


class Margin:
    """The highest logit of another class minus the class's own (Carlini and Wagner, arXiv 1608.04644, f6 without its floor)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[:, None]
        others = logits.scatter(1, own, -torch.inf)
        return others.amax(1) - logits.gather(1, own)[:, 0]
