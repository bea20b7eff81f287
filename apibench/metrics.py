"""What two answers have in common, and how sure the counts over many images are: pure functions, no store and no network.

An image's answer is a sequence of :class:`~apibench.query.contract.Label` in the vendor's order. A comparison over images is a
sequence of flags, one an image: True (agrees), False (disagrees), None (nothing is known: it failed, or was not asked).
Intervals are two-sided and cover 95 % unless ``confidence`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from scipy import stats

from apibench.query.contract import Label

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
# Above this agreement there is next to nothing to recover, and a ratio to it would be noise.
MOST_AGREEMENT_FOR_RECOVERY = 0.9

Flags = Sequence[bool | None]


# --- one image ---


def drop_returned_parents(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels without those that another one of them names as its parent ("Animal" beside "Dog"), order kept.

    A vendor that returns an object returns its ancestors as well, at no lower score: they would agree for any two animals.
    Labels that are one another's parents in a circle have no most specific one, so all of them stay if nothing else would.
    """
    parents = {parent for label in labels for parent in label.parents if parent not in (label.name, label.id)}
    kept = tuple(
        label for label in labels if label.name not in parents and (label.id is None or label.id not in parents)
    )
    return kept or tuple(labels)


def identity(label: Label) -> str:
    """By what two labels are the same one: the vendor's own id, where it has one, else the name."""
    return label.name if label.id is None else label.id


def top1_agreement(clean: Sequence[Label], variant: Sequence[Label]) -> bool:
    """Whether the variant's first label is the clean image's first one. ``clean`` must not be empty."""
    return topk_agreement(clean, variant, 1)


def topk_agreement(clean: Sequence[Label], variant: Sequence[Label], k: int) -> bool:
    """Whether the clean image's first label is among the variant's first k. ``clean`` must not be empty."""
    return identity(clean[0]) in {identity(label) for label in variant[:k]}


def overlap_at_k(clean: Sequence[Label], variant: Sequence[Label], k: int) -> float:
    """The share, in [0, 1], of the clean image's first k labels that are among the variant's first k."""
    wanted = {identity(label) for label in clean[:k]}
    return len(wanted & {identity(label) for label in variant[:k]}) / len(wanted)


def tied_at(labels: Sequence[Label], k: int) -> bool:
    """Whether the k-th and the next label have the same score, so that only the vendor's order decides which is in."""
    return len(labels) > k and labels[k - 1].score == labels[k].score


# --- proportions ---


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@lru_cache(maxsize=4096)  # a report asks for the same few counts again and again, and scipy takes a millisecond each
def wilson_interval(k: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of the proportion k / n (Wilson 1927), n > 0, within [0, 1]."""
    found = stats.binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class Proportion:
    """k of n, ``left_out`` images besides of which nothing is known. All shares are in [0, 1]; n = 0 has none."""

    k: int
    n: int
    left_out: int = 0

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        return wilson_interval(self.k, self.n) if self.n else None

    @property
    def worst(self) -> float | None:
        """The share if every image left out disagreed."""
        total = self.n + self.left_out
        return self.k / total if total else None

    @property
    def best(self) -> float | None:
        """The share if every image left out agreed."""
        total = self.n + self.left_out
        return (self.k + self.left_out) / total if total else None


def proportion(flags: Flags) -> Proportion:
    """The share of True among the images of which something is known."""
    known = [flag for flag in flags if flag is not None]
    return Proportion(sum(known), len(known), len(flags) - len(known))


def complement(share: Proportion) -> Proportion:
    """The share of the others: a purifier's cost is that of its agreement on clean images."""
    return Proportion(share.n - share.k, share.n, share.left_out)


# --- the same images twice ---


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
    discordant = counts.after_only + counts.before_only
    return float(stats.binomtest(counts.after_only, discordant, 0.5).pvalue) if discordant else 1.0


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
