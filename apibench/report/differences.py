"""Where two files that should be the same part, in words that name the place: a cell, a line, a part of the page."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from itertools import zip_longest

from apibench import text

Line = tuple[int, str]  # its number, from 1, and what it says

# Pictures within the page, and the scripts beside it that hold pictures: other versions of the libraries draw other bytes.
_DRAWN = re.compile(rb"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*|(?<=\d{5})-[0-9a-f]{12}(?=\.js)")
_HEADING = re.compile(r"<h[12][^>]*>(.*?)</h[12]>")
_TAG = re.compile(r"<[^>]*>")
_TABLE = re.compile(r"<table\b|</table>")


def lines(data: bytes) -> list[Line]:
    """The lines of a text with their numbers."""
    return list(enumerate(data.decode("utf-8", "replace").split("\n"), 1))


def first_cell(there: bytes, found: bytes) -> str:
    """The first cell of a CSV that differs, in words: its row (1 is the first below the head) and column."""
    try:
        a, b = (list(_rows(data)) for data in (there, found))
    except csv.Error as error:
        return f"cannot be read as CSV: {text.plain(error, 80)}"
    head = b[0] if b else []
    for number, (said, says) in enumerate(zip_longest(a, b)):
        if said == says:
            continue
        if said is None or says is None:
            return f", row {number}: {'not there' if said is None else 'one more than the store gives'}"
        for column, (one, other) in enumerate(zip_longest(said, says, fillvalue="")):
            if one != other:
                name = text.plain(head[column], 60) if column < len(head) else str(column + 1)
                return f", {f'row {number}' if number else 'its head'}, column {name}: {both(one, other)}"
        return f", row {number}: {len(said)} cells, recomputed {len(says)}"
    return "the same cells, but not the same bytes"


def _rows(data: bytes) -> Iterator[list[str]]:
    with closing(StringIO(data.decode("utf-8", "replace"), newline="")) as file:
        yield from csv.reader(file)


def both(said: str, says: str) -> str:
    """What two texts say, from shortly before they part."""
    same = next((i for i, (a, b) in enumerate(zip(said, says, strict=False)) if a != b), min(len(said), len(says)))
    start = max(0, same - 12)
    shown = [("…" if start else "") + text.plain(one[start:], 48) if one else "nothing" for one in (said, says)]
    return f"says {shown[0]}, recomputed {shown[1]}"


def without_pictures(page: bytes) -> bytes:
    """A page's words and numbers alone, which are the same whatever the versions of the libraries that draw."""
    return _DRAWN.sub(b"", page)


def first_part(there: bytes, found: bytes) -> str:
    """The first part of a page that differs, in words: under which heading, whether in its table, and what it says."""
    a, b = lines(without_pictures(there)), lines(without_pictures(found))
    heading, tables = "", 0
    for (_, said), (_, says) in zip_longest(a, b, fillvalue=(0, "")):
        if said != says:
            place = f" under {text.plain(heading, 60)!r}" if heading else ""
            words = [" ".join(html.unescape(_TAG.sub(" ", one)).split()) for one in (said, says)]
            shown = both(*(words if words[0] != words[1] else (said, says)))
            return f"its {'table' if tables else 'text'}{place}: {shown}"
        heading = next((html.unescape(_TAG.sub("", one)) for one in reversed(_HEADING.findall(said))), heading)
        tables += sum(1 if one != "</table>" else -1 for one in _TABLE.findall(said))
    return "a picture in it is another one"
