"""The same images twice: paired differences, their interval and test, and what a purifier recovers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from scipy import stats

from apibench.metrics.shares import CONFIDENCE, Flags, Interval, wilson_interval

RESAMPLES = 10_000
SEED = 0
# Above this agreement there is next to nothing to recover, and a ratio to it would be noise.
MOST_AGREEMENT_FOR_RECOVERY = 0.9


@dataclass(frozen=True)
class PairedCounts:
    """How many images agree after and before, only after, only before, never: those of which both are known."""

    both: int
    after_only: int
    before_only: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.after_only + self.before_only + self.neither

    @property
    def difference(self) -> float:
        """Share after minus share before, in [-1, 1]; n > 0."""
        return (self.after_only - self.before_only) / self.n


def pair(before: Flags, after: Flags) -> PairedCounts:
    """Count pairs; the two sequences are of the same images in the same order. A pair with a None is left out."""
    known = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return PairedCounts(
        both=known.count((True, True)),
        after_only=known.count((False, True)),
        before_only=known.count((True, False)),
        neither=known.count((False, False)),
    )


def newcombe_interval(counts: PairedCounts, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of the difference of two paired proportions, after minus before; n > 0, within [-1, 1].

    Method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650: Wilson's intervals of the two proportions are
    squared and added, less a term for their correlation phi, whose numerator is reduced by n / 2 but not below zero.
    """
    n = counts.n
    after, before = counts.both + counts.after_only, counts.both + counts.before_only
    margins = after * (n - after) * before * (n - before)
    numerator = float(counts.both * counts.neither - counts.after_only * counts.before_only)
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    phi = numerator / sqrt(margins) if margins else 0.0

    p_after, p_before = after / n, before / n
    of_after, of_before = wilson_interval(after, n, confidence), wilson_interval(before, n, confidence)

    def reach(one: float, other: float) -> float:
        # Never below zero but for rounding: |phi| <= 1.
        return sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))

    low = reach(p_after - of_after.low, of_before.high - p_before)
    high = reach(of_after.high - p_after, p_before - of_before.low)
    return Interval(max(counts.difference - low, -1.0), min(counts.difference + high, 1.0))


def mcnemar_p(counts: PairedCounts) -> float:
    """Exact two-sided p of McNemar's test: the discordant pairs are a fair coin's throws if nothing changed. 1 without any."""
    return sign_test_p(counts.after_only, counts.before_only)


@lru_cache(maxsize=65536)  # a table compares every pair of its rows, and most of the counts are small
def sign_test_p(won: int, lost: int) -> float:
    """Exact two-sided p that ``won`` of ``won + lost`` throws of a fair coin are as uneven as that, in (0, 1]."""
    return min(1.0, 2 * float(stats.binom.cdf(min(won, lost), won + lost, 0.5)))


@dataclass(frozen=True)
class Recovery:
    """How much of what the attack took a purifier gives back: ``numerator / denominator`` images.

    The numerator is (images that agree purified) − (images that agree attacked), the denominator the images that disagree
    attacked, over those of which both are known. 1 is all of it; below 0 the purifier did harm; nothing is clipped.
    """

    numerator: int
    denominator: int
    n: int
    low: float
    high: float
    undefined_resamples: int  # those in which no image disagreed: left out of the interval

    @property
    def value(self) -> float:
        return self.numerator / self.denominator


def recovery(attacked: Flags, purified: Flags, *, resamples: int = RESAMPLES, seed: int = SEED) -> Recovery | None:
    """Recovery with the percentile interval of a paired bootstrap over images, 95 %.

    The sequences are of the same images in the same order. None where no image is known twice, or agreement attacked is above
    0.9. An image is one of four kinds, so drawing n images with replacement is drawing how many of each kind there are.
    """
    counts = pair(attacked, purified)
    agree = counts.both + counts.before_only
    if counts.n == 0 or agree / counts.n > MOST_AGREEMENT_FOR_RECOVERY:
        return None
    cells = np.array([counts.both, counts.after_only, counts.before_only, counts.neither])
    drawn = np.random.default_rng(seed).multinomial(counts.n, cells / counts.n, size=resamples)
    gained, lost = drawn[:, 1] - drawn[:, 2], drawn[:, 1] + drawn[:, 3]
    defined = lost > 0
    low, high = np.quantile(gained[defined] / lost[defined], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Recovery(
        numerator=counts.after_only - counts.before_only,
        denominator=counts.n - agree,
        n=counts.n,
        low=float(low),
        high=float(high),
        undefined_resamples=int(resamples - defined.sum()),
    )
