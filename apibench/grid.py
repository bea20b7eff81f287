"""A table as rows of plain cells, and the three forms it is printed in: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import groupby

from apibench import text

Value = str | int | float | None

# Said at the head of every file of LaTeX.
_NEEDS = r"% Needs \usepackage[T1]{fontenc}, \usepackage{booktabs} and \usepackage{graphicx}."


@dataclass(frozen=True)
class Grid:
    """Cells are plain text, not yet escaped: the first ``words`` columns hold text from outside, the others numbers of ours.

    ``right``: the columns that are aligned to the right. ``above``: for each column, what it shares with its neighbours (empty:
    nothing). ``best``: cells, (row, column), that are set in bold.
    """

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    words: int
    right: Sequence[int] = ()
    above: Sequence[str] = ()
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def markdown(self) -> str:
        """Aligned in a terminal too."""
        above = self.above or [""] * len(self.head)
        names = [text.markdown(f"{top}: {name}" if top else name) for top, name in zip(above, self.head, strict=True)]
        return text.table(names, self._cells("**{}**", text.markdown, str), self.right)

    def latex(self, caption: str, label: str) -> str:
        """A floating table of booktabs, no wider than the line. ``caption`` is LaTeX already (see :func:`emphasised`).

        ``label`` is made of letters, digits, hyphens and colons. What the first column repeats is said once.
        """
        columns = "".join("r" if column in self.right else "l" for column in range(len(self.head)))
        return "\n".join(
            [
                _NEEDS,
                r"\begin{table}[htbp]",
                r"\centering",
                rf"\caption{{{caption}}}",
                rf"\label{{{label}}}",
                r"\medskip",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                *self._latex_above(),
                " & ".join(map(text.latex, self.head)) + r" \\",
                r"\midrule",
                *self._latex_rows(),
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
                "",
            ]
        )

    def blocks(self) -> list[Grid]:
        """The rows of each run of equal first cells, as a table of their own."""
        found = []
        for _, members in groupby(range(len(self.body)), key=lambda row: self.body[row][0]):
            rows = list(members)
            best = frozenset((row - rows[0], column) for row, column in self.best if row in rows)
            found.append(replace(self, body=[self.body[row] for row in rows], best=best))
        return found

    def _latex_above(self) -> list[str]:
        if not any(self.above):
            return []
        cells, rules, column = [], [], 1
        for top, group in groupby(self.above):
            width = len(list(group))
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text.latex(top)}}}" if top else " & ".join([""] * width))
            rules += [rf"\cmidrule(lr){{{column}-{column + width - 1}}}"] if top else []
            column += width
        return [" & ".join(cells) + r" \\", "".join(rules)]

    def _latex_rows(self) -> list[str]:
        lines, before = [], None
        for plain, cells in zip(self.body, self._cells(r"\textbf{{{}}}", text.latex, text.latex), strict=True):
            if plain[0] == before:
                cells[0] = ""
            elif before is not None:
                lines.append(r"\addlinespace")
            before = plain[0]
            lines.append(" & ".join(cells) + r" \\")
        return lines

    def _cells(self, bold: str, escape: Callable[[str], str], ours: Callable[[str], str]) -> list[list[str]]:
        def shown(row: int, column: int, cell: str) -> str:
            escaped = (escape if column < self.words else ours)(cell)
            return bold.format(escaped) if (row, column) in self.best else escaped

        return [[shown(row, column, cell) for column, cell in enumerate(cells)] for row, cells in enumerate(self.body)]


def emphasised(words: str) -> str:
    """Plain text of ours as LaTeX, ``*…*`` being emphasis."""
    return re.sub(r"\*(.+?)\*", r"\\emph{\1}", text.latex(words))


def to_csv(records: Iterable[Mapping[str, Value]], columns: Sequence[str]) -> str:
    """CSV with a header line. Numbers are written as numbers, to nine digits; text is made harmless for spreadsheets."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(record[column]) for column in columns] for record in records)
    return out.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return text.spreadsheet(value)
    return str(value) if isinstance(value, int) else f"{value:.9g}"
