"""What the blind-spot network is trained on: the settings of a training, its photographs, and the crops of a step.

Only photographs are used: no label, no classifier, no adversarial image (NCIS, arXiv 2106.11644).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apibench import photographs
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.imageset import Pixels
from apibench.pixels import LEVELS
from apibench.progress import Progress
from apibench.purifiers.blindspot import BlindSpotSettings, crop
from apibench.purifiers.smoothing import Smoothing

Tensor = torch.Tensor

NARROW = 0.3  # pixels: a Gaussian narrower than that leaves independent pixels as they are


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained: to give back x from GS(x), or from GS(x + noise).

    ``smoothing`` is the one it is used after. With ``widths`` it is trained on smoothings of every sigma from the first to the
    second instead of that one. ``noise``: synthetic noise is added before the smoothing, its root mean square drawn from that
    range of levels of 255, its pixels correlated over a Gaussian width drawn up to ``noise_width`` pixels; zero mean and
    symmetric, which is all that is assumed of adversarial noise; a crop gets it with probability ``noise_share``, so that the
    network also learns to leave alone what has none. The error of a crop then counts by 1 / (1 + (RMS / ``balance``)²), so that
    strong noise does not outweigh the rest (0: all count alike). ``crop`` is the side, in pixels, of what the network predicts of
    a photograph at a time.
    """

    network: BlindSpotSettings = field(default_factory=BlindSpotSettings)
    smoothing: Smoothing = field(default_factory=Smoothing)
    widths: tuple[float, float] | None = None
    noise: tuple[float, float] = (0.0, 0.0)
    noise_width: float = 0.0
    noise_share: float = 1.0
    balance: float = 0.0
    steps: int = 2000
    batch: int = 4
    crop: int = 96
    learning_rate: float = 2e-3
    warmup: int = 50
    average: float = 0.995  # decay of the running mean of the weights: the mean is what is validated and kept
    validate_every: int = 100
    max_side: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.widths is not None and not 0 < self.widths[0] <= self.widths[1] < math.inf:
            raise ValueError(f"the range of widths must rise from above 0, got {self.widths[0]} to {self.widths[1]}")
        if not (0 <= self.noise[0] <= self.noise[1] <= LEVELS and 0 <= self.noise_width <= 16):
            raise ValueError("noise must be a rising range within 0 to 255 levels, and its width 0 to 16 pixels")
        if not (0 < self.noise_share <= 1 and 0 <= self.balance <= LEVELS):
            raise ValueError("the share of crops with noise must be above 0 and at most 1, and balance 0 to 255 levels")

    @property
    def margin(self) -> int:
        return self.network.margin + self.smoothing.radius

    def rate(self, step: int) -> float:
        """Learning rate at a step: a linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Photographs:
    """Training and validation photographs, decoded: (H, W, 3) uint8 each. The split is by the hash of the file."""

    train: list[Pixels]
    validation: list[Pixels]
    sha256: str
    skipped: list[str]

    @classmethod
    def load(cls, folder: Path, settings: TrainingSettings) -> Photographs:
        """About a tenth is held out. Files that cannot be decoded, or are smaller than a crop, are skipped and named."""
        found, _ = photographs.find(folder)
        train: list[Pixels] = []
        validation: list[Pixels] = []
        skipped: list[str] = []
        digest = hashlib.sha256()
        side = settings.crop + 2 * settings.margin
        for item in Progress(found, "decode", unit="image"):
            try:
                pixels = photographs.decode(item.path, settings.max_side)
            except ApibenchError as error:
                skipped.append(str(error))
                continue
            if min(pixels.shape[:2]) < side:
                skipped.append(f"{item.path}: smaller than a crop of {side} pixels")
                continue
            sha = hashlib.sha256(item.path.read_bytes()).digest()
            digest.update(sha)
            (validation if sha[0] < 26 else train).append(pixels)
        if not validation and len(train) > 1:
            validation.append(train.pop())
        if not train or not validation:
            raise ApibenchError(f"{folder}: training needs at least 2 photographs of {side} pixels or more a side")
        return cls(train, validation, digest.hexdigest(), skipped)


class Batch(NamedTuple):
    """``seen``: GS(x) with the margin that the network needs; ``clean``: x; both (batch, 3, ., .) in [0, 1]; (batch,) weights."""

    seen: Tensor
    clean: Tensor
    weights: Tensor

    def error(self, restored: Tensor) -> Tensor:
        """Mean squared error, weighted: what is made small."""
        return ((restored - self.clean).square().mean((1, 2, 3)) * self.weights).mean()


class Crops:
    """The batches of a training. Those of a step depend on the seed and the step alone, so a resumed training sees the same."""

    def __init__(self, settings: TrainingSettings, data: Photographs) -> None:
        self.settings = settings
        self.data = data

    def of_step(self, step: int) -> Batch:
        draw = random.Random(f"{self.settings.seed}/{step}")  # noqa: S311
        pictures = [draw.choice(self.data.train) for _ in range(self.settings.batch)]
        return self._batch([_crop(p, self._side, draw) for p in pictures], draw)

    def of_validation(self, index: int) -> Batch:
        """The middle of a held-out photograph, always with the same noise."""
        picture, side = self.data.validation[index], self._side
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        draw = random.Random(f"{self.settings.seed}/validation/{index}")  # noqa: S311
        return self._batch([picture[top : top + side, left : left + side]], draw)

    @property
    def _side(self) -> int:
        return self.settings.crop + 2 * self.settings.margin

    def _batch(self, pictures: Sequence[Pixels], draw: random.Random) -> Batch:
        """All of a batch are smoothed alike; each has noise of its own."""
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(LEVELS)
        m, smoothing = self.settings.margin, self.settings.smoothing
        if self.settings.widths is not None:
            smoothing = Smoothing(smoothing.kernel, draw.uniform(*self.settings.widths))
        weights = torch.ones(len(x))
        seen = x
        if self.settings.noise[1]:
            noise, rms = self._noise(x, draw)
            seen = x + noise
            if self.settings.balance:
                weights = 1 / (1 + (rms / self.settings.balance) ** 2)
        return Batch(smoothing.valid(seen), crop(x, m), weights)

    def _noise(self, x: Tensor, draw: random.Random) -> tuple[Tensor, Tensor]:
        """Noise like ``x``, and the root mean square of each crop's, in levels."""
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        noise = torch.randn(x.shape, generator=generator)
        levels = []
        for picture in noise:
            width = draw.uniform(0.0, self.settings.noise_width)
            if width > NARROW:
                picture[:] = Smoothing(2 * math.ceil(3 * width) + 1, width).same(picture[None])[0]
            level = draw.uniform(*self.settings.noise)
            # Not drawn where all get noise: a training of before there was a share sees the same crops.
            if self.settings.noise_share < 1 and draw.random() >= self.settings.noise_share:
                level = 0.0
            picture.mul_(level / LEVELS / picture.std())
            levels.append(level)
        return noise, torch.tensor(levels)


def _crop(picture: Pixels, side: int, draw: random.Random) -> Pixels:
    """A random crop, turned and mirrored at random: (side, side, 3)."""
    top = draw.randint(0, picture.shape[0] - side)
    left = draw.randint(0, picture.shape[1] - side)
    crop = picture[top : top + side, left : left + side]
    crop = np.rot90(crop, draw.randrange(4))
    return np.ascontiguousarray(crop[:, ::-1] if draw.random() < 0.5 else crop)
