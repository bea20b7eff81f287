"""What attack_exact.py compares: our parts, theirs, why some differ, and our parts with that one choice made as theirs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import peer

from apibench._torch import torch
from apibench.attacks import adaptive, catalogue
from apibench.attacks.budgets import Budget
from apibench.attacks.catalogue import ENSEMBLE, GRADIENT, TRANSFORM, Part
from apibench.attacks.gradients import Gradient, Momentum
from apibench.attacks.neighbours import VarianceTunedNesterov
from apibench.attacks.objective import Objective
from apibench.attacks.scaling import Admix
from apibench.attacks.spectrum import SpectrumSimulation
from apibench.attacks.transforms import InputDiversity, InputTransform
from apibench.draws import Draws
from apibench.parameters import Parameter

Tensor = torch.Tensor
Patches = Iterator[Any]


@dataclass(frozen=True)
class Case:
    """``ours`` beside ``theirs``, written as an attack's name and as :meth:`peer.Attack.parse` reads it.

    ``differs``: why, where by decision; ``switched``: our attack with that choice made as theirs, ``switch`` in words; with their
    own random numbers where ``native``. On ``images`` images, all networks (``ensemble``) or the first, towards a class where
    ``targeted``. ``remark``: on float32.
    """

    ours: str
    theirs: str
    differs: str = ""
    switched: str = ""
    switch: str = ""
    native: bool = False
    images: int = 1
    ensemble: bool = False
    targeted: bool = False
    steps: int = 10
    note: str = ""
    remark: str = ""

    @property
    def part(self) -> str:
        return self.theirs.partition(":")[0]

    @property
    def title(self) -> str:
        return f"{self.ours}, {self.note}" if self.note else self.ours

    def adapt(self, made: Any, dtype: torch.dtype) -> None:
        """Take out what is in their attack beside the part that is compared, and compare in ``dtype``."""
        if self.part == "logit":  # it comes with DI and TI
            made.transform = lambda x, **_: x
            made.get_grad = lambda loss, delta, **_: torch.autograd.grad(loss, delta)[0]
        if self.part == "pifgsm":
            kernel = made.project_kern
            made.project_kern = lambda size: (kernel(size)[0].to(dtype), kernel(size)[1])
        if hasattr(made, "kernel"):
            made.kernel = made.kernel.to(dtype)

    def replayed(self, draws: Draws) -> Patches:
        """What they draw with, replaced by our draws, in the same order and of the same distribution."""
        randn, rand, randint, randperm = torch.randn, torch.rand, torch.randint, torch.randperm
        view: list[float] = []

        def one_normal(size: Any, *_: Any, **options: Any) -> Tensor:
            if "generator" in options:  # our own draws
                return randn(size, **options)
            shape = torch.empty(size)
            return torch.zeros_like(shape) if self.part == "adaea" else draws.normal(shape, 1.0)

        def one_uniform(size: Any, *_: Any, **options: Any) -> Tensor:
            if "generator" in options:
                return rand(size, **options)
            view[:] = draws.numbers(4)[0]  # of input diversity, the only one that asks for a single number
            return torch.tensor([view.pop(0)])

        def one_whole(*bounds: Any, **options: Any) -> Tensor:
            if "generator" in options:
                return randint(*bounds, **options)
            return torch.tensor([_place(view, options["high"])])

        def one_order(count: int) -> Tensor:
            return _order(draws) if count == 2 else randperm(count)

        yield mock.patch.object(torch, "randn", one_normal)
        yield mock.patch.object(torch, "rand", one_uniform)
        yield mock.patch.object(torch, "randint", one_whole)
        yield mock.patch.object(torch, "randperm", one_order)
        yield mock.patch.object(torch, "rand_like", lambda x: draws.uniform(x, 1.0).add_(1.0).div_(2.0))
        yield mock.patch.object(torch.Tensor, "uniform_", lambda x, _, high: x.copy_(draws.uniform(x, high)))
        yield mock.patch.object(np.random, "randint", lambda below: draws.whole(below)[0])


def _place(view: list[float], high: int) -> int:
    """The size, the top and the left that our view of these numbers has, on a canvas of ``high`` pixels."""
    number = view.pop(0)
    if len(view) == 2:  # the size comes first
        smallest = InputDiversity().smallest
        return min(round(high * (smallest + (1 - smallest) * number)), high - 1)
    return min(int(number * (high + 1)), high - 1)


def _order(draws: Draws) -> Tensor:
    """Of two images."""
    return torch.tensor([[0, 1], [1, 0]][draws.whole(2)[0]])


# --- our parts, each with one choice of theirs ---


class Accumulated(Momentum):
    """Gradients summed as they are."""

    def accumulate(self, gradient: Tensor) -> Tensor:
        self.sum = gradient if self.sum is None else self.mu * self.sum + gradient
        return self.sum


class AheadOfNeighbours(VarianceTunedNesterov):
    """The momentum looked ahead along from the neighbours too."""

    def _variance(self, gradient: Gradient, budget: Budget, draws: Draws) -> Tensor | None:
        return super()._variance(lambda x: gradient(self.ahead(x, budget)), budget, draws)


class GradientOfCopy(SpectrumSimulation):
    """The gradient with respect to the copy in place of that with respect to the image."""

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:
        return super().pixels(x.detach(), copy, draws) + (x - x.detach())


class AdmixOfBatch(Admix):
    """The images of the batch mixed in, as attacked so far, now and then the image itself."""

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:
        self._others = lambda draws, _: x.detach()[_order(draws)]
        return super().pixels(x, copy, draws)


class Their(InputTransform):
    """Their own transform in our loop, one copy at a time."""

    def __init__(self, attack: str, copies: int = 1) -> None:
        self.copies = copies
        self._made = peer.Attack.parse(attack).make([torch.nn.PReLU()], 16, 10)  # of which nothing is drawn

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:  # noqa: ARG002
        transformed: Tensor = self._made.transform(x)
        return transformed


class FilteredWithoutLast(adaptive.Adaptive):
    """The cosines of all networks but the last with the others, their sum over the number of all."""

    def gradient(self, x: Tensor, objective: Objective, budget: Budget) -> Tensor:
        with mock.patch.object(adaptive, "agreement", _without_last):
            return super().gradient(x, objective, budget)


def _without_last(gradients: Sequence[Tensor]) -> Tensor:
    count = len(gradients)
    total = torch.zeros_like(gradients[0][:, :1])
    for i, j in itertools.permutations(range(count), 2):
        if i < count - 1:
            total += torch.nn.functional.cosine_similarity(gradients[i], gradients[j], 1)[:, None] / (count - 1)
    return total / count


def register() -> None:
    """The parts above, by the names that the cases below use, for this process."""

    def part(name: str, kind: str, factory: Callable[..., Any], *parameters: Parameter) -> None:
        catalogue.register(Part(name, kind, "as theirs", "", factory, parameters))

    copies, scales = Parameter("COPIES", 3, 1, 100), Parameter("SCALES", 3, 1, 16)
    part("accumulated", GRADIENT, Accumulated)
    part("vnitheirs", GRADIENT, AheadOfNeighbours, Parameter("SAMPLES", 4, 1, 100))
    part("ditheirs", TRANSFORM, lambda: Their("dim"))
    part("bsrtheirs", TRANSFORM, lambda number: Their("bsr:num_scale=1", int(number)), copies)
    part("ssatheirs", TRANSFORM, GradientOfCopy, copies)
    part("admixtheirs", TRANSFORM, AdmixOfBatch, copies, scales)
    part("adaeatheirs", ENSEMBLE, FilteredWithoutLast)


CASES = (
    Case("i", "fgsm", note="one step", steps=1),
    Case("i", "ifgsm"),
    Case("mi", "mifgsm"),
    Case("mi", "mifgsm", note="two images", images=2),
    Case("mi", "mifgsm", note="targeted", targeted=True),
    Case("ni", "nifgsm"),
    Case(
        "pi",
        "pifgsm",
        remark="in float32 theirs takes signs of rounding errors where nothing exceeds epsilon; ours counts whole steps",
    ),
    Case("vmi:4", "vmifgsm:num_neighbor=4"),
    Case(
        "vni:4",
        "vnifgsm:num_neighbor=4",
        "theirs look ahead from the neighbours too, the authors' code from the point alone",
        "vnitheirs:4",
        "looking ahead from the neighbours too",
    ),
    Case("emi:5", "emifgsm:num_sample=5"),
    Case("pgn:4", "pgn:num_neighbor=4"),
    Case(
        "mi-di:0.5",
        "dim",
        "ours shrinks as it resizes to the network's input, one interpolation; theirs enlarges, pads and shrinks, "
        "draws one size a batch",
        "mi-ditheirs",
        "with their transform",
        native=True,
    ),
    Case("mi-ti", "tim"),
    Case("mi-si:3", "sim:num_scale=3"),
    Case(
        "mi-admix:2,3",
        "admix:num_admix=2,num_scale=3",
        "ours mixes in clean images of another class; theirs those of the batch as attacked, now and then the image itself",
        "mi-admixtheirs:2,3",
        "mixing in what theirs mix in",
        images=2,
    ),
    Case(
        "mi-ssa:3",
        "ssm:num_spectrum=3",
        "ours takes the gradient with respect to the image, through the transform, as the paper; theirs that of the copy",
        "mi-ssatheirs:3",
        "the gradient of the copy",
    ),
    Case(
        "mi-bsr:3,3",
        "bsr:num_scale=3",
        "ours rotates blocks, as the paper; theirs strips before they are cut, lengths from (1, 2], fill blended at the border",
        "mi-bsrtheirs:3",
        "with their transform",
        native=True,
    ),
    Case("mi", "ens", note="logits of three networks", ensemble=True),
    Case("mi-svre", "svre", ensemble=True),
    Case(
        "mi-adaea",
        "adaea",
        "their filter leaves out the last network and divides by all; their start, noise, is at zero here",
        "mi-adaeatheirs",
        "with their filter",
        ensemble=True,
    ),
    Case("mi-cwa", "cwa", ensemble=True),
    Case(
        "mi-cwa",
        "cwa",
        "theirs divides the outer sum by the norm of the batch, ours by each image's own",
        note="two images",
        images=2,
        ensemble=True,
    ),
    Case(
        "mi-logit",
        "logit:epoch=10",
        "the loss is the same; theirs accumulates gradients as they are, our mi each over its norm",
        "accumulated-logit",
        "accumulating as theirs (both without DI and TI)",
        targeted=True,
    ),
)
