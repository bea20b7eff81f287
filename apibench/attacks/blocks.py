"""BSR: the image cut into blocks that change places and are turned, so that the noise does not hang on how its parts lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise

from apibench._torch import torch
from apibench.attacks.transforms import InputTransform
from apibench.draws import Draws

Tensor = torch.Tensor


class BlockShuffleRotation(InputTransform):
    """BSR: the mean gradient over copies whose blocks are shuffled and rotated (Wang et al., CVPR 2024, arXiv 2308.10299).

    ``copies``: 20 as in the paper, a gradient each. ``blocks``: a side, 2. ``degrees``: each block is rotated about its middle
    by an angle drawn from [-degrees, degrees), 24, bilinear; what leaves the block is lost, gaps are black. Blocks of unequal
    size cannot change places freely, so they are cut and shuffled as in TransferAttack, which is the authors': into strips along
    an axis drawn at random, then each strip along the other axis. Lengths are in proportion to draws from (0, 1], as in the
    authors' first code.

    TransferAttack rotates the strips before it cuts them, not the blocks; its default is 3 blocks a side; its lengths are in
    proportion to draws from (1, 2]; and all images of a batch share their draws.
    """

    def __init__(self, copies: int = 20, blocks: int = 2, degrees: float = 24.0) -> None:
        if copies < 1 or blocks < 1 or not 0 <= degrees <= 180:
            raise ValueError("block shuffle needs at least one copy and one block a side, and degrees in [0, 180]")
        self.copies = copies
        self.blocks = blocks
        self.degrees = degrees

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:  # noqa: ARG002
        """(N, 3, H, W) -> the same shape, of any height and width; as many numbers drawn an image, whatever its size."""
        n = self.blocks
        numbers = draws.numbers(1 + 2 * n + n * 2 * n + n * n)
        return torch.cat([self._shuffled(image[None], iter(own)) for image, own in zip(x, numbers, strict=True)])

    def _shuffled(self, image: Tensor, numbers: Iterator[float]) -> Tensor:
        """(1, 3, H, W) -> the same shape, by the image's own numbers."""
        first, second = (2, 3) if next(numbers) < 0.5 else (3, 2)
        strips = []
        for strip in self._parts(image, first, numbers):
            parts = self._parts(strip, second, numbers)
            strips.append(torch.cat([self._turned(part, next(numbers)) for part in parts], second))
        return torch.cat(strips, first)

    def _parts(self, x: Tensor, dim: int, numbers: Iterator[float]) -> list[Tensor]:
        """``x`` cut along ``dim`` at random, in random order; a part may be empty."""
        shares = [1.0 - next(numbers) for _ in range(self.blocks)]  # above zero
        order = [next(numbers) for _ in range(self.blocks)]
        ends = [round(x.shape[dim] * end / sum(shares)) for end in accumulate(shares, initial=0.0)]
        parts = [x.narrow(dim, start, end - start) for start, end in pairwise(ends)]
        return [parts[index] for index in sorted(range(self.blocks), key=order.__getitem__)]

    def _turned(self, block: Tensor, number: float) -> Tensor:
        return rotated(block, self.degrees * (2.0 * number - 1.0))


def rotated(x: Tensor, degrees: float) -> Tensor:
    """(N, C, H, W) -> the same shape, rotated counter-clockwise about its middle, bilinear, black where nothing was."""
    height, width = x.shape[-2:]
    if 0 in (height, width):
        return x
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    # A grid's coordinates run from -1 to 1 along either side, however long it is.
    matrix = x.new_tensor([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    grid = torch.nn.functional.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
