"""Purifiers one after another: ``jpeg:50+ncis:4``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from apibench._torch import torch
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor


class Chain(Purifier):
    """Each part's result, clamped, is the next part's input; pixels are not rounded in between.

    It is random where a part is, and differentiable where all are; ``through`` goes through each part in its own way. Its
    name is its variant, ``jpeg:50/1+ncis/4``. The parts say how many passes they make; the chain itself is run once.
    """

    def __init__(self, parts: Sequence[Purifier]) -> None:
        super().__init__("+".join(part.variant for part in parts), 1)
        self._parts = torch.nn.ModuleList(parts)
        self.differentiable = all(part.differentiable for part in parts)
        self.random = any(part.random for part in parts)
        self.libraries = tuple(sorted({library for part in parts for library in part.libraries}))

    @property
    def parts(self) -> list[Purifier]:
        return [cast(Purifier, part) for part in self._parts]

    @property
    def variant(self) -> str:
        return self.name

    def settings(self) -> dict[str, Any]:
        return {"purifier": self.name, "iterations": 1, "parts": [part.settings() for part in self.parts]}

    def seed(self, seed: int, identity: str) -> None:
        for number, part in enumerate(self.parts):
            part.seed(seed, f"{identity}+{number}")  # two random parts do not draw the same numbers

    def once(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def passes(self, x: Tensor, iterations: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        if list(iterations) != [1]:
            raise ValueError(f"{self.name}: a chain is run once, got {list(iterations)} passes")
        yield 1, cast(Tensor, self(x))

    def through(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.through(x)
        return x
