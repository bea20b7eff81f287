"""Between image files and tensors, and the identity of a list of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from apibench._torch import torch
from apibench.imageset import ImageRecord, Pixels

LEVELS = 255


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div_(LEVELS).contiguous()


def to_pixels(x: torch.Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8, rounded: truncating would break an attack's bound by one level."""
    whole = x[0].mul(LEVELS).round().clamp(0, LEVELS).to(torch.uint8)
    return cast(Pixels, whole.permute(1, 2, 0).contiguous().cpu().numpy())


def sources_sha256(records: Sequence[ImageRecord]) -> str:
    """One hash for the images a set is made from: their identities and labels."""
    return hashlib.sha256("\n".join(f"{r.id}\t{r.pixels_sha256}\t{r.label}" for r in records).encode()).hexdigest()
