"""Purifiers by name: ``NAME``, ``NAME:ARGUMENT``, or several in a chain, ``jpeg:50+ncis:4``.

Each part of a chain may say how many passes it makes, ``NAME[:ARGUMENT]/PASSES``; for a purifier with weights a whole number
as the argument says it too. A path whose first folder has a plus in its name is written with ``./`` before it. Nothing here
imports torch before a purifier is made.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from apibench import data
from apibench.errors import ApibenchError
from apibench.parameters import written
from apibench.plugins import Table
from apibench.purifiers.catalogue import KINDS, Kind

if TYPE_CHECKING:
    from apibench.purifiers.contract import Purifier

MOST_PASSES = 1000

# An argument ends at the next plus or slash, but for a path, which goes on to its suffix.
_PART = re.compile(
    r"(?P<kind>[^:/+]*)(?::(?P<argument>[^/+]*|.*?\.safetensors))?(?:/(?P<passes>[0-9]+))?(?=\+|$)", re.DOTALL
)

_kinds: Table[Kind] = Table("purifier", "apibench.purifiers", Kind, KINDS)


def register(kind: Kind) -> None:
    """Add a kind of purifier to this process. Raises ApibenchError where there is another one of its name.

    A package adds one for every process by an entry point in the group ``apibench.purifiers``: its name, and where its
    :class:`Kind` is found.
    """
    _kinds.register(kind)


def names() -> list[str]:
    """The purifiers there are."""
    return _kinds.names()


def describe() -> list[Kind]:
    """Every kind of purifier: how it is written, its default, its paper. Raises ApibenchError for a plug-in that is broken."""
    return [find(name) for name in names()]


def find(name: str) -> Kind:
    """The kind of that name. Raises ApibenchError where there is none, or more than one, or it cannot be imported."""
    return _kinds.find(name)


def create(name: str, iterations: int = 1) -> Purifier:
    """Make a purifier, or a chain of them. Raises ApibenchError naming what is wrong with ``name`` or ``iterations``."""
    parts = _parts(name)
    if len(parts) == 1:
        return _create(*parts[0], iterations).eval()
    if iterations != 1:
        raise ApibenchError(f"{name}: a chain takes no iterations; say them for each part, such as jpeg:50+ncis/4")
    from apibench.purifiers.chain import Chain

    return Chain([_create(*part) for part in parts]).eval()


def _create(text: str, name: str, argument: str | None, passes: int | None, iterations: int = 1) -> Purifier:
    """``text`` is the whole part, for messages."""
    kind = find(name)
    try:
        if argument == "":
            raise ValueError("nothing stands after the colon")
        if kind.weights and argument and re.fullmatch("[0-9]+", argument):
            if passes is not None:
                raise ValueError("its passes are given twice")
            passes = int(argument)
            argument = None
        if passes is not None:
            if iterations != 1:
                raise ValueError(f"its passes are given twice, {passes} and {iterations}")
            if passes > MOST_PASSES:
                raise ValueError(f"passes must be at most {MOST_PASSES}")
            iterations = passes
        if kind.weights:
            return _with_weights(kind, argument, iterations)
        values = kind.values(argument)
        named = not values or (argument is None and kind.bare)
        return kind.make(kind.name if named else f"{kind.name}:{written(values)}", iterations, *values)
    except ValueError as error:
        raise ApibenchError(f"{text}: {error}; write {kind.form}, by default {kind.default}") from error
    except ImportError as error:
        raise ApibenchError(f"{text}: {kind.name} cannot be used here: {error}") from error


def _with_weights(kind: Kind, argument: str | None, iterations: int) -> Purifier:
    path = Path(argument).expanduser() if argument else data.path(kind.weights)
    if not path.is_file():
        raise ApibenchError(f"{kind.name}:{argument}: no file {path}")
    # Other weights are another purifier: their content names them, not the folder they lie in.
    own = f"{kind.name}:{path.stem.replace('+', '-')}#{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    return kind.make(own if argument else kind.name, iterations, path)


def _parts(text: str) -> list[tuple[str, str, str | None, int | None]]:
    """(the part, kind, argument, passes) of each part; what cannot be read is one part, for its kind to refuse."""
    parts: list[tuple[str, str, str | None, int | None]] = []
    start = 0
    while start <= len(text):
        match = _PART.match(text, start)
        if match is None:
            kind, colon, argument = text[start:].partition(":")
            return [*parts, (text[start:], kind, argument if colon else None, None)]
        passes = match["passes"]
        parts.append((match[0], match["kind"], match["argument"], None if passes is None else int(passes)))
        start = match.end() + 1
    return parts
