"""The figures of a report, each as SVG and as PNG: drawn from the same rows as its tables.

matplotlib is imported when a report is written, and not before. A figure with nothing to show is not there. The same store and
images give the same bytes, as long as matplotlib is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apibench import text
from apibench.report.cards import names
from apibench.report.compare import Answers, Row
from apibench.report.figures import agreement, canvas, others
from apibench.report.figures.canvas import FOLDER, FORMS, Figure
from apibench.report.frames import StoreFrames
from apibench.report.picture import Files

__all__ = ["FOLDER", "Figure", "draw", "remove_earlier", "section"]


def draw(frames: StoreFrames, groups: Sequence[Answers], rows: Sequence[Row], files: Files) -> list[Figure]:
    """All figures that have something to show, in the order of the document."""
    called = {group: " · ".join(filter(None, both)) for group, both in names([one.group for one in groups]).items()}
    with canvas.drawing():
        return [
            *agreement.iterations(rows, called),
            *agreement.epsilons(rows, called),
            *agreement.classes(groups, called),
            *others.noise(frames.images, files),
            *others.providers(groups, frames.outcomes, called),
        ]


def section(figures: Sequence[Figure]) -> list[str]:
    """The paragraphs of the document that show them."""
    parts = []
    for figure in figures:
        png, *others_ = figure.files
        title = text.markdown(figure.title)
        parts += [f"![{title}]({png})", f"*{title}.* {text.markdown(figure.caption)} ([SVG]({others_[0]}))"]
    return parts


def remove_earlier(out: Path, figures: Sequence[Figure]) -> None:
    """Take away figures of an earlier report into the same folder: they would be taken for figures of this store."""
    written = {out / file for figure in figures for file in figure.files}
    for kind in ("iterations", "epsilon", "classes", "noise", "providers"):
        for form in FORMS:
            for path in sorted((out / FOLDER).glob(f"{kind}*.{form}")):
                if path not in written:
                    path.unlink()
