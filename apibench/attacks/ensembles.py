"""Ensemble rules: how several surrogates judge one image together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from apibench._torch import torch
from apibench.classifiers import Classifier, InputSettings, View

Tensor = torch.Tensor


class MeanLogits(torch.nn.Module):
    """The mean of the surrogates' logits (Dong et al., CVPR 2018, section 3.4: the ensemble that transfers best).

    (N, 3, H, W) pixels in [0, 1] -> (N, 1000) logits. Surrogates of the same input share one resizing.
    """

    def __init__(self, surrogates: Sequence[Classifier]) -> None:
        super().__init__()
        if not surrogates:
            raise ValueError("an ensemble needs a surrogate")
        self.surrogates = torch.nn.ModuleList(surrogates)

    def forward(self, x: Tensor, views: Sequence[View | None] | None = None) -> Tensor:
        prepared: dict[InputSettings, Tensor] = {}
        total: Tensor | None = None
        for module in self.surrogates:
            surrogate = cast(Classifier, module)
            if surrogate.input not in prepared:
                prepared[surrogate.input] = surrogate.prepare(x, views)
            logits = surrogate.network(prepared[surrogate.input])
            total = logits if total is None else total + logits
        return cast(Tensor, total) / len(self.surrogates)
