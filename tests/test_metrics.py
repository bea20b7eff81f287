from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apibench import metrics
from apibench.metrics import PairedCounts
from apibench.query.contract import Label


def labels(*names: str) -> tuple[Label, ...]:
    return tuple(Label(name, 0.5) for name in names)


# --- one image ---


@pytest.mark.parametrize(
    ("given_labels", "kept"),
    [
        ((Label("Animal", 0.9), Label("Dog", 0.9, parents=("Animal", "Mammal")), Label("Mammal", 0.9)), ["Dog"]),
        ((Label("Dog", 0.9, parents=("Animal",)), Label("Cat", 0.8, parents=("Animal",))), ["Dog", "Cat"]),
        ((Label("Dog", 0.9), Label("Animal", 0.8)), ["Dog", "Animal"]),
        ((Label("Dog", 0.9, "/m/1", ("/m/2",)), Label("Animal", 0.8, "/m/2")), ["Dog"]),
        # Its own parent: not another label's.
        ((Label("Dog", 0.9, parents=("Dog",)), Label("Cat", 0.8)), ["Dog", "Cat"]),
        # A circle has no most specific label; all stay, in order.
        ((Label("A", 0.9, parents=("B",)), Label("B", 0.8, parents=("A",))), ["A", "B"]),
        ((), []),
    ],
)
def test_returned_parents_are_dropped(given_labels: tuple[Label, ...], kept: list[str]) -> None:
    assert [label.name for label in metrics.drop_returned_parents(given_labels)] == kept


@pytest.mark.parametrize(
    ("clean", "variant", "top1", "top2", "overlap2"),
    [
        ("ab", "ab", True, True, 1.0),
        ("ab", "ba", False, True, 1.0),
        ("ab", "cda", False, False, 0.0),
        ("ab", "ac", True, True, 0.5),
        ("a", "abc", True, True, 1.0),
        ("a", "", False, False, 0.0),
        ("abc", "cab", False, True, 0.5),  # only the first two of each count
    ],
)
def test_agreement_of_one_image(clean: str, variant: str, top1: bool, top2: bool, overlap2: float) -> None:
    c, v = labels(*clean), labels(*variant)
    assert metrics.top1_agreement(c, v) is top1
    assert metrics.topk_agreement(c, v, 2) is top2
    assert metrics.overlap_at_k(c, v, 2) == overlap2


def test_labels_are_the_same_by_the_vendors_id_where_there_is_one() -> None:
    mouse = (Label("Mouse", 0.9, "/m/animal"),)
    assert not metrics.top1_agreement(mouse, (Label("Mouse", 0.9, "/m/computer"),))
    assert metrics.top1_agreement(mouse, (Label("Mice", 0.9, "/m/animal"),))


def test_ties() -> None:
    tied = (Label("a", 0.9), Label("b", 0.9), Label("c", 0.1))
    assert metrics.tied_at(tied, 1)
    assert not metrics.tied_at(tied, 2)
    assert not metrics.tied_at(tied, 3)
    assert not metrics.tied_at((), 1)


names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@given(names, st.lists(st.sampled_from("abcdef"), max_size=6, unique=True), st.integers(1, 6))
def test_agreement_rules_hold_for_all_answers(clean: list[str], variant: list[str], k: int) -> None:
    c, v = labels(*clean), labels(*variant)
    assert metrics.top1_agreement(c, c)
    assert metrics.overlap_at_k(c, c, k) == 1.0
    assert 0.0 <= metrics.overlap_at_k(c, v, k) <= 1.0
    if metrics.topk_agreement(c, v, k):  # a longer list never loses agreement
        assert metrics.topk_agreement(c, v, k + 1)


# --- Wilson's interval ---


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), 857-872,
        # Table I, score method.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(k: int, n: int, low: float, high: float) -> None:
    interval = metrics.wilson_interval(k, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_interval_bounds_symmetry_monotony(kn: tuple[int, int]) -> None:
    k, n = kn
    interval, mirrored = metrics.wilson_interval(k, n), metrics.wilson_interval(n - k, n)
    assert 0.0 <= interval.low <= k / n + 1e-12
    assert k / n - 1e-12 <= interval.high <= 1.0
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)
    if k < n:
        more = metrics.wilson_interval(k + 1, n)
        assert more.low > interval.low
        assert more.high > interval.high
    wider = metrics.wilson_interval(k, n, confidence=0.99)
    assert wider.low <= interval.low
    assert wider.high >= interval.high


