"""The networks an attack looks into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from apibench._torch import torch
from apibench.classifiers import Classifier, InputSettings, View

Tensor = torch.Tensor
Views = Sequence[View | None] | None


class Networks(Protocol):
    """Any ensemble of differentiable classifiers."""

    def __len__(self) -> int: ...

    def logits(self, x: Tensor, views: Views, only: int | None = None) -> list[Tensor]:
        """(N, 3, H, W) pixels in [0, 1] -> (N, classes) of each network, or of one of them alone."""
        ...


class Surrogates(torch.nn.Module):
    """Classifiers of any mix of input sizes; those of the same input share one resizing. As a module: the mean of the logits."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        super().__init__()
        if not classifiers:
            raise ValueError("an ensemble needs a surrogate")
        self.classifiers = torch.nn.ModuleList(classifiers)

    def __len__(self) -> int:
        return len(self.classifiers)

    def logits(self, x: Tensor, views: Views, only: int | None = None) -> list[Tensor]:
        prepared: dict[InputSettings, Tensor] = {}
        chosen = self.classifiers if only is None else [self.classifiers[only]]
        found = []
        for module in chosen:
            classifier = cast(Classifier, module)
            if classifier.input not in prepared:
                prepared[classifier.input] = classifier.prepare(x, views)
            found.append(classifier.network(prepared[classifier.input]))
        return found

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


def mean(values: Sequence[Tensor]) -> Tensor:
    """In the order given: the last bits of a float32 sum depend on it."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)
