"""What counts as "mean zero" and as "symmetric", fixed before any noise is looked at, and the verdict on each.

A claim that something is close to zero cannot rest on a test that fails to tell it from zero: with few images that always
succeeds. Each claim here is one of equivalence (two one-sided tests, each at 2.5 %): it holds where the whole 95 % interval lies
within a margin, does not hold where the whole interval lies outside, and cannot be told in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from apibench import text
from apibench.evaluation.noise import PATCH, Estimate
from apibench.evaluation.noise_patches import PatchTable

MINIMUM_IMAGES = 20  # fewer, and a percentile bootstrap over images is too narrow to decide anything


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Claim:
    """``quantity`` (of noise_patches), all channels, patches of ``side``: within ``margin`` of zero."""

    name: str
    quantity: str
    margin: float
    unit: str
    why: str
    side: int = PATCH

    def judge(self, table: PatchTable) -> Verdict:
        estimate = table[self.quantity, self.side, "all"]
        if table.images < MINIMUM_IMAGES or estimate.low is None or estimate.high is None:
            return Verdict.UNKNOWN
        if -self.margin <= estimate.low and estimate.high <= self.margin:
            return Verdict.HOLDS
        return Verdict.FAILS if estimate.low > self.margin or estimate.high < -self.margin else Verdict.UNKNOWN

    def sentence(self, table: PatchTable) -> str:
        """The verdict and the numbers it rests on, in plain words."""
        verdict = self.judge(table)
        found = interval(table[self.quantity, self.side, "all"], self.unit)
        return f"{self.name}: {verdict}{self._reason(verdict, table)}. {found}, margin {_in(self.margin, self.unit)}."

    def _reason(self, verdict: Verdict, table: PatchTable) -> str:
        if verdict is not Verdict.UNKNOWN:
            return ""
        if table[self.quantity, self.side, "all"].value is None:
            return f" (no {self.side}×{self.side} patch has this quantity: no noise, or images too small)"
        if table.images < MINIMUM_IMAGES:
            return f" (too few images: {table.images}, at least {MINIMUM_IMAGES} are needed)"
        return f" (too few images, {table.images}: the interval crosses the margin)"


CLAIMS = (
    Claim(
        "Zero mean on average",
        "mean_share",
        0.05,
        "%",
        "the mean of all patch means is within 5 % of the noise's RMS: a shift then holds at most 0.25 % of its energy",
    ),
    Claim(
        "Zero mean in each patch",
        "absolute_mean_share",
        0.10,
        "%",
        "the mean absolute patch mean is at most 10 % of the noise's RMS: twice the 5 % that independent pixels give in 16×16. "
        "This is what averaging over a patch needs; the first can hold with patches far from zero, as long as they balance",
    ),
    Claim(
        "Symmetric on average",
        "skewness",
        0.10,
        "",
        "the mean skewness is within ±0.1: that of noise with two values when they are split 52.5 to 47.5",
    ),
    Claim(
        "Symmetric in each patch",
        "absolute_skewness",
        0.25,
        "",
        "the mean absolute skewness is at most 0.25: about twice what 256 independent pixels of a symmetric noise give (0.10 to "
        "0.12); that of two values split 56 to 44",
    ),
)


def interval(estimate: Estimate, unit: str = "", digits: int | None = None) -> str:
    """``0.31 [0.22, 0.40]``, in per cent where the unit is so; an en dash where there is none."""
    if estimate.value is None:
        return "–"
    scale = 100 if unit == "%" else 1
    places = digits if digits is not None else 1 if unit == "%" else 3
    value, low, high = (
        text.number(None if number is None else scale * number, places)
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]" + (f" {unit} of the noise's RMS" if unit == "%" else "")


def _in(margin: float, unit: str) -> str:
    return f"{100 * margin:g} %" if unit == "%" else f"{margin:g}"
