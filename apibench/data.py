"""Where the files that come with apibench lie: recipes, price list, vocabularies, trained weights."""

from __future__ import annotations

from pathlib import Path

from apibench.errors import ApibenchError

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The folder of data files: ``apibench/_data`` in an installed wheel, ``data/`` beside the package in a checkout."""
    installed = _PACKAGE / "_data"
    return installed if installed.is_dir() else _PACKAGE.parent / "data"


def path(name: str) -> Path:
    """The path of a data file by its name below ``data/``, such as ``recipes/demo.toml``."""
    found = root() / name
    if not found.exists():
        raise ApibenchError(f"{name}: this data file of apibench is missing; install apibench again ({root()})")
    return found
