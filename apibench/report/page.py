"""index.html: the whole benchmark on one page that needs no network and no server, every photograph with what was said of it.

A browser shows a page of 10 photographs at a time. The first 10 are in the file as they are, and need no scripts; the others are
blocks of JSON at its end, or, where there are so many pictures that the file would open slowly, scripts in ``index_files`` beside
it, one a photograph, that are read when they are looked at (a file may load a script beside it, but not read data there).

The page is made and written one photograph at a time, so that a thousand need no more memory than one. Text from outside
(labels, ids, campaigns, titles, settings, errors) goes through ``text.plain`` here and is escaped by the template; what the
page's own machinery goes by (ids, classes, filter values) are numbers and words of ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from apibench import metrics, text
from apibench.imageset import write_atomically, write_pieces
from apibench.report import marks, tables, words
from apibench.report.cards import LABELS, Maker, class_name, names
from apibench.report.compare import NONE, Answers, Group, Row
from apibench.report.picture import AMPLIFY, Files

MOST_CHARTS = 12
MOST_SUMMARIES = 6
SHOWN = 10  # photographs on a page of them
MOST_INLINE = (
    1500  # variants of photographs; where there are more, the photographs after the first page are beside the file
)
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


def write(
    path: Path, groups: Sequence[Answers], rows: Sequence[Row], files: Files, truth: Mapping[str, int] | None = None
) -> list[str]:
    """Write the page, or leave what is there; returns the files it is of, relative to its folder.

    The same store and files give the same bytes. Raises ApibenchError where it cannot be written.

    ``truth``: the ImageNet class (0 to 999) of each photograph that was given one, by its identity.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"breakable": _breakable, "whole": _whole}
    maker = Maker(groups, files, truth or {})
    head = _head(maker, rows)
    beside = Beside(path)
    variants = sum(len(photograph.hashes) for photograph in maker.photographs)
    apart = variants > MOST_INLINE and len(maker.photographs) > SHOWN
    template = environment.get_template("card.html.j2")

    def rest() -> Iterator[tuple[int, Markup]]:
        for card in maker.cards(SHOWN):
            html = template.render(head | {"card": card})
            if apart:
                beside.write(card.number, html)
            else:
                yield card.number, _json(html)

    def index() -> Markup:
        return _json({"page": SHOWN, "photographs": maker.index(), "files": beside.files})

    context = head | {
        "cards": maker.cards(0, SHOWN),
        "tally": maker.tally,
        "beside": apart,
        "rest": rest(),
        "index": index,
    }
    write_pieces(path, (piece.encode() for piece in environment.get_template("page.html.j2").generate(context)))
    beside.tidy()
    return [path.name, *beside.files.values()]


class Beside:
    """The files beside the page. Their names hold a hash of what is in them: those of an earlier page stay as they are until the
    new page is there, and never show in it."""

    def __init__(self, page: Path) -> None:
        self.folder = page.with_name(f"{page.stem}_files")
        self.files: dict[int, str] = {}  # by the number of the photograph, relative to the page

    def write(self, number: int, html: str) -> None:
        data = f"apibenchCard({number},{_json(html)})\n".encode()
        name = f"{number:05d}-{hashlib.sha256(data).hexdigest()[:12]}.js"
        write_atomically(self.folder / name, data)
        self.files[number] = f"{self.folder.name}/{name}"

    def tidy(self) -> None:
        """Remove those of an earlier page, and nothing else."""
        kept = {Path(file).name for file in self.files.values()}
        for file in self.folder.glob("*.js"):
            if re.fullmatch(r"\d{5,}-[0-9a-f]{12}\.js", file.name) and file.name not in kept:
                file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _json(value: object) -> Markup:
    """JSON that may stand in a script element: nothing in it can end the element, open a comment, or break a line."""
    found = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - as said


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
        "photographs": len(maker.photographs),
        "shown": SHOWN,
        "classes": _classes(maker),
        "short": (short := words.by_attack(rows))[:MOST_SUMMARIES],
        "short_left_out": max(0, len(short) - MOST_SUMMARIES),
        "attacks": [(number, text.plain(attack, 40)) for number, attack in enumerate(maker.attacks, 1)],
        "purifiers": [text.plain(purifier, 40) for purifier in maker.purifiers],
        "charts": (shown := _shown(charts := _charts(rows))),
        "charts_left_out": len(charts) - len(shown),
        "head": head,
        "body": _repeating(body, len(head) - tables.SHARES - 1),
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


def _whole(words: str) -> Markup:
    """A sentence in which a line never ends between a number and its per cent sign."""
    return Markup(str(escape(words)).replace(" %", "&nbsp;%"))  # noqa: S704 - escaped here


def _repeating(body: Sequence[Sequence[str]], columns: int) -> list[list[tuple[str, bool]]]:
    """Each cell, and whether it and all before it repeat the row above: of the first ``columns``, those are said once."""

    def again(row: int, column: int) -> bool:
        return row > 0 and column < columns and body[row][: column + 1] == body[row - 1][: column + 1]

    return [[(cell, again(row, column)) for column, cell in enumerate(cells)] for row, cells in enumerate(body)]


def _classes(maker: Maker) -> list[tuple[int, str, int]]:
    """The classes that photographs were given: number, name and how many have it, by name."""
    counts = Counter(index for one in maker.photographs if (index := maker.truth.get(one.source)) is not None)
    return sorted(
        ((index, class_name(index), count) for index, count in counts.items()), key=lambda one: (one[1], one[0])
    )


def _shown(charts: Sequence[Chart]) -> list[Chart]:
    """Those of the first attacks: each at every provider, so that no provider is left out for its name."""
    attacks = Counter(chart.attack for chart in charts)
    whole: Counter[str] = Counter()
    for attack, count in attacks.items():
        if whole and whole.total() + count > MOST_CHARTS:
            break
        whole[attack] = count
    return [chart for chart in charts if chart.attack in whole]


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
        charts.append(Chart(name, text.plain(attack, 40), words.of_provider(own), [bar for bar in bars if bar]))
    return [chart for chart in charts if chart.bars]


def _bar(row: Row) -> Bar | None:
    name, agreement = ("as sent", row.attacked) if row.purifier == NONE else (row.purifier, row.purified)
    found = agreement.top1 if agreement else None
    if found is None or found.value is None:
        return None
    interval = metrics.wilson_interval(found.k, found.n)
    return Bar(text.plain(name, 40), tables.share(agreement), found.value, interval.low, interval.high)
