"""The networks an attack looks into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from apibench._torch import torch
from apibench.classifiers import Classifier, InputSettings, View, show

Tensor = torch.Tensor
Views = Sequence[View | None] | None


class Networks(Protocol):
    """Any ensemble of differentiable classifiers."""

    def __len__(self) -> int: ...

    def logits(self, x: Tensor, views: Views, only: int | None = None) -> list[Tensor]:
        """(N, 3, H, W) pixels in [0, 1] -> (N, classes) of each network, or of one of them alone."""
        ...

    def inputs(self, x: Tensor, views: Views) -> list[Tensor]:
        """(N, 3, H, W) pixels in [0, 1] -> what each network is given; the same tensor where they are given the same."""
        ...

    def judge(self, given: Tensor, index: int) -> Tensor:
        """(N, classes) of a network for its own of :meth:`inputs`."""
        ...


class Surrogates(torch.nn.Module):
    """Classifiers of any mix of input sizes; those of the same size share one resizing. As a module: the mean of the logits."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        super().__init__()
        if not classifiers:
            raise ValueError("an ensemble needs a surrogate")
        self.classifiers = torch.nn.ModuleList(classifiers)

    def __len__(self) -> int:
        return len(self.classifiers)

    def logits(self, x: Tensor, views: Views, only: int | None = None) -> list[Tensor]:
        if only is not None:
            return [self.judge(self._classifier(only).prepare(x, views), only)]
        return [self.judge(given, index) for index, given in enumerate(self.inputs(x, views))]

    def inputs(self, x: Tensor, views: Views) -> list[Tensor]:
        shown: dict[int, Tensor] = {}
        prepared: dict[InputSettings, Tensor] = {}
        for index in range(len(self)):
            classifier = self._classifier(index)
            side = classifier.input.size
            if side not in shown:
                shown[side] = show(x, side, views)
            if classifier.input not in prepared:
                prepared[classifier.input] = classifier.normalise(shown[side])
        return [prepared[self._classifier(index).input] for index in range(len(self))]

    def judge(self, given: Tensor, index: int) -> Tensor:
        return cast(Tensor, self._classifier(index).network(given))

    def _classifier(self, index: int) -> Classifier:
        return cast(Classifier, self.classifiers[index])

    def forward(self, x: Tensor) -> Tensor:
        return mean(self.logits(x, None))


class OneFunction:
    """Any function from pixels to logits, in a network's place; it is shown no views."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __len__(self) -> int:
        return 1

    def logits(self, x: Tensor, views: Views, only: int | None = None) -> list[Tensor]:  # noqa: ARG002
        return [self._function(x)]

    def inputs(self, x: Tensor, views: Views) -> list[Tensor]:  # noqa: ARG002
        return [x]

    def judge(self, given: Tensor, index: int) -> Tensor:  # noqa: ARG002
        return self._function(given)


def mean(values: Sequence[Tensor]) -> Tensor:
    """In the order given: the last bits of a float32 sum depend on it."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)
