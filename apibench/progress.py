"""Progress of long work: on a terminal a bar, elsewhere (a log file) a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY = 30.0  # seconds between the lines of a log


class Progress(Generic[T]):
    """Iterate over ``items`` under a bar. ``items`` needs a length, or ``total`` is given."""

    def __init__(self, items: Iterable[T], title: str, *, unit: str = "it", total: int | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(items, desc=title, unit=unit, total=total, disable=not self._terminal, leave=False)
        self._title = title
        self._unit = unit
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._done = 0
        self._said = time.monotonic()
        self._told = self._done  # so many, when a line was printed last
        self._note = ""

    def __iter__(self) -> Iterator[T]:
        for item in self._bar:
            yield item
            self._count(1)

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        """Work of which a log has heard before ends with a line too."""
        with suppress(OSError):
            self._bar.close()
            if self._told not in (0, self._done):
                self._say()

    def advance(self, count: int) -> None:
        """Move the bar of work that is not iterated over. Never fails: the work is not to suffer where nobody looks any more."""
        with suppress(OSError):
            self._bar.update(count)
            self._count(count)

    def note(self, text: str) -> None:
        """A word beside the bar (a loss, a rate)."""
        self._bar.set_postfix_str(text)
        self._note = text

    def _count(self, count: int) -> None:
        self._done += count
        if self._terminal or time.monotonic() - self._said < EVERY:
            return
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        self._told = self._done
        of = "" if self._total is None else f" of {self._total}"
        note = f", {self._note}" if self._note else ""
        print(f"{self._title}: {self._done}{of} ({self._unit}){note}", file=sys.stderr, flush=True)