def test_wilson_interval_solves_the_score_equation() -> None:
    # Its ends are the proportions p at which |k/n - p| is exactly z standard errors of p.
    k, n, z = 17, 20, 1.959963984540054
    for p in (metrics.wilson_interval(k, n).low, metrics.wilson_interval(k, n).high):
        assert abs(k / n - p) == pytest.approx(z * (p * (1 - p) / n) ** 0.5, rel=1e-9)


# --- proportions of flags ---


def test_proportion_leaves_out_what_is_not_known_and_bounds_it() -> None:
    share = metrics.proportion([True, True, False, None])
    assert (share.k, share.n, share.left_out) == (2, 3, 1)
    assert share.value == pytest.approx(2 / 3)
    assert share.worst == 2 / 4
    assert share.best == 3 / 4
    assert metrics.complement(share) == metrics.Proportion(1, 3, 1, bad=True)


def test_proportion_of_nothing_has_no_value() -> None:
    share = metrics.proportion([])
    assert (share.value, share.interval, share.worst, share.best) == (None, None, None, None)
    only_failed = metrics.proportion([None])
    assert (only_failed.value, only_failed.worst, only_failed.best) == (None, 0.0, 1.0)


flags = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40)


@given(flags)
def test_worst_and_best_case_enclose_the_share(found: list[bool | None]) -> None:
    share = metrics.proportion(found)
    assert share.worst is not None
    assert share.best is not None
    if share.value is not None:
        assert 0 <= share.worst <= share.value <= share.best <= 1


# --- pairs ---


def test_pair_counts_by_hand() -> None:
    before = [True, True, False, False, None, True]
    after = [True, False, True, False, True, None]
    assert metrics.pair(before, after) == PairedCounts(both=1, after_only=1, before_only=1, neither=1)
    with pytest.raises(ValueError, match="zip"):
        metrics.pair([True], [])


@pytest.mark.parametrize(
    ("table", "difference", "low", "high"),
    [
        # M. W. Fagerland, S. Lydersen, P. Laake, Statistical Analysis of Contingency Tables (2017), chapter 8: Newcombe's
        # square-and-add interval for Cavo et al. (2012), as their R package `contingencytables` prints it.
        ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046),
    ],
)
def test_newcombe_interval_as_published(
    table: tuple[int, int, int, int], difference: float, low: float, high: float
) -> None:
    found = PairedCounts(*table)
    interval = metrics.newcombe_interval(found)
    assert round(found.difference, 4) == difference
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_newcombe_interval_where_phi_is_zero_by_its_definition() -> None:
    # 0 < ad - bc <= n/2: phi is 0, and the interval is the square root of the sum of squares, worked out here by hand.
    found = PairedCounts(both=3, after_only=2, before_only=2, neither=3)
    wilson = metrics.wilson_interval(5, 10)
    reach = ((0.5 - wilson.low) ** 2 + (wilson.high - 0.5) ** 2) ** 0.5
    interval = metrics.newcombe_interval(found)
    assert (interval.low, interval.high) == pytest.approx((-reach, reach))


cells = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda c: sum(c) > 0)


@given(cells)
def test_newcombe_interval_bounds_and_symmetry(c: tuple[int, int, int, int]) -> None:
    found, swapped = PairedCounts(*c), PairedCounts(c[0], c[2], c[1], c[3])
    interval, mirrored = metrics.newcombe_interval(found), metrics.newcombe_interval(swapped)
    assert -1 <= interval.low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= interval.high <= 1
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-12)


