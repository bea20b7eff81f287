"""The purifier contract: what attacks, the evaluation and other libraries may count on."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

from apibench import draws
from apibench._torch import torch

Tensor = torch.Tensor


class Purifier(torch.nn.Module):
    """RGB pixels (N, 3, H, W) in [0, 1] in, the same shape and range out; any N, any H and W from 1.

    A ``torch.nn.Module``, so that it also drops into other libraries' pipelines. ``forward`` runs ``iterations`` passes and
    clamps once, at the end. ``name`` is what sets and tables call it, such as ``ncis`` or ``jpeg:50``. What an image gets
    never depends on the others of its batch. Raises ValueError where ``iterations`` is below 1.
    """

    differentiable = True
    """Whether autograd through ``forward`` gives the method's own gradient."""

    random = False
    """Whether ``forward`` draws. It draws once a pass for the whole batch: call it again for another draw."""

    libraries: tuple[str, ...] = ()
    """Distributions, beside torch, whose version decides the result."""

    def __init__(self, name: str, iterations: int) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.name = name
        self.iterations = iterations
        self._generator: torch.Generator | None = None

    @property
    def variant(self) -> str:
        """The part it adds to an image's variant: ``ncis/4``."""
        return f"{self.name}/{self.iterations}"

    def settings(self) -> dict[str, Any]:
        """What decides the result, to be recorded: name, iterations and, where there are any, a hash of the weights.

        The weights that come with apibench may change while their name stays; a set made with them is then another one.
        """
        settings: dict[str, Any] = {"purifier": self.name, "iterations": self.iterations}
        state = self.state_dict()
        if state:
            settings["weights_sha256"] = _sha256(state)
        return settings

    def seed(self, seed: int, identity: str) -> None:
        """Draw from now on as for the image ``identity``; nothing happens where nothing is drawn.

        Never seeded, a random purifier draws anew in every process.
        """
        if self.random:
            self._generator = draws.generator(seed, identity)

    def generator(self) -> torch.Generator:
        """Where a random purifier's ``once`` draws from: a generator on the CPU, whatever the device of the pixels."""
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.seed()
        return self._generator

    @abstractmethod
    def once(self, x: Tensor) -> Tensor:
        """One pass, unclamped."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.iterations):
            x = self.once(x)
        return x.clamp(0.0, 1.0)

    def passes(self, x: Tensor, iterations: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """``(n, what n passes give)`` for every n of ``iterations``, which rise from 1 or more; no pass is run twice.

        Each result is that of ``forward`` with ``iterations=n``, whatever ``iterations`` this purifier has: it is clamped,
        and the next passes go on from before the clamp. Raises ValueError where the counts do not rise.
        """
        for before, count in zip([0, *iterations], iterations, strict=False):
            if count <= before:
                raise ValueError(f"{self.name}: pass counts must rise from 1 or more, got {list(iterations)}")
            for _ in range(count - before):
                x = self.once(x)
            yield count, x.clamp(0.0, 1.0)

    def through(self, x: Tensor) -> Tensor:
        """What an attacker who knows the purifier differentiates: the value of ``forward``, always with a gradient.

        The gradient is the purifier's own where it is differentiable, else the identity's (BPDA: Athalye, Carlini and Wagner,
        ICML 2018, arXiv 1802.00420).
        """
        if self.differentiable:
            return cast(Tensor, self(x))
        with torch.no_grad():
            value = self(x)
        return cast(Tensor, _StraightThrough.apply(x, value))  # type: ignore[no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    """``value``, to the bit, with the gradient of ``x``."""

    @staticmethod
    def forward(_context: Any, _x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _sha256(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
