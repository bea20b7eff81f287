"""The figures of a noise analysis as SVG, without a plotting library; they follow the reader's light or dark scheme."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from apibench import text
from apibench.evaluation.analysis import SetAnalysis
from apibench.evaluation.noise import PATCH, Floats
from apibench.evaluation.noise_controls import SIGN_FLIP
from apibench.evaluation.noise_histograms import Histogram
from apibench.evaluation.spectra import Spectrum

_WIDTH, _HEIGHT = 860, 380
_TOP, _BOTTOM, _LEFT = 84, 56, 62
_STYLE = """
svg { --paper: #ffffff; --ink: #1b1f24; --faint: #667080; --grid: #e3e6ea; --bar: #b9c4d6; --normal: #c2410c; --other: #0f766e;
  --R: #c81e1e; --G: #15803d; --B: #1d4ed8; }
@media (prefers-color-scheme: dark) { svg { --paper: #12161c; --ink: #e6e9ee; --faint: #9aa4b2; --grid: #2b323c; --bar: #46536a;
  --normal: #fb923c; --other: #2dd4bf; --R: #f87171; --G: #4ade80; --B: #7aa2ff; } }
text { font: 13px system-ui, sans-serif; fill: var(--ink); } .faint { fill: var(--faint); font-size: 12px; }
.title { font-size: 15px; font-weight: 600; } .grid { stroke: var(--grid); } .axis { stroke: var(--faint); }
path { fill: none; stroke-width: 1.8; stroke-linejoin: round; } path.bar { fill: var(--bar); stroke: none; }
"""


@dataclass(frozen=True)
class _Curve:
    """A line with its place in the legend; ``colour`` is a variable of the style. What the axes cannot show breaks it."""

    name: str
    x: Floats
    y: Floats
    colour: str
    dash: str = ""


@dataclass(frozen=True)
class _Panel:
    """A pair of axes: the left edge and the width in pixels, the ranges in data units."""

    left: float
    width: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    logarithmic: bool = False  # the y axis

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        low, high = (math.log10(v) if self.logarithmic else v for v in self.y_range)
        at = math.log10(value) if self.logarithmic else value
        return _HEIGHT - _BOTTOM - (at - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, x_title: str, y_title: str) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, self.left + self.width
        parts = []
        for tick in _ticks(*self.x_range):
            at = f"{self.x(tick):.1f}"
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(_text(self.x(tick), bottom + 18, _number(tick), "faint", "middle"))
        ticks, words = (_decades, _power_of_ten) if self.logarithmic else (_ticks, _number)
        for tick in ticks(*self.y_range):
            at = f"{self.y(tick):.1f}"
            parts.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{at}" y2="{at}"/>')
            parts.append(_text(self.left - 7, self.y(tick) + 4, words(tick), "faint", "end"))
        parts.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(_text((self.left + right) / 2, bottom + 42, x_title, "", "middle"))
        parts.append(_text(self.left - _LEFT + 14, _TOP - 10, y_title, "faint"))
        return parts

    def bars(self, centres: Floats, heights: Floats, width: float) -> str:
        """Bars of one class in one path, each as wide as its bin."""
        pieces = []
        for centre, height in zip(centres, heights, strict=True):
            if height > 0:
                a, b, top = self.x(centre - width / 2), self.x(centre + width / 2), self.y(height)
                pieces.append(f"M{a + 0.5:.1f} {_HEIGHT - _BOTTOM}V{top:.1f}H{b - 0.5:.1f}V{_HEIGHT - _BOTTOM}Z")
        return f'<path class="bar" d="{"".join(pieces)}"/>'

    def line(self, curve: _Curve) -> str:
        pieces, pen = [], "M"
        for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
            if not self.x_range[0] <= x <= self.x_range[1] or math.isnan(y) or (self.logarithmic and y <= 0):
                pen = "M"
                continue
            pieces.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
        return f'<path d="{"".join(pieces)}" stroke="var(--{curve.colour})"{dash}/>'

    def legend(self, curves: Sequence[_Curve]) -> list[str]:
        """At the top right, one line a curve."""
        parts = []
        for number, curve in enumerate(curves):
            y = _TOP + 16 + 18 * number
            right = self.left + self.width - 8
            dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
            parts.append(f'<path d="M{right - 26} {y - 4}H{right}" stroke="var(--{curve.colour})"{dash}/>')
            parts.append(_text(right - 33, y, curve.name, "faint", "end"))
        return parts


def histograms(one: SetAnalysis) -> str:
    """Pixel noise, and patch means, each beside its normal curve; patch means beside those of independent pixels too."""
    half = _WIDTH / 2
    attack, control = one.attack, one.noises[SIGN_FLIP]
    pixels = _shares(attack.pixels, 1)
    left = _panel(_LEFT, half - _LEFT - 16, attack.pixels, pixels, [])
    normal = _normal_curve("normal curve", attack.pixels, 1, "normal")
    parts = [*left.frame("noise of a pixel, levels of 255", "share of pixels"), left.bars(*pixels, attack.pixels.width)]
    parts += [left.line(normal), *left.legend([normal])]
    group = _group(attack.means)
    means = _shares(attack.means, group)
    curves = [
        _normal_curve("normal curve", attack.means, group, "normal"),
        _normal_curve("same noise, signs at random", control.means, group, "other", "5 4"),
    ]
    right = _panel(half + _LEFT, half - _LEFT - 16, attack.means, means, curves)
    parts += [
        *right.frame(
            f"mean of a {PATCH}×{PATCH} patch, levels of 255",
            f"share of patches, bins of {_number(group * attack.means.width)} levels",
        ),
        right.bars(*means, attack.means.width * group),
        *(right.line(curve) for curve in curves),
        *right.legend(curves),
    ]
    return _svg(f"{one.name}: noise by pixel and by patch, {attack.images} images, all channels", parts)


def spectra(one: SetAnalysis) -> str:
    """The noise's power density by channel, beside that of its sign-flipped self and of the photographs."""
    chosen = [
        *(_density(f"noise, {channel}", one.attack.spectrum, channel, channel) for channel in "RGB"),
        _density("same noise, signs at random", one.noises[SIGN_FLIP].spectrum, "all", "other", "5 4"),
        _density("photographs", one.photographs, "all", "ink", "2 3"),
    ]
    values = np.concatenate([curve.y for curve in chosen])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        values = np.array([1.0])
    bounds = 10 ** math.floor(math.log10(values.min())), 10 ** math.ceil(math.log10(values.max()) + 1e-9)
    panel = _Panel(_LEFT + 12, _WIDTH - _LEFT - 36, (0, math.sqrt(0.5)), bounds, logarithmic=True)
    parts = [
        *panel.frame("cycles per pixel", "levels² per (cycle/pixel)²"),
        *(panel.line(curve) for curve in chosen),
        *panel.legend(chosen),
    ]
    return _svg(f"{one.name}: radially averaged power spectra, {one.attack.images} images", parts)


def _density(name: str, spectrum: Spectrum, channel: str, colour: str, dash: str = "") -> _Curve:
    # The last bins are the very corners of the plane, a handful of coefficients of each image: left out of the picture.
    return _Curve(
        name, spectrum.edges[:-2] + np.diff(spectrum.edges[:-1]) / 2, spectrum.density(channel)[:-1], colour, dash
    )


def _shares(histogram: Histogram, group: int) -> tuple[Floats, Floats]:
    """Centres and shares, ``group`` (odd) bins taken as one."""
    counts = histogram.counts()
    bins = len(counts) // (2 * group) * 2 - 1  # odd, so that one bin is centred on zero
    middle = len(counts) // 2
    start = middle - (bins // 2) * group - group // 2
    grouped = counts[start : start + bins * group].reshape(bins, group).sum(axis=1).astype(np.float64)
    centres: Floats = histogram.width * group * (np.arange(bins, dtype=np.float64) - bins // 2)
    return centres, grouped / max(1, counts.sum())


def _group(histogram: Histogram) -> int:
    """So many bins as one that about six make a standard deviation; odd."""
    return max(1, round(histogram.moments()[1] / 6 / histogram.width)) // 2 * 2 + 1


def _normal_curve(name: str, histogram: Histogram, group: int, colour: str, dash: str = "") -> _Curve:
    mean, deviation = histogram.moments()
    if not deviation:
        return _Curve(name, np.zeros(0), np.zeros(0), colour, dash)
    x = mean + deviation * np.linspace(-4, 4, 161)
    height = histogram.width * group / (deviation * math.sqrt(2 * math.pi))
    return _Curve(name, x, height * np.exp(-0.5 * ((x - mean) / deviation) ** 2), colour, dash)


def _panel(
    left: float, width: float, histogram: Histogram, shares: tuple[Floats, Floats], curves: Sequence[_Curve]
) -> _Panel:
    """Axes for a histogram: four deviations or what the counts reach, whichever is less; the legend's room on top."""
    mean, deviation = histogram.moments()
    filled = shares[0][shares[1] > 0]
    reach = max((float(np.abs(filled).max()) if len(filled) else 0) + 1.5 * histogram.width, histogram.width)
    reach = min(reach, abs(mean) + 4 * deviation) if deviation else reach
    own = deviation and histogram.width / deviation * 0.4
    tops = [float(shares[1].max()), float(own) if not curves else 0, *(float(c.y.max()) for c in curves if len(c.y))]
    return _Panel(left, width, (-reach, reach), (0, 1.28 * max(*tops, 1e-9)))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about six of them."""
    rough = (high - low) / 6
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(magnitude * one for one in (1, 2, 2.5, 5, 10) if magnitude * one >= rough)
    return [step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _power_of_ten(value: float) -> str:
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    shown = html.escape(text.plain(words, 110))
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{shown}</text>'


def _svg(title: str, parts: Iterable[str]) -> str:
    words = html.escape(text.plain(title, 110))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
            f' role="img" aria-label="{words}">',
            f"<title>{words}</title><style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" style="fill: var(--paper)"/>',
            _text(20, 32, title, "title"),
            *parts,
            "</svg>\n",
        ]
    )
