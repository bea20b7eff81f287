"""Random draws that belong to an image: the same whatever its place in a batch or a set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from apibench._torch import torch

Tensor = torch.Tensor


def generator(seed: int, identity: str) -> torch.Generator:
    """The random draws of one image: by the recipe's seed and the image's identity, whatever its place in a batch or a set."""
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Draws:
    """The draws of a batch, each image's from its own generator (of the CPU, so that every device gets the same)."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def __len__(self) -> int:
        return len(self.generators)

    def numbers(self, count: int) -> list[list[float]]:
        """``count`` numbers in [0, 1) an image."""
        return [torch.rand(count, generator=g, dtype=torch.float64).tolist() for g in self.generators]

    def whole(self, below: int) -> list[int]:
        """A whole number from 0 to ``below`` - 1 an image."""
        return [int(torch.randint(below, (1,), generator=g)) for g in self.generators]

    def uniform(self, like: Tensor, radius: float) -> Tensor:
        """(N, ...) like ``like``, uniform in [-radius, radius)."""
        return self._stacked(like, torch.rand).mul_(2).sub_(1).mul_(radius)

    def normal(self, like: Tensor, deviation: float) -> Tensor:
        """(N, ...) like ``like``, Gaussian of mean zero."""
        return self._stacked(like, torch.randn).mul_(deviation)

    def _stacked(self, like: Tensor, draw: object) -> Tensor:
        assert callable(draw)
        drawn = [draw(like.shape[1:], generator=g) for g in self.generators]
        return torch.stack(drawn).to(like)