@given(cells)
def test_newcombe_interval_shrinks_with_ten_times_the_images(c: tuple[int, int, int, int]) -> None:
    few, many = (
        metrics.newcombe_interval(PairedCounts(*c)),
        metrics.newcombe_interval(PairedCounts(*(10 * x for x in c))),
    )
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (1, 7, 0.0703),  # the discordant pairs of Bentur et al. (2009), ibid.: 2 (1 + 8) / 2^8
        (6, 16, 0.0525),  # of Cavo et al. (2012): 2 * 110,056 / 2^22
        (0, 0, 1.0),
        (0, 5, 0.0625),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_exact_p(won: int, lost: int, p: float) -> None:
    assert round(metrics.mcnemar_p(PairedCounts(3, won, lost, 9)), 4) == p


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_twice_the_binomial_tail(won: int, lost: int) -> None:
    n = won + lost
    tail = sum(comb(n, i) for i in range(min(won, lost) + 1)) / 2**n
    assert metrics.mcnemar_p(PairedCounts(0, won, lost, 0)) == pytest.approx(min(1.0, 2 * tail))


# --- recovery ---


def test_recovery_by_hand() -> None:
    attacked = [True] * 2 + [False] * 8
    purified = [False] + [True] + [True] * 6 + [False] * 2
    found = metrics.recovery(attacked, purified)
    assert found is not None
    # 2 agree attacked, 7 purified: 5 of the 8 that were lost.
    assert (found.numerator, found.denominator, found.n) == (5, 8, 10)
    assert found.value == 5 / 8
    assert found.low < 5 / 8 < found.high
    assert found == metrics.recovery(attacked, purified)  # a fixed seed


def test_recovery_is_not_clipped() -> None:
    found = metrics.recovery([True] * 5 + [False] * 5, [False] * 10)
    assert found is not None
    assert found.value == -1.0
    assert found.low < -1.0


def test_recovery_is_exact_where_the_bootstrap_has_no_spread() -> None:
    found = metrics.recovery([False] * 10, [True] * 10)
    assert found is not None
    assert (found.value, found.low, found.high, found.undefined_resamples) == (1.0, 1.0, 1.0, 0)


def test_recovery_interval_agrees_with_drawing_images_one_by_one() -> None:
    import numpy as np

    attacked = np.array([True] * 10 + [False] * 30)
    purified = np.array([True] * 8 + [False] * 2 + [True] * 18 + [False] * 12)
    drawn = np.random.default_rng(7).integers(0, 40, size=(20_000, 40))
    a, p = attacked[drawn].mean(axis=1), purified[drawn].mean(axis=1)
    low, high = np.quantile((p - a) / (1 - a), [0.025, 0.975])
    found = metrics.recovery(attacked.tolist(), purified.tolist())
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("agreeing", "defined"),
    [(9, True), (10, False)],  # 0.9 is still allowed, above it is not
)
def test_recovery_only_where_the_attack_worked(agreeing: int, defined: bool) -> None:
    attacked = [True] * agreeing + [False] * (10 - agreeing)
    assert (metrics.recovery(attacked, attacked) is not None) is defined


def test_recovery_counts_resamples_without_a_lost_image() -> None:
    found = metrics.recovery([True] * 9 + [False], [True] * 10)
    assert found is not None
    # (9/10)^10 of the resamples hold no lost image.
    assert found.undefined_resamples / metrics.RESAMPLES == pytest.approx(0.9**10, abs=0.02)


def test_recovery_of_nothing() -> None:
    assert metrics.recovery([], []) is None
    assert metrics.recovery([None, True], [True, None]) is None


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.sampled_from([True, False, None])), max_size=30))
def test_recovery_never_exceeds_one_and_matches_the_shares(pairs: list[tuple[bool | None, bool | None]]) -> None:
    attacked, purified = [a for a, _ in pairs], [p for _, p in pairs]
    found = metrics.recovery(attacked, purified, resamples=50)
    if found is not None:
        known = [(a, p) for a, p in pairs if a is not None and p is not None]
        share_a, share_p = sum(a for a, _ in known) / len(known), sum(p for _, p in known) / len(known)
        assert found.value == pytest.approx((share_p - share_a) / (1 - share_a))
        assert found.value <= 1.0
        assert found.high <= 1.0


def test_the_worst_case_of_a_harm_is_the_highest_it_can_be() -> None:
    clean = metrics.Proportion(6, 8, 2)
    cost = metrics.complement(clean)
    assert (cost.k, cost.worst, cost.best) == (2, 4 / 10, 2 / 10)
    assert metrics.complement(cost) == clean
