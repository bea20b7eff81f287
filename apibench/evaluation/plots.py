"""The frontier: standard against robust accuracy, a line a purifier family over its settings, as one SVG file.

Plain SVG, so that it needs no drawing library and is sharp at any size; it follows the reader's light or dark scheme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from apibench.evaluation.cells import NONE
from apibench.evaluation.comparison import STANDARD, Results, Threat, known

WIDTH, _HEIGHT = 880, 560
LEFT, TOP, RIGHT, BOTTOM = 72, 64, 660, 492  # the plot's own edges
ROW = 24  # of the legend
# Distinct in both schemes and to colour-blind readers, who have the markers too.
COLOURS = (
    *("#d1495b", "#2e86ab", "#5b8e3e", "#c9822b", "#7d5ba6", "#1f9e89", "#a0617a", "#6f7d8c"),
    *("#d07ac2", "#8a6d3b", "#4a6fd8", "#9aa53a", "#e0705a", "#3fa7c9", "#97765f"),
)
MARKERS = ("circle", "square", "triangle", "diamond", "down", "plus", "cross")
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
    "down": [(0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
    "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
}
STYLE = """
  .paper { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e } .axis { stroke: #8c959f } .grid { stroke: #e6e9ec }
  text { font-family: system-ui, sans-serif; font-size: 13px } .title { font-size: 16px; font-weight: 600 }
  .none { fill: none; stroke: #1f2328; stroke-width: 1.6 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 } .axis { stroke: #656c76 } .grid { stroke: #262c36 }
    .none { stroke: #e6edf3 }
  }
"""


@dataclass(frozen=True)
class Point:
    """A setting: accuracies in [0, 1]."""

    standard: float
    robust: float
    label: str


def points(results: Results, threat: Threat) -> dict[str, list[Point]]:
    """The settings of each family that have results under ``threat`` from all classifiers that anything there has."""
    everyone = max((results.asked(threat, s) for s in results.settings), key=len, default=[])
    found: dict[str, list[Point]] = {}
    for setting in results.settings:
        if not everyone or results.asked(threat, setting) != everyone:
            continue  # a mean over fewer classifiers is no point of the same plot
        robust = results.shares(threat, setting, everyone)
        standard = results.shares(STANDARD, setting, everyone, robust)
        if len(known(robust)):
            mean = [float(known(shares).mean()) for shares in (standard, robust)]
            found.setdefault(setting.family, []).append(Point(mean[0], mean[1], setting.label))
    return found


def frontier_of(settings: Sequence[Point]) -> list[Point]:
    """The settings that no other of the family betters in both accuracies, by rising standard accuracy."""
    best, kept = -1.0, []
    for point in sorted(settings, key=lambda p: (-p.standard, -p.robust)):
        if point.robust > best:
            best = point.robust
            kept.append(point)
    return kept[::-1]


def frontier_svg(
    families: Mapping[str, Sequence[Point]],
    title: str,
    subtitle: str,
    first: str | None = None,
    among: Sequence[str] = (),
) -> str:
    """The plot; ``first`` is the family that is drawn last and thickest. The same points give the same bytes.

    ``among``: all families of the plots that this one is seen with, so that each looks the same in all of them.
    """
    x, y = (
        fitted_axis([p.standard for ps in families.values() for p in ps]),
        fitted_axis([p.robust for ps in families.values() for p in ps]),
    )
    everyone = sorted({*families, *among} - {NONE}, key=lambda name: (name != first, name))
    styles = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(everyone)}
    names = [name for name in everyone if name in families]
    along, up = percents(x, lambda share: across(share, x)), percents(y, lambda share: upwards(share, y))
    titles = ("standard accuracy, %", "robust accuracy, %")
    body = [*frame(along, up, titles), *_heading(title, subtitle)]
    for name in reversed(names):
        body += _family(name, families[name], styles[name], x, y, thick=name == first)
    body += [
        f'<circle class="none" cx="{_x(p, x):.1f}" cy="{_y(p, y):.1f}" r="6"><title>{_said(p)}</title></circle>'
        for p in families.get(NONE, [])
    ]
    body += _legend(names, styles, NONE in families, first)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {plot_height(names)}" width="{WIDTH}" '
        f'height="{plot_height(names)}" role="img" aria-label="{html.escape(title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{plot_height(names)}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def fitted_axis(values: Sequence[float]) -> Axis:
    """From a round number below the values to one above them, in at most eight round steps."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    for step in (0.02, 0.05, 0.1, 0.2):
        start, end = math.floor(low / step - 1e-9), math.ceil(high / step + 1e-9)
        if end - start <= 8:
            break
    start, end = max(start, 0), min(end, round(1 / step))
    if start >= end:
        start, end = max(end - 1, 0), max(end - 1, 0) + 1
    return Axis(start * step, end * step, step)


def _x(point: Point, axis: Axis) -> float:
    return across(point.standard, axis)


def _y(point: Point, axis: Axis) -> float:
    return upwards(point.robust, axis)


def across(share: float, axis: Axis) -> float:
    """Where a share is along the plot."""
    return LEFT + axis.share(share) * (RIGHT - LEFT)


def upwards(share: float, axis: Axis) -> float:
    """Where a share is up the plot."""
    return BOTTOM - axis.share(share) * (BOTTOM - TOP)


def plot_height(names: Sequence[str]) -> int:
    return max(_HEIGHT, TOP + ROW * (len(names) + 4))


def _heading(title: str, subtitle: str) -> list[str]:
    return [
        f'<text class="ink title" x="{LEFT}" y="28">{html.escape(title)}</text>',
        f'<text class="faint" x="{LEFT}" y="48">{html.escape(shortened(subtitle, 110))}</text>',
    ]


def frame(x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]], titles: tuple[str, str]) -> list[str]:
    """The axes and their grid: where each tick is and what it says, along and up; and the titles of both, escaped."""
    lines = []
    for at, said in x:
        lines.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        lines.append(f'<text class="faint" x="{at:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{said}</text>')
    for at, said in y:
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        lines.append(f'<text class="faint" x="{LEFT - 10}" y="{at + 4.5:.1f}" text-anchor="end">{said}</text>')
    middle = (TOP + BOTTOM) / 2
    along, up = titles
    return [
        *lines,
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
        f'<text class="ink" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 46}" text-anchor="middle">{along}</text>',
        f'<text class="ink" transform="translate(26 {middle}) rotate(-90)" text-anchor="middle">{up}</text>',
    ]


