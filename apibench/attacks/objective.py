"""What an attack climbs: the loss of the networks on transformed copies of the image, and its gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from apibench._torch import torch
from apibench.attacks.losses import Loss
from apibench.attacks.surrogates import Networks, Views
from apibench.attacks.transforms import InputTransform
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
        self.targeted = targeted
        self.gradients = 0
        self._loss = loss
        self._transforms = transforms
        self._sign = -1.0 if targeted else 1.0

    def gradient(self, x: Tensor, combine: Combine, only: int | None = None) -> Tensor:
        """The gradient at ``x`` of the combined loss (of the network ``only`` alone): (N, 3, H, W), each image's its own."""

        def of_copy(x: Tensor, shown: Tensor, views: Views) -> Sequence[Tensor]:
            losses = combine(self.networks.logits(shown, views, only), self.labels, self._loss)
            # Only the gradient of the input is asked for; weight gradients would cost half as much again.
            return torch.autograd.grad(self._climbed(losses), x)

        (gradient,) = self._mean_of_copies(x, of_copy, len(self.networks) if only is None else 1)
        return gradient

    def of_network(self, x: Tensor, index: int) -> Tensor:
        """The gradient at ``x`` of one network's own loss: (N, 3, H, W)."""
        return self.gradient(x, lambda logits, labels, loss: loss(logits[0], labels), only=index)

    def of_each(self, x: Tensor) -> list[Tensor]:
        """The gradient at ``x`` of each network's own loss, (N, 3, H, W) each; all are shown the same copies."""

        def of_copy(x: Tensor, shown: Tensor, views: Views) -> Sequence[Tensor]:
            passes = self._own_passes(shown, views)
            return [torch.autograd.grad(given, x, gradient, retain_graph=True)[0] for given, gradient in passes]

        return self._mean_of_copies(x, of_copy, len(self.networks))

    def of_mean(self, x: Tensor) -> Tensor:
        """The gradient at ``x`` of the mean of the networks' own losses: (N, 3, H, W).

        A network's activations are freed before the next one runs, and what they share, the resizing, is gone back through once.
        """

        def of_copy(x: Tensor, shown: Tensor, views: Views) -> Sequence[Tensor]:
            sums: dict[int, tuple[Tensor, Tensor]] = {}  # what networks share is given to them as the same tensor
            for given, gradient in self._own_passes(shown, views):
                _, so_far = sums.get(id(given), (given, None))
                sums[id(given)] = (given, gradient if so_far is None else so_far.add_(gradient))
            inputs, gradients = zip(*sums.values(), strict=True)
            return torch.autograd.grad(inputs, x, gradients)

        (total,) = self._mean_of_copies(x, of_copy, len(self.networks))
        return total.div_(len(self.networks))

    def of_chosen(self, x: Tensor, chosen: Sequence[int]) -> Tensor:
        """The gradient at each image of ``x`` of one network's own loss, the one ``chosen`` for it: (N, 3, H, W)."""

        def of_copy(x: Tensor, shown: Tensor, views: Views) -> Sequence[Tensor]:
            losses = []
            for index in sorted(set(chosen)):
                rows = [row for row, network in enumerate(chosen) if network == index]
                (logits,) = self.networks.logits(shown[rows], views and [views[row] for row in rows], index)
                losses.append(self._loss(logits, self.labels[rows]))
            return torch.autograd.grad(self._climbed(torch.cat(losses)), x)

        (gradient,) = self._mean_of_copies(x, of_copy, 1)
        return gradient

    @torch.no_grad()
    def losses(self, x: Tensor, index: int) -> Tensor:
        """(N,): how far a network is from the class on the images as they are, with no transform: the higher the further."""
        return self._loss(self.networks.logits(x, None, index)[0], self.labels)

    def _climbed(self, losses: Tensor) -> Tensor:
        """(N,) losses -> what is climbed. Raises ApibenchError where it is not a finite number."""
        # Summed, not averaged: each image's gradient is its own, whatever the size of the batch.
        loss = self._sign * losses.sum()
        if not math.isfinite(loss.item()):
            raise ApibenchError(
                "a surrogate's logits are not finite numbers; are its weights whole, its mean and std right?"
            )
        return loss

    def _own_passes(self, shown: Tensor, views: Views) -> Iterator[tuple[Tensor, Tensor]]:
        """Of one network after the other: what it is given of a copy, and the gradient there of its own loss."""
        for index, given in enumerate(self.networks.inputs(shown, views)):
            leaf = given.detach().requires_grad_()
            loss = self._climbed(self._loss(self.networks.judge(leaf, index), self.labels))
            yield given, torch.autograd.grad(loss, leaf)[0]

    def _mean_of_copies(
        self, x: Tensor, of_copy: Callable[[Tensor, Tensor, Views], Sequence[Tensor]], count: int
    ) -> list[Tensor]:
        """The mean, over the copies of ``x``, of each of the gradients that ``of_copy`` takes of ``count`` networks."""
        x = x.detach().requires_grad_()
        totals: list[Tensor] = []
        copies = 0
        for shown, views in self._copies(x):
            gradients = of_copy(x, shown, views)
            totals = [total.add_(one) for total, one in zip(totals, gradients, strict=True)] if totals else [*gradients]
            copies += 1
            self.gradients += count
        if copies > 1:
            totals = [total.div_(copies) for total in totals]
        for transform in reversed(self._transforms):
            totals = [transform.gradient(total) for total in totals]
        return totals

    def _copies(self, x: Tensor) -> Iterator[tuple[Tensor, Views]]:
        """Every copy of the images, and how the networks are shown it."""
        for numbers in itertools.product(*(range(transform.copies) for transform in self._transforms)):
            shown, views = x, None
            for transform, number in zip(self._transforms, numbers, strict=True):
                shown = transform.pixels(shown, number, self.draws)
                own = transform.views(self.draws)
                views = own if own is not None else views
            yield shown, views
