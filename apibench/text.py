"""Text from outside (labels, file names, campaign names, vendors' messages) made harmless for the place it is printed in."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# What Markdown gives a meaning to within a line. "<", ">" and "&" are dealt with as HTML; "_" has none inside a word.
_MARKDOWN = re.compile(r"([\\`*\[\]#|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
# What LaTeX gives a meaning to. "[" has one at the start of a table's row; quotes and dashes would be joined to others.
_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": "{'}",
    "`": "{`}",
    "-": "{-}",
    "[": "{[}",
    "]": "{]}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}",
    "→": r"\ensuremath{\rightarrow}",
    "·": r"\ensuremath{\cdot}",
    "–": "--",
    "…": r"\ldots{}",
}
# The letters beyond ASCII that the T1 encoding has.
_T1 = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿĂăĄąĆćČčĎďĐđĘęĚěĞğĹĺĽľŁłŃńŇňŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž"
)
# A cell that begins with one of these is a formula to a spreadsheet; the wide forms are to some.
_FORMULA = tuple("=+-@＝＋－＠")


def plain(text: object, limit: int | None = None) -> str:
    """One line without control, format or private characters (no terminal escapes, no reversed text), cut to ``limit``."""
    kept = str(text)
    if not (kept.isascii() and kept.isprintable()):  # most of what a report prints has nothing to take out
        kept = "".join(
            " " if unicodedata.category(character)[0] == "Z" or character in "\t\n\r\v\f" else character
            for character in unicodedata.normalize("NFC", kept)
            if unicodedata.category(character)[0] != "C" or character in "\t\n\r\v\f"
        )
    line = " ".join(kept.split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def markdown(text: object, limit: int | None = None) -> str:
    """Text for a Markdown document or table cell: it shows as it is and is never markup, a link or HTML."""
    escaped = _MARKDOWN.sub(r"\\\1", html.escape(plain(text, limit), quote=False))
    # A backslash cannot keep a bare address from being made a link; an entity in it does.
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def latex(text: object, limit: int | None = None) -> str:
    """Text for a LaTeX document in the T1 encoding: it shows as it is and is never a command.

    A character that T1 has no letter for is written as its code point, "U+732B", so that different names stay different.
    """
    # Two commas would be a quotation mark.
    return "".join(_latex_character(character) for character in plain(text, limit)).replace(",,", ",{},")


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    return character if character.isascii() or character in _T1 else f"U+{ord(character):04X}"


def spreadsheet(text: object) -> str:
    """Text for a CSV cell: a cell that a spreadsheet would calculate gets an apostrophe before it."""
    return _spreadsheet(str(text))


@lru_cache(maxsize=1 << 14)  # a large CSV says the same few things in most of its cells
def _spreadsheet(text: str) -> str:
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
