"""Random draws that belong to an image: the same whatever its place in a batch or a set."""

from __future__ import annotations

import hashlib

from apibench._torch import torch


def generator(seed: int, identity: str) -> torch.Generator:
    """The random draws of one image: by the recipe's seed and the image's identity, whatever its place in a batch or a set."""
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
