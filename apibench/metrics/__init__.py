"""What two answers have in common, and how sure the counts over many images are: pure functions, no store and no network.

An image's answer is a sequence of :class:`~apibench.query.contract.Label` in the vendor's order. A comparison over images is a
sequence of flags, one an image: True (agrees), False (disagrees), None (nothing is known: it failed, or was not asked).
Intervals are two-sided and cover 95 % unless ``confidence`` says otherwise. The functions of :mod:`apibench.metrics.frames` do
the same by groups of a pandas frame, such as :func:`apibench.report.compare.frame` makes of a store.
"""

from __future__ import annotations

from apibench.metrics.answers import (
    drop_returned_parents,
    identity,
    overlap_at_k,
    score_shift,
    tied_at,
    top1_agreement,
    topk_agreement,
)
from apibench.metrics.families import ALPHA, POWER, holm, power_of_mcnemar, smallest_difference
from apibench.metrics.frames import attack_success, costs, outcomes, recoveries, shares
from apibench.metrics.pairs import (
    MOST_AGREEMENT_FOR_RECOVERY,
    RESAMPLES,
    SEED,
    PairedCounts,
    Recovery,
    mcnemar_p,
    newcombe_interval,
    pair,
    recovery,
    sign_test_p,
)
from apibench.metrics.shares import CONFIDENCE, Flags, Interval, Proportion, complement, proportion, wilson_interval

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "MOST_AGREEMENT_FOR_RECOVERY",
    "POWER",
    "RESAMPLES",
    "SEED",
    "Flags",
    "Interval",
    "PairedCounts",
    "Proportion",
    "Recovery",
    "attack_success",
    "complement",
    "costs",
    "drop_returned_parents",
    "holm",
    "identity",
    "mcnemar_p",
    "newcombe_interval",
    "outcomes",
    "overlap_at_k",
    "pair",
    "power_of_mcnemar",
    "proportion",
    "recoveries",
    "recovery",
    "score_shift",
    "shares",
    "sign_test_p",
    "smallest_difference",
    "tied_at",
    "top1_agreement",
    "topk_agreement",
    "wilson_interval",
]
