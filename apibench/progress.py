"""Progress bars on long work: on a terminal a bar, elsewhere (a log file) nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress(Generic[T]):
    """Iterate over ``items`` under a bar. ``items`` needs a length, or ``total`` is given."""

    def __init__(self, items: Iterable[T], title: str, *, unit: str = "it", total: int | None = None) -> None:
        self._bar = tqdm(items, desc=title, unit=unit, total=total, disable=not sys.stderr.isatty(), leave=False)

    def __iter__(self) -> Iterator[T]:
        yield from self._bar

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Move the bar of work that is not iterated over."""
        self._bar.update(count)

    def note(self, text: str) -> None:
        """A word beside the bar (a loss, a rate)."""
        self._bar.set_postfix_str(text)
