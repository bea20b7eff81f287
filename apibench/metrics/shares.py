"""Shares of images, and how sure they are. Intervals are two-sided and cover 95 % unless ``confidence`` says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats

CONFIDENCE = 0.95

# One an image: True (agrees), False (disagrees), None (nothing is known: it failed, or was not asked).
Flags = Sequence[bool | None]


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
    """k of n, ``left_out`` images besides of which nothing is known. All shares are in [0, 1]; n = 0 has none.

    ``bad``: what is counted is a harm (a cost, an attack's success), so that it is worst where most images have it.
    """

    k: int
    n: int
    left_out: int = 0
    bad: bool = False

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        return wilson_interval(self.k, self.n) if self.n else None

    @property
    def worst(self) -> float | None:
        """The share if every image left out disagreed (of a harm: had it), the lowest (of a harm: the highest) it can be."""
        return self._if_all_left_out(self.bad)

    @property
    def best(self) -> float | None:
        """The share if every image left out agreed (of a harm: was spared)."""
        return self._if_all_left_out(not self.bad)

    def _if_all_left_out(self, counted: bool) -> float | None:
        total = self.n + self.left_out
        return (self.k + counted * self.left_out) / total if total else None


def proportion(flags: Flags) -> Proportion:
    """The share of True among the images of which something is known."""
    known = [flag for flag in flags if flag is not None]
    return Proportion(sum(known), len(known), len(flags) - len(known))


def complement(share: Proportion) -> Proportion:
    """The share of the others: a purifier's cost is that of its agreement on clean images. Of what is good, it is a harm."""
    return Proportion(share.n - share.k, share.n, share.left_out, bad=not share.bad)
