"""What ``--images`` may name: a finished image set, a folder of photographs, or photographs of an installed package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apibench import photographs
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet


@dataclass(frozen=True)
class Source:
    """An image set, the files that could not become part of it (file name, reason), and what a user has to know, a line each."""

    images: ImageSet
    failed: tuple[tuple[str, str], ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()


def open_source(
    name: str,
    clean_out: Path,
    *,
    labels: Path | None = None,
    max_side: int = 512,
    limit: int | None = None,
) -> Source:
    """Load a set, or import photographs into ``clean_out`` (where an import that was begun goes on)."""
    if ImageSet.is_set(Path(name)):
        if labels is not None:
            raise ApibenchError(f"{labels}: {name} is an image set with labels of its own; leave --labels out")
        return Source(ImageSet.load(Path(name)))
    imported = photographs.import_folder(name, clean_out, labels=labels, max_side=max_side, limit=limit)
    return Source(imported.images, imported.failed, imported.ignored, imported.notes)


def open_sources(names: Sequence[str], beside: Path, *, max_side: int = 512) -> list[Source]:
    """Load several; photographs are imported into folders beside ``beside``, named after it and them."""
    sources = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).resolve().name or name)
        sources.append(open_source(name, beside.parent / f"{beside.stem}-{plain}-clean", max_side=max_side))
    return sources
