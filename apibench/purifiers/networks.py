"""The purifiers with weights, told apart by what the weights' file says of itself: ``ncis`` and its relatives."""

from __future__ import annotations

from pathlib import Path

from apibench.errors import ApibenchError
from apibench.purifiers.ncis import NCIS, load_weights


def ncis(name: str, iterations: int, path: Path) -> NCIS:
    """Smooth, then a blind-spot network; repeat (Cha, Ko, Yoo, Moon, arXiv 2106.11644)."""
    return _load("ncis", name, iterations, path)


def bsn(name: str, iterations: int, path: Path) -> NCIS:
    """The blind-spot network with no smoothing before it (FBI-Net: Byun, Cha, Moon, CVPR 2021)."""
    return _load("bsn", name, iterations, path)


def ncis_affine(name: str, iterations: int, path: Path) -> NCIS:
    """Smooth, then a·z + b, z the smoothed pixel, a and b from its surroundings (Byun, Cha, Moon, CVPR 2021)."""
    return _load("ncis-affine", name, iterations, path)


def ncis_noise(name: str, iterations: int, path: Path) -> NCIS:
    """NCIS with a network that was trained to give back x from GS(x + noise), not from GS(x)."""
    return _load("ncis-noise", name, iterations, path)


def _load(kind: str, name: str, iterations: int, path: Path) -> NCIS:
    """Raises ApibenchError where the weights are another purifier's: no table may call one by the other's name."""
    weights = load_weights(path)
    if weights.kind != kind:
        raise ApibenchError(
            f"{name}: {path} holds weights of {weights.kind}, not of {kind}; name it {weights.kind}:{path}"
        )
    return NCIS(name, iterations, weights.network, weights.smoothing)