def percents(axis: Axis, place: Callable[[float], float]) -> list[tuple[float, str]]:
    """The ticks of an axis of shares, in per cent; ``place``: where a share is."""
    return [(place(tick), f"{100 * tick:.0f}") for tick in axis.ticks()]


def _family(
    name: str, settings: Sequence[Point], style: tuple[str, str], x: Axis, y: Axis, *, thick: bool
) -> list[str]:
    colour, marker = style
    best = frontier_of(settings)
    path = " ".join(f"{_x(p, x):.1f},{_y(p, y):.1f}" for p in best)
    lines = [f'<polyline fill="none" stroke="{colour}" stroke-width="{3 if thick else 1.6}" points="{path}"/>']
    for point in sorted(settings, key=lambda p: p in best):
        size = (5.5 if thick else 4.5) if point in best else 3
        shape = marker_svg(marker, _x(point, x), _y(point, y), size)
        faded = "" if point in best else ' opacity="0.45"'
        lines.append(f'<g fill="{colour}" stroke="{colour}"{faded}><title>{_said(point)}</title>{shape}</g>')
    return [f'<g data-family="{html.escape(name)}">', *lines, "</g>"]


def _said(point: Point) -> str:
    return html.escape(f"{point.label}: standard {100 * point.standard:.1f}, robust {100 * point.robust:.1f}")


def marker_svg(marker: str, x: float, y: float, r: float) -> str:
    if marker == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners = _CORNERS.get(marker)
    if corners:
        return f'<polygon points="{" ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in corners)}"/>'
    d = r if marker == "plus" else 0.75 * r
    strokes = [(-d, 0, d, 0), (0, -d, 0, d)] if marker == "plus" else [(-d, -d, d, d), (-d, d, d, -d)]
    path = "".join(f"M{x + a:.1f} {y + b:.1f}L{x + c:.1f} {y + e:.1f}" for a, b, c, e in strokes)
    return f'<path d="{path}" stroke-width="2.4" fill="none"/>'


def _legend(names: Sequence[str], styles: Mapping[str, tuple[str, str]], plain: bool, first: str | None) -> list[str]:
    """A column beside the plot: nothing in it can lie over a point or another name."""
    x, top = RIGHT + 28, TOP + 8
    lines = []
    for row, name in enumerate(names):
        colour, marker = styles[name]
        y = top + ROW * row
        weight = ' font-weight="600"' if name == first else ""
        lines.append(f'<g fill="{colour}" stroke="{colour}">{marker_svg(marker, x, y, 5)}</g>')
        lines.append(f'<text class="ink" x="{x + 16}" y="{y + 4.5}"{weight}>{html.escape(shortened(name))}</text>')
    y = top + ROW * len(names)
    if plain:
        lines.append(f'<circle class="none" cx="{x}" cy="{y}" r="6"/>')
        lines.append(f'<text class="ink" x="{x + 16}" y="{y + 4.5}">no purifier</text>')
        y += ROW
    for number, line in enumerate(("small: another setting of", "its family is better in both")):
        lines.append(f'<text class="faint" x="{x - 6}" y="{y + 14 + 18 * number}" font-size="12">{line}</text>')
    return lines


def shortened(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
