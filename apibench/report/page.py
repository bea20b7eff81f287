"""index.html: the whole benchmark on one page that needs no network and no server, every photograph with what was said of it.

The page is made and written one photograph at a time, so that a thousand need no more memory than one. Text from outside
(labels, ids, campaigns, titles, settings, errors) goes through ``text.plain`` here and is escaped by the template; what the
page's own machinery goes by (ids, classes, filter values) are numbers and words of ours.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from apibench import metrics, text
from apibench.imageset import write_pieces
from apibench.report import marks, tables
from apibench.report.cards import LABELS, Maker, names
from apibench.report.compare import NONE, Answers, Group, Row
from apibench.report.picture import AMPLIFY, Files

MOST_CHARTS = 12
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bar:
    name: str
    words: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """The share of first labels that one attack leaves, and each purifier after it, at one provider."""

    who: str
    attack: str
    words: str
    bars: list[Bar]


def write(path: Path, groups: Sequence[Answers], rows: Sequence[Row], files: Files) -> None:
    """Write the page, or leave what is there. The same store and files give the same bytes. Raises ApibenchError."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    maker = Maker(groups, files)
    context = _head(maker, rows) | {"cards": maker.cards(), "tally": maker.tally}
    write_pieces(path, (piece.encode() for piece in environment.get_template("page.html.j2").generate(context)))


# --- above the photographs ---


def _head(maker: Maker, rows: Sequence[Row]) -> dict[str, Any]:
    """What the template needs beside the photographs."""
    head, body = tables.main_cells(rows) if rows else ([], [])
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    groups = [who.answers.group for who in maker.whos]
    return {
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - ours, as is the script
        "script": Markup(script),  # noqa: S704
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "campaigns": sorted({text.plain(group.campaign, 80) for group in groups}),
        "names": list(dict.fromkeys(who.name for who in maker.whos)),
        "origins": tables.origins(groups),
        "whos": maker.whos,
        "photographs": len(maker.sources),
        "attacks": [(number, text.plain(attack, 40)) for number, attack in enumerate(maker.attacks, 1)],
        "purifiers": [text.plain(purifier, 40) for purifier in maker.purifiers],
        "charts": (charts := _charts(rows))[:MOST_CHARTS],
        "charts_left_out": max(0, len(charts) - MOST_CHARTS),
        "head": head,
        "body": _spanned(body, len(head) - tables.SHARES - 1),
        "first_share": len(head) - tables.SHARES,
        "nothing": tables.NOTHING,
        "columns": _emphasised(tables.COLUMNS),
        "marks": marks,
        "amplify": AMPLIFY,
        "labels": LABELS,
        "pictures": maker.pictures,
    }


def _emphasised(words: str) -> Markup:
    """``*…*`` of a text of ours as HTML."""
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", str(escape(words))))  # noqa: S704


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after an underscore or before a hash."""
    return Markup("<wbr>").join(re.split(r"(?<=_)|(?=#)", name))


def _spanned(body: Sequence[Sequence[str]], columns: int) -> list[list[tuple[str, int]]]:
    """Each cell with the rows it stands for: what repeats in the first ``columns`` is said once, and 0 times below."""

    def span(row: int, column: int) -> int:
        if column >= columns:
            return 1
        same = [other[: column + 1] == body[row][: column + 1] for other in body]
        if row and same[row - 1]:
            return 0
        return [*same, False].index(False, row) - row

    return [[(cell, span(row, column)) for column, cell in enumerate(cells)] for row, cells in enumerate(body)]


def _charts(rows: Sequence[Row]) -> list[Chart]:
    called = names([row.group for row in rows])
    found: dict[tuple[Group, str], list[Row]] = {}
    for row in rows:
        if row.attack is not None:
            found.setdefault((row.group, row.attack), []).append(row)
    charts = []
    for (group, attack), own in found.items():
        bars = [_bar(row) for row in own]
        name = " · ".join(filter(None, called[group]))
        charts.append(Chart(name, text.plain(attack, 40), _in_words(own), [bar for bar in bars if bar]))
    return [chart for chart in charts if chart.bars]


def _in_words(rows: Sequence[Row]) -> str:
    """What one attack took at one provider, and which purifier gave back most of it at what cost."""
    attacked = rows[0].attacked
    if attacked is None or not attacked.top1.n:
        return "No attacked picture was answered."
    share = attacked.top1
    words = f"The attack took {share.n - share.k} of {share.n} first labels."
    purified = [(row, row.recovery) for row in rows if row.recovery is not None]
    if not purified:
        return words
    best, recovery = max(purified, key=lambda one: one[1].value)
    if recovery.numerator <= 0:
        return f"{words} No purifier gave any back on balance."
    most = "gave back the most" if len(purified) > 1 else "gave back"
    words += f" {text.plain(best.purifier, 40)} {most}: {recovery.numerator} of {recovery.denominator} on balance"
    cost = best.cost
    return f"{words}; it changes {cost.k} of {cost.n} clean pictures." if cost is not None and cost.n else f"{words}."


def _bar(row: Row) -> Bar | None:
    name, agreement = ("as sent", row.attacked) if row.purifier == NONE else (row.purifier, row.purified)
    found = agreement.top1 if agreement else None
    if found is None or found.value is None:
        return None
    interval = metrics.wilson_interval(found.k, found.n)
    return Bar(text.plain(name, 40), tables.share(agreement), found.value, interval.low, interval.high)
