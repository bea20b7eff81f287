"""The statistics beside those of scipy and statsmodels; Holm's correction, power, and the numbers by groups of a frame."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from apibench import metrics
from apibench.metrics import PairedCounts
from apibench.query.contract import Label
from apibench.report import compare, frames
from tests.storemaker import StoreMaker

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda c: sum(c) > 0)


# --- beside statsmodels and scipy ---


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_as_in_statsmodels(kn: tuple[int, int]) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    found = metrics.wilson_interval(*kn)
    low, high = proportion.proportion_confint(*kn, method="wilson")
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


@given(counts)
def test_mcnemar_as_in_statsmodels(c: tuple[int, int, int, int]) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    both, after_only, before_only, neither = c
    expected = tables.mcnemar([[both, before_only], [after_only, neither]], exact=True).pvalue
    assert metrics.mcnemar_p(PairedCounts(*c)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_newcombe_without_correlation_is_that_of_independent_samples_in_statsmodels(
    n: int, after: int, before: int
) -> None:
    """Pairs as independent ones would fall: the correlation is below its continuity correction, so it counts as none."""
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    after, before = min(after, n), min(before, n)
    both = round(after * before / n)
    pairs = PairedCounts(both, after - both, before - both, n - after - before + both)
    if min(pairs.after_only, pairs.before_only, pairs.neither) < 0:
        return
    numerator = pairs.both * pairs.neither - pairs.after_only * pairs.before_only
    if not 0 <= numerator <= n / 2:
        return
    found = metrics.newcombe_interval(pairs)
    low, high = proportion.confint_proportions_2indep(after, n, before, n, method="newcomb", compare="diff")
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@given(st.lists(st.integers(0, 1000).map(lambda thousandths: thousandths / 1000), min_size=1, max_size=30))
def test_holm_as_in_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    adjusted = multitest.multipletests(p_values, method="holm")[1]
    assert metrics.holm(p_values) == pytest.approx(list(adjusted), abs=1e-12)


def test_recovery_interval_as_in_scipy() -> None:
    draw = np.random.default_rng(3)
    before, after = draw.random(80) < 0.4, draw.random(80) < 0.6

    def recovered(b: np.ndarray, a: np.ndarray, axis: int = -1) -> np.ndarray:
        return (a.sum(axis) - b.sum(axis)) / (~b.astype(bool)).sum(axis)

    expected = stats.bootstrap(
        (before, after), recovered, paired=True, n_resamples=10_000, method="percentile", random_state=0
    ).confidence_interval
    found = metrics.recovery([bool(b) for b in before], [bool(a) for a in after])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.02), pytest.approx(expected.high, abs=0.02))


# --- families and power ---


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.9, 0.9]) == [1.0, 1.0]
    assert metrics.holm([]) == []


@pytest.mark.parametrize(("n", "discordance", "difference"), [(50, 0.3, 0.2), (100, 0.2, 0.12), (250, 0.1, 0.06)])
def test_power_as_simulated(n: int, discordance: float, difference: float) -> None:
    won, lost = (discordance + difference) / 2, (discordance - difference) / 2
    drawn = np.random.default_rng(0).multinomial(n, [won, lost, 1 - discordance], size=4000)
    found = np.mean([metrics.sign_test_p(int(w), int(s)) < metrics.ALPHA for w, s, _ in drawn])
    assert metrics.power_of_mcnemar(n, discordance, difference) == pytest.approx(found, abs=0.025)


def test_power_without_a_difference_is_the_error_of_the_first_kind() -> None:
    for n in (20, 100, 500):
        assert 0 < metrics.power_of_mcnemar(n, 0.3, 0.0) <= metrics.ALPHA


@pytest.mark.parametrize("discordance", [0.1, 0.3, 0.5])
def test_the_smallest_difference_has_the_power_and_is_near_the_formula(discordance: float) -> None:
    n = 400
    found = metrics.smallest_difference(n, discordance)
    assert found is not None
    assert metrics.power_of_mcnemar(n, discordance, found) == pytest.approx(metrics.POWER, abs=0.01)
    # Connor (Biometrics 43 (1987), 207-211): n = (z_a sqrt(d) + z_b sqrt(d - D^2))^2 / D^2, of the test that is not exact.
    z_a, z_b = stats.norm.ppf(1 - metrics.ALPHA / 2), stats.norm.ppf(metrics.POWER)
    needed = (z_a * sqrt(discordance) + z_b * sqrt(discordance - found**2)) ** 2 / found**2
    assert 0.85 * n < needed <= n


def test_more_images_show_smaller_differences_and_too_few_show_none() -> None:
    assert metrics.smallest_difference(5, 1.0) is None
    assert metrics.smallest_difference(100, 0.0) is None
    found = [metrics.smallest_difference(n, 0.2) for n in (50, 100, 400, 1600)]
    assert found == sorted(found, key=lambda one: -(one or 2))
    assert found[-1] == pytest.approx((found[-2] or 0) / 2, rel=0.05)


# --- one image ---


def test_score_shift() -> None:
    clean = (Label("dog", 0.9), Label("cat", 0.4))
    assert metrics.score_shift(clean, (Label("cat", 0.8), Label("dog", 0.25))) == pytest.approx(0.65)
    assert metrics.score_shift(clean, (Label("cat", 0.8),)) is None
    assert metrics.score_shift(clean, ()) is None
    assert metrics.score_shift((Label("a", 0.5, "7"),), (Label("b", 0.75, "7"),)) == -0.25  # by the vendor's id


# --- by groups of a frame ---

ATTACK = "mi-di/eps16"


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """Two classes; A and B are retrievers, C a cat. The attack takes A, refuses B, and C fails; the purifier gives A back."""
    maker = StoreMaker(tmp_path / "store.sqlite")
    for source, truth, said in (
        ("A", 207, ["Golden Retriever"]),
        ("B", 207, ["Golden Retriever"]),
        ("C", 281, ["Car"]),
    ):
        maker.ask(source, "clean", said, truth=truth)
    for source, said in {"A": ["Fox", "Golden Retriever"], "B": "rejected", "C": "failed"}.items():
        maker.ask(source, ATTACK, said)
    for source, said in {"A": ["Golden Retriever"], "B": [], "C": ["Car"]}.items():
        maker.ask(source, ATTACK + "+ncis/2", said)
        maker.ask(source, "clean+ncis/2", ["Golden Retriever"])
    return compare.frame(compare.answers(frames.read(maker.close())))


def test_shares_by_group(frame: pd.DataFrame) -> None:
    found = metrics.shares(frame[frame["attack"] == ATTACK], "agrees_top1", ["purifier"])
    assert found.loc["none", ["k", "n", "left_out"]].tolist() == [0, 2, 1]
    assert found.loc["ncis/2", ["k", "n", "left_out"]].tolist() == [2, 3, 0]
    assert found.loc["ncis/2", "low"] == metrics.wilson_interval(2, 3).low
    assert found.loc["none", ["worst", "best"]].tolist() == pytest.approx([0, 1 / 3])


def test_by_class_and_by_epsilon(frame: pd.DataFrame) -> None:
    by_class = metrics.shares(frame, "correct_top5", ["class", "attack", "purifier"])
    assert by_class.loc[(207, ATTACK, "none"), ["k", "n"]].tolist() == [1, 2]
    assert by_class.loc[(281, ATTACK, "none"), ["k", "n", "left_out"]].tolist() == [0, 0, 1]
    assert np.isnan(by_class.loc[(281, ATTACK, "none"), "value"])
    by_epsilon = metrics.shares(frame, "agrees_top1", ["epsilon"])
    assert by_epsilon.loc[16, ["k", "n"]].tolist() == [2, 5]


def test_attack_success_by_group(frame: pd.DataFrame) -> None:
    """C is wrong when clean: not counted at all."""
    adversarial = frame[frame["attack"] == ATTACK]
    at1 = metrics.attack_success(adversarial, 1, ["purifier"])
    at5 = metrics.attack_success(adversarial, 5, ["purifier"])
    assert at1.loc["none", ["k", "n"]].tolist() == [2, 2]
    assert at5.loc["none", ["k", "n"]].tolist() == [1, 2]
    assert at1.loc["ncis/2", ["k", "n"]].tolist() == [1, 2]


def test_outcomes_by_group(frame: pd.DataFrame) -> None:
    found = metrics.outcomes(frame, ["attack", "purifier"])
    columns = ["asked", "answered", "empty", "rejected", "failed"]
    assert found.loc[(ATTACK, "none"), columns].tolist() == [3, 1, 0, 1, 1]
    assert found.loc[(ATTACK, "ncis/2"), columns].tolist() == [3, 2, 1, 0, 0]


def test_costs_and_recoveries_are_those_of_the_table(frame: pd.DataFrame) -> None:
    cost = metrics.costs(frame, ["provider"])
    assert cost.loc[("acme", "ncis/2"), ["k", "n"]].tolist() == [1, 3]
    found = metrics.recoveries(frame, ["provider"]).loc[("acme", ATTACK, "ncis/2")]
    assert found[["n", "difference", "recovery"]].tolist() == [2, 0.5, 0.5]  # A back, B still lost; C failed


def test_overlap_and_score_shift_are_in_the_frame(frame: pd.DataFrame) -> None:
    row = frame[(frame["attack"] == ATTACK) & (frame["purifier"] == "none") & (frame["source"] == "A")].iloc[0]
    assert row["score_shift"] == pytest.approx(0.1)
    assert row["overlap5"] == 1.0
    refused = frame[frame["outcome"] == "rejected"].iloc[0]
    assert (refused["overlap5"], np.isnan(refused["score_shift"])) == (0.0, True)
