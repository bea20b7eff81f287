"""Text from outside (labels, file names, campaign names, vendors' messages) made harmless for the place it is printed in."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

# What Markdown gives a meaning to within a line. "<", ">" and "&" are dealt with as HTML; "_" has none inside a word.
_MARKDOWN = re.compile(r"([\\`*\[\]#|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
# A cell that begins with one of these is a formula to a spreadsheet; the wide forms are to some.
_FORMULA = tuple("=+-@＝＋－＠")


def plain(text: object, limit: int | None = None) -> str:
    """One line without control, format or private characters (no terminal escapes, no reversed text), cut to ``limit``."""
    kept = "".join(
        " " if unicodedata.category(character)[0] == "Z" or character in "\t\n\r\v\f" else character
        for character in unicodedata.normalize("NFC", str(text))
        if unicodedata.category(character)[0] != "C" or character in "\t\n\r\v\f"
    )
    line = " ".join(kept.split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def markdown(text: object, limit: int | None = None) -> str:
    """Text for a Markdown document or table cell: it shows as it is and is never markup, a link or HTML."""
    escaped = _MARKDOWN.sub(r"\\\1", html.escape(plain(text, limit), quote=False))
    # A backslash cannot keep a bare address from being made a link; an entity in it does.
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def spreadsheet(text: object) -> str:
    """Text for a CSV cell: a cell that a spreadsheet would calculate gets an apostrophe before it."""
    line = plain(text)
    return "'" + line if line.startswith(_FORMULA) else line


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a bare number of per cent, "−12.5"; an en dash where there is none."""
    return "–" if value is None else number(100 * value, digits)


def number(value: float | None, digits: int = 1) -> str:
    """A number with a real minus sign; never "−0.0"."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table whose columns are aligned in a terminal too. Cells must be escaped already."""
    widths = [max(_width(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            space = " " * (width - _width(cell))
            padded.append(space + cell if column in right else cell + space)
        return "| " + " | ".join(padded) + " |"

    widths = [max(width, 3) for width in widths]
    rule = [("-" * (width - 1) + ":") if column in right else "-" * width for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def _width(text: str) -> int:
    """Columns in a terminal: wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
