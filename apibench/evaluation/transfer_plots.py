"""Epsilon against accuracy, a line an attack, one SVG file a norm and classifier; in the colours and shapes of the frontiers."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from apibench import text
from apibench.evaluation.cells import CLEAN, display, slug
from apibench.evaluation.comparison import Accuracy
from apibench.evaluation.plots import (
    COLOURS,
    LEFT,
    MARKERS,
    RIGHT,
    ROW,
    STYLE,
    TOP,
    WIDTH,
    Axis,
    fitted_axis,
    frame,
    marker_svg,
    percents,
    plot_height,
    shortened,
    upwards,
)
from apibench.evaluation.tables import MEAN
from apibench.evaluation.transfer_rates import Study, Variant

NORMS = {"linf": "epsilon (L-infinity), levels of 255", "l2": "radius (L2), pixels in [0, 1]"}


@dataclass(frozen=True)
class Mark:
    """A set's accuracy at its epsilon; 0: the images that nobody attacked."""

    epsilon: float
    accuracy: Accuracy


def plots(study: Study) -> Iterator[tuple[str, str]]:
    """File names and SVGs: of each norm that has sets, the mean over the held-out classifiers, if several, then each."""
    for norm, axis in NORMS.items():
        variants = [variant for variant in study.variants if variant.norm == norm]
        if not variants:
            continue
        labels = sorted({variant.label for variant in variants})
        mean = [(MEAN, study.held_out)] if len(study.held_out) > 1 else []
        for name, members in [*mean, *((name, [name]) for name in study.classifiers)]:
            who = f"mean over {', '.join(display(m) for m in members)}" if name == MEAN else display(name)
            if any(study.white_box(variant, *members) for variant in variants):
                who += ", a surrogate of some of the sets"
            lines = {label: marks(study, label, norm, members) for label in labels}
            yield f"accuracy-{norm}-{slug(name)}.svg", svg(lines, "Accuracy on adversarial images", who, axis)


def marks(study: Study, label: str, norm: str, classifiers: Sequence[str]) -> list[Mark]:
    """The points of a line by rising epsilon, the first of them clean where that is known."""
    members = [variant for variant in study.variants if variant.label == label and variant.norm == norm]
    found = [_mark(variant.epsilon, study.accuracy(variant, classifiers)) for variant in members]
    purified = members[0].purified
    if not purified:
        found.append(_mark(0.0, study.clean(classifiers)))
    found += [
        _mark(0.0, study.accuracy(v, classifiers)) for v in study.variants if purified and _is_clean_behind(v, purified)
    ]
    return sorted((mark for mark in found if mark), key=lambda mark: mark.epsilon)


def _is_clean_behind(variant: Variant, purified: str) -> bool:
    return (variant.attack, variant.bound, variant.purified) == (CLEAN, "", purified)


def _mark(epsilon: float | None, accuracy: Accuracy | None) -> Mark | None:
    return None if epsilon is None or accuracy is None else Mark(epsilon, accuracy)


def svg(lines: Mapping[str, Sequence[Mark]], title: str, subtitle: str, axis: str) -> str:
    """The plot, the strongest attack first in the legend. Colour and shape go by the place of a line's name in ``lines``."""
    styles = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(lines)}
    every = [mark for found in lines.values() for mark in found]
    y = fitted_axis(
        [end for m in every for end in (m.accuracy.value, m.accuracy.interval.low, m.accuracy.interval.high)]
    )
    widest = max(mark.epsilon for mark in every)
    ticks = sorted({mark.epsilon for mark in every} | {0.0})
    # At the largest epsilon that a line reaches, and among those that reach as far, by accuracy.
    ranked = sorted(
        (n for n in lines if lines[n]), key=lambda n: (-lines[n][-1].epsilon, lines[n][-1].accuracy.value, n)
    )
    along = [(_x(tick, widest), f"{tick:g}") for tick in ticks]
    up = percents(y, lambda share: upwards(share, y))
    body = [*frame(along, up, (_safe(axis), "accuracy, %"))]
    body.append(f'<text class="ink title" x="{LEFT}" y="28">{_safe(title)}</text>')
    body.append(f'<text class="faint" x="{LEFT}" y="48">{_safe(shortened(subtitle, 110))}</text>')
    for name in reversed(ranked):
        body += _line(name, lines[name], styles[name], widest, y)
    for row, name in enumerate(ranked):
        colour, marker = styles[name]
        at = TOP + 8 + ROW * row
        body.append(f'<g fill="{colour}" stroke="{colour}">{marker_svg(marker, RIGHT + 28, at, 5)}</g>')
        body.append(f'<text class="ink" x="{RIGHT + 44}" y="{at + 4.5}">{_safe(shortened(name))}</text>')
    height = plot_height(ranked)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{_safe(f"{title}: {subtitle}")}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _safe(name: str) -> str:
    """Text of a manifest as XML can hold it: escaping alone leaves control characters, which no XML may have."""
    return html.escape(text.plain(name))


def _x(epsilon: float, widest: float) -> float:
    return LEFT + epsilon / widest * (RIGHT - LEFT)


def _line(name: str, found: Sequence[Mark], style: tuple[str, str], widest: float, y: Axis) -> list[str]:
    colour, marker = style
    at = [(_x(mark.epsilon, widest), upwards(mark.accuracy.value, y)) for mark in found]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
    parts = [f'<g data-attack="{_safe(name)}" fill="{colour}" stroke="{colour}">']
    parts.append(f'<polyline fill="none" stroke-width="1.8" points="{path}"/>')
    for mark, (a, b) in zip(found, at, strict=True):
        low, high = (upwards(end, y) for end in (mark.accuracy.interval.low, mark.accuracy.interval.high))
        parts.append(f'<line opacity="0.35" x1="{a:.1f}" x2="{a:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f"<g><title>{_said(name, mark)}</title>{marker_svg(marker, a, b, 4.5)}</g>")
    return [*parts, "</g>"]


def _said(name: str, mark: Mark) -> str:
    share, interval = mark.accuracy.value, mark.accuracy.interval
    ends = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    what = name if mark.epsilon else "clean"
    return _safe(f"{what} at {mark.epsilon:g}: {100 * share:.1f} {ends}")
