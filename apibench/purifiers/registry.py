"""Purifiers by name: ``NAME`` or ``NAME:ARGUMENT``.

``gaussian`` or ``gaussian:KERNEL,SIGMA``; ``ncis`` (the weights that come with apibench) or ``ncis:FILE.safetensors``;
``jpeg`` (quality 50) or ``jpeg:QUALITY``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from apibench import data
from apibench.errors import ApibenchError
from apibench.purifiers.contract import Purifier
from apibench.purifiers.gaussian import Gaussian
from apibench.purifiers.jpeg import Jpeg
from apibench.purifiers.ncis import NCIS, load_weights
from apibench.purifiers.smoothing import Smoothing

DEFAULT_WEIGHTS = "weights/ncis.safetensors"
DEFAULT_QUALITY = 50


def _gaussian(argument: str, iterations: int) -> Purifier:
    if not argument:
        return Gaussian("gaussian", iterations, Smoothing())
    kernel, _, sigma = argument.partition(",")
    smoothing = Smoothing(int(kernel), float(sigma)) if sigma else Smoothing(int(kernel))
    return Gaussian(f"gaussian:{smoothing.kernel},{smoothing.sigma:g}", iterations, smoothing)


def _ncis(argument: str, iterations: int) -> Purifier:
    path = Path(argument).expanduser() if argument else data.path(DEFAULT_WEIGHTS)
    if not path.is_file():
        raise ApibenchError(f"ncis:{argument}: no file {path}")
    network, smoothing = load_weights(path)
    # Other weights are another purifier: their content names them, not the folder they lie in.
    name = f"ncis:{path.stem}#{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" if argument else "ncis"
    return NCIS(name, iterations, network, smoothing)


def _jpeg(argument: str, iterations: int) -> Purifier:
    quality = int(argument) if argument else DEFAULT_QUALITY
    return Jpeg(f"jpeg:{quality}", iterations, quality)


_FACTORIES: dict[str, Callable[[str, int], Purifier]] = {"gaussian": _gaussian, "ncis": _ncis, "jpeg": _jpeg}


def names() -> list[str]:
    """The purifiers there are."""
    return sorted(_FACTORIES)


def create(name: str, iterations: int = 1) -> Purifier:
    """Make a purifier. Raises ApibenchError naming what is wrong with ``name`` or ``iterations``."""
    kind, _, argument = name.partition(":")
    if kind not in _FACTORIES:
        close = difflib.get_close_matches(kind, _FACTORIES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ApibenchError(f"{name}: no such purifier; there are {', '.join(names())}{hint}")
    try:
        return _FACTORIES[kind](argument, iterations).eval()
    except ValueError as error:
        raise ApibenchError(f"{name}: {error}") from error
