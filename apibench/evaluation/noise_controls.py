"""Honest noise to hold against an attack's: of the same bound or of the same pixels, but independent from pixel to pixel."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.special import ndtr, ndtri

from apibench.evaluation.noise import Noise
from apibench.imageset import Pixels

ATTACK = "attack"
SIGN_FLIP = "sign-flip"
SYNTHETIC = ("uniform", "gaussian", "sign")


def generator(seed: int, kind: str, identity: str) -> np.random.Generator:
    """The draws of one image: by the seed, the kind of noise and the clean image's identity, whatever its place in a set."""
    digest = hashlib.sha256(f"{seed}/{kind}/{identity}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def sign_flip(noise: Noise, draw: np.random.Generator) -> Noise:
    """Every value of the noise with a random sign: symmetric, of mean zero and of independent signs by construction."""
    signs = 2 * draw.integers(0, 2, size=noise.shape, dtype=np.int16) - 1
    return (noise * signs).astype(np.int16)


def synthetic(kind: str, clean: Pixels, bound: int, draw: np.random.Generator) -> Noise:
    """Independent noise in whole levels, at most ``bound``, as it is left on the picture after clipping to 0-255.

    ``uniform``: all levels from -bound to bound alike; ``gaussian``: of width bound / 2, cut off at the bound and rounded;
    ``sign``: one end or the other.
    """
    if kind == "uniform":
        drawn = draw.integers(-bound, bound, size=clean.shape, endpoint=True).astype(np.int16)
    elif kind == "gaussian":
        tail = float(ndtr(-2.0))
        drawn = np.rint(ndtri(draw.uniform(tail, 1 - tail, size=clean.shape)) * bound / 2).astype(np.int16)
    elif kind == "sign":
        drawn = (bound * (2 * draw.integers(0, 2, size=clean.shape, dtype=np.int16) - 1)).astype(np.int16)
    else:
        raise ValueError(f"{kind}: no such noise; there is {', '.join(SYNTHETIC)}")
    left: Noise = np.clip(clean + drawn, 0, 255).astype(np.int16) - clean
    return left
