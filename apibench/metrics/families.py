"""Many comparisons at once, and how small a difference so many images can show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

ALPHA = 0.05
POWER = 0.8
_STEPS = 14  # halvings of the bracket: to less than a ten-thousandth


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p, in [0, 1], corrected for having looked at all of them, in the order given.

    S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70: the i-th smallest of m is multiplied by m - i + 1, and none is
    smaller than one before it. Those below alpha are wrong with probability alpha at most, for all of them together, whatever
    depends on whatever.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def power_of_mcnemar(n: int, discordance: float, difference: float, alpha: float = ALPHA) -> float:
    """How likely the exact two-sided test of McNemar finds a true ``difference`` of two shares, over ``n`` pairs.

    ``discordance``, in [|difference|, 1], is the share of pairs that differ at all, one way or the other. The number of those is
    binomial, and so is, given it, how many differ one way: power is summed over both (S. W. Duffy, Biometrics 40 (1984),
    1005-1015).
    """
    if discordance <= 0:
        return 0.0
    one_way = min((discordance + abs(difference)) / (2 * discordance), 1.0)
    # What is left out of the sum is less likely than one in a million million.
    low, high = (int(stats.binom.ppf(tail, n, discordance)) for tail in (1e-12, 1 - 1e-12))
    pairs = np.arange(low, high + 1)
    # The test rejects at ``most`` or fewer of the rarer way: the largest count whose doubled tail is within alpha.
    most = stats.binom.ppf(alpha / 2, pairs, 0.5)
    most = np.where(stats.binom.cdf(most, pairs, 0.5) <= alpha / 2, most, most - 1)
    rejected = stats.binom.cdf(most, pairs, one_way) + stats.binom.cdf(most, pairs, 1 - one_way)
    return float(np.sum(stats.binom.pmf(pairs, n, discordance) * rejected))


@lru_cache(maxsize=4096)
def smallest_difference(n: int, discordance: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest true difference of two paired shares, in (0, 1], that ``n`` images show with that power; None if none does.

    At a ``discordance`` (see :func:`power_of_mcnemar`) of which the difference can be a part at most: where not even all of it
    one way would be found often enough, there are too few images.
    """
    low, high = 0.0, discordance
    if n < 1 or power_of_mcnemar(n, discordance, high, alpha) < power:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of_mcnemar(n, discordance, middle, alpha) >= power else (middle, high)
    return high
