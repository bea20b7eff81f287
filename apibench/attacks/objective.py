"""What an attack climbs: the loss of the networks on transformed copies of the image, and its gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from apibench._torch import torch
from apibench.attacks.losses import Loss
from apibench.attacks.surrogates import Networks
from apibench.attacks.transforms import InputTransform
from apibench.classifiers import View
from apibench.draws import Draws
from apibench.errors import ApibenchError

Tensor = torch.Tensor

#: The networks' (N, classes) logits, (N,) classes and a loss -> (N,) losses.
Combine = Callable[[Sequence[Tensor], Tensor, Loss], Tensor]


class Objective:
    """Made anew for each batch. ``gradients`` counts the gradients taken of a network so far, an image.

    ``labels``: (N,) classes to move away from, or towards where ``targeted``.
    """

    def __init__(
        self,
        networks: Networks,
        labels: Tensor,
        loss: Loss,
        transforms: Sequence[InputTransform],
        draws: Draws,
        targeted: bool = False,
    ) -> None:
        self.networks = networks
        self.labels = labels
        self.draws = draws
        self.gradients = 0
        self._loss = loss
        self._transforms = transforms
        self._sign = -1.0 if targeted else 1.0

    def gradient(self, x: Tensor, combine: Combine, only: int | None = None) -> Tensor:
        """The gradient at ``x`` of the combined loss (of the network ``only`` alone): (N, 3, H, W), each image's its own."""
        x = x.detach().requires_grad_()
        total: Tensor | None = None
        copies = 0
        for shown, views in self._copies(x):
            losses = self._sign * combine(self.networks.logits(shown, views, only), self.labels, self._loss)
            # Summed, not averaged: each image's gradient is its own, whatever the size of the batch.
            loss = losses.sum()
            if not math.isfinite(loss.item()):
                raise ApibenchError(
                    "a surrogate's logits are not finite numbers; are its weights whole, its mean and std right?"
                )
            # Only the gradient of the input is asked for; weight gradients would cost half as much again.
            (gradient,) = torch.autograd.grad(loss, x)
            total = gradient if total is None else total.add_(gradient)
            copies += 1
            self.gradients += len(self.networks) if only is None else 1
        assert total is not None
        gradient = total if copies == 1 else total.div_(copies)
        for transform in reversed(self._transforms):
            gradient = transform.gradient(gradient)
        return gradient

    def of_network(self, x: Tensor, index: int) -> Tensor:
        """The gradient at ``x`` of one network's own loss: (N, 3, H, W)."""
        return self.gradient(x, lambda logits, labels, loss: loss(logits[0], labels), only=index)

    @torch.no_grad()
    def losses(self, x: Tensor, index: int) -> Tensor:
        """(N,): how far a network is from the class on the images as they are, with no transform: the higher the further."""
        return self._loss(self.networks.logits(x, None, index)[0], self.labels)

    def _copies(self, x: Tensor) -> Iterator[tuple[Tensor, Sequence[View | None] | None]]:
        """Every copy of the images, and how the networks are shown it."""
        for numbers in itertools.product(*(range(transform.copies) for transform in self._transforms)):
            shown, views = x, None
            for transform, number in zip(self._transforms, numbers, strict=True):
                shown = transform.pixels(shown, number, self.draws)
                own = transform.views(self.draws)
                views = own if own is not None else views
            yield shown, views
