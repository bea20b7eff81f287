"""What all figures share: colours, markers, panels, who answered, and the bytes of the files. matplotlib is imported here alone.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any common colour blindness can tell apart;
each has a marker of its own as well, so that nothing hangs on colour.
"""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from apibench import metrics, text
from apibench.report import tables
from apibench.report.compare import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure as Sheet

FOLDER = "figures"
FORMS = ("png", "svg")
MOST_PANELS = 6
_LETTERS = 13  # of a title, an inch
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # one more than colours: pairs repeat late
_STYLE: Any = {  # of one type only to those who know all the names
    "text.parse_math": False,  # a name from outside is no formula
    "svg.hashsalt": "apibench",
    "svg.fonttype": "path",
    "figure.dpi": 160,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e0",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Figure:
    """``title`` and ``caption`` are plain text; ``files``: the bytes by the path within the report. The first is the PNG."""

    title: str
    caption: str
    files: dict[str, bytes]


@contextmanager
def drawing() -> Iterator[None]:
    """Everything is drawn within this: in one style, whatever the settings of this user, and without a word on the terminal."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # where its folder cannot be written, it takes a temporary one, and need not say so
    try:
        import matplotlib as mpl

        with mpl.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font lacks
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            yield
    finally:
        log.setLevel(level)


def panels(count: int, *, wide: float = 3.4, high: float = 2.9, most_columns: int = 3) -> tuple[Sheet, list[Axes]]:
    """A figure of ``count`` panels with room for a title above; sizes are in inches a panel."""
    from matplotlib.figure import Figure as Sheet

    columns = 2 if count == 4 and most_columns < 4 else min(count, most_columns)
    rows = -(-count // columns)
    sheet = Sheet(figsize=(max(wide * columns, 5.2), high * rows + 0.9), layout="constrained")
    axes = sheet.subplots(rows, columns, squeeze=False).ravel()
    for extra in axes[count:]:
        extra.remove()
    return sheet, list(axes[:count])


def legend(sheet: Sheet, handles: dict[str, ErrorbarContainer]) -> None:
    """Under the panels. A name that begins with an underscore would be left out without the space."""
    names = [f" {name}" if name.startswith("_") else name for name in handles]
    drawn: list[Any] = list(handles.values())  # a container is good for a legend, though no artist
    sheet.legend(drawn, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=8)


def share_axis(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])


def whiskers(shares: Sequence[metrics.Proportion]) -> list[list[float]]:
    """How far Wilson's 95 % interval goes below and above each share; all shares are of at least one image."""
    found = [(share.value or 0.0, metrics.wilson_interval(share.k, share.n)) for share in shares]
    return [
        [max(0.0, value - interval.low) for value, interval in found],
        [max(0.0, interval.high - value) for value, interval in found],
    ]


def look(place: int) -> dict[str, str]:
    """The colour and the marker of the so-manieth line."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def finish(sheet: Sheet, name: str, title: str, caption: str, groups: Sequence[Group]) -> Figure:
    """The files of a figure. Who answered stands in it, so that it says so wherever it is pasted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    loud = " ".join(one.loud for one in tables.origins(groups) if one.loud)
    # As many letters a line as there is room for; a warning is never cut.
    wrapped = textwrap.wrap(text.plain(loud), max(40, int(_LETTERS * sheet.get_figwidth())))
    sheet.suptitle("\n".join([title, *wrapped]), fontsize=10)
    png, svg = BytesIO(), BytesIO()
    # Not savefig, which lays out and draws twice. Without the date: the same numbers give the same bytes.
    raster: Any = FigureCanvasAgg(sheet)
    raster.print_png(png, metadata={"Software": None})
    sheet.set_layout_engine("none")
    vector: Any = FigureCanvasSVG(sheet)
    vector.print_svg(svg, metadata={"Date": None})
    files = {f"{FOLDER}/{name}.png": png.getvalue(), f"{FOLDER}/{name}.svg": svg.getvalue()}
    return Figure(title, caption, files)


def left_out(count: int, what: str) -> str:
    return f" {count} more {what} are not shown." if count > 0 else ""
