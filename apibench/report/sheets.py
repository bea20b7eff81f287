"""A table of a report in all its forms: the folder ``tables`` has each as Markdown, as CSV and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from apibench import text
from apibench.grid import Grid, Value, emphasised, to_csv
from apibench.report import tables
from apibench.report.compare import Group

FOLDER = "tables"
MOST_ROWS = 45  # of one table in LaTeX


@dataclass(frozen=True)
class Sheet:
    """``name`` is that of its files; ``title`` is plain text; ``about``, of ours, says what is shown, ``*…*`` being emphasis.

    ``groups``: who answered, which every form says. ``records`` and ``columns`` are of the CSV; it may hold more than the grid.
    ``notes``: sentences with names from outside, plain text not yet escaped, which end the caption.
    """

    name: str
    title: str
    grid: Grid
    groups: Sequence[Group]
    about: str
    records: Sequence[dict[str, Value]]
    columns: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def markdown(self) -> str:
        """The table with its caption, without a heading."""
        caption = " ".join([tables.origin_caption(self.groups), self.about, *map(text.markdown, self.notes)])
        return f"{self.grid.markdown()}\n\n{caption}"

    @property
    def latex(self) -> str:
        """Where the rows are too many for a page, a table for each run of equal first cells."""
        if len(self.grid.body) <= MOST_ROWS:
            return self.grid.latex(self._caption(self.title), f"tab:{self.name}")
        blocks = self.grid.blocks()
        return "\n".join(
            block.latex(self._caption(f"{self.title}: {block.body[0][0]}"), f"tab:{self.name}-{number}")
            for number, block in enumerate(blocks, 1)
        )

    def _caption(self, title: str) -> str:
        parts = [f"{text.latex(title)}."]
        for one in tables.origins(self.groups):
            parts += [rf"\textbf{{{text.latex(one.loud)}}}" if one.loud else "", text.latex(one.rest)]
        return " ".join(filter(None, [*parts, emphasised(self.about), *map(text.latex, self.notes)]))

    @property
    def files(self) -> dict[str, bytes]:
        """What is written, by the path within the report."""
        forms = {
            "md": f"# {text.markdown(self.title)}\n\n{self.markdown}\n",
            "csv": to_csv(self.records, self.columns),
            "tex": self.latex,
        }
        return {f"{FOLDER}/{self.name}.{form}": content.encode() for form, content in forms.items()}


def naming(groups: Iterable[Group]) -> tables.Naming:
    """The columns that say whose row it is, without who answered where that tells no rows apart: the caption and CSV say it."""
    found = list(groups)
    chosen = tables.Naming(found)
    chosen.answered_by = False
    chosen.answered_by = len({tuple(chosen.names(group)) for group in found}) < len(set(found))
    return chosen


def file_name(kind: str, *parts: str, taken: Collection[str] = ()) -> str:
    """A name of letters, digits and hyphens that is none of ``taken``."""
    words = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")[:80]
    name = f"{kind}-{words}".rstrip("-")
    count = 2
    while name in taken:
        name, count = f"{kind}-{words}-{count}", count + 1
    return name
