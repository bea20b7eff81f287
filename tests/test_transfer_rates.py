"""Rates and comparisons of held-out classifiers on adversarial sets, counted by hand; names; white-box; plots of them."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from apibench import metrics
from apibench.errors import ApibenchError
from apibench.evaluation import transfer_plots, transfer_rates, transfer_report
from apibench.evaluation.cells import Cell, Key, Verdict
from apibench.evaluation.transfer_rates import Study, Variant


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mi-di/eps16", ("mi-di", "eps16", "", "linf", 16.0)),
        ("mi-logit/random/l2-3.0", ("mi-logit/random", "l2-3.0", "", "l2", 3.0)),
        ("mi/l2-1e-05+ncis/2", ("mi", "l2-1e-05", "ncis/2", "l2", 1e-05)),
        ("mi/l2-1e+20+ncis/2", ("mi", "l2-1e+20", "ncis/2", "l2", 1e20)),
        ("vmi:5-di:0.7,0.9/eps8+jpeg:50/1+ncis/4", ("vmi:5-di:0.7,0.9", "eps8", "jpeg:50/1+ncis/4", "linf", 8.0)),
        ("clean+ncis/2", ("clean", "", "ncis/2", "", None)),
        ("cw", ("cw", "", "", "", None)),
        ("sign-noise/eps8", ("sign-noise", "eps8", "", "linf", 8.0)),
    ],
)
def test_a_variant_is_taken_apart(name: str, expected: tuple[object, ...]) -> None:
    variant = Variant.parse(name)
    assert (variant.attack, variant.bound, variant.purified, variant.norm, variant.epsilon) == expected


# --- rates ---


def cell(classifier: str, attack: str, answers: dict[int, bool], surrogates: Sequence[str] = ("s",)) -> Cell:
    """``answers``: whether the photograph of that number is seen right."""
    verdicts = tuple(Verdict(f"i{n}", f"{n:064x}", 5, 5 if right else 6) for n, right in answers.items())
    settings = {"set": {} if attack == "clean" else {"surrogates": list(surrogates)}}
    return Cell(Key(classifier, attack, "none", 0), "none", 8.0, verdicts, settings)


def drawn(seed: int, names: Sequence[str] = ("a", "b", "c")) -> dict[tuple[str, str], dict[int, bool]]:
    """Random answers on 60 photographs; ``vmi`` lacks some, and they come in another order."""
    draw = random.Random(seed)
    found: dict[tuple[str, str], dict[int, bool]] = {}
    for name in names:
        for attack, share in (("clean", 0.8), ("mi/eps8", 0.5), ("vmi/eps8", 0.3), ("mi/eps16", 0.2)):
            photographs = [n for n in range(60) if attack != "vmi/eps8" or n % 7]
            draw.shuffle(photographs)
            found[name, attack] = {n: draw.random() < share for n in photographs}
    return found


def study(answers: dict[tuple[str, str], dict[int, bool]], reference: str | None = None) -> Study:
    return Study([cell(*key, found) for key, found in answers.items()], reference=reference)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_and_paired_comparisons_are_those_counted_by_hand(seed: int) -> None:
    answers = drawn(seed)
    found = study(answers, "mi")
    vmi, mi = Variant.parse("vmi/eps8"), Variant.parse("mi/eps8")
    rates, gaps = [], []
    for name in "abc":
        clean, ours, theirs = (answers[name, attack] for attack in ("clean", "vmi/eps8", "mi/eps8"))
        right = [n for n in ours if clean[n]]
        k = sum(not ours[n] for n in right)
        success = found.success(vmi, [name])
        assert success is not None
        assert (success.fooled, success.n, success.value) == (k, len(right), k / len(right))
        assert success.interval == metrics.wilson_interval(k, len(right))
        accuracy = found.accuracy(vmi, [name])
        assert accuracy is not None
        assert (accuracy.value, accuracy.n) == (sum(ours.values()) / len(ours), len(ours))
        kinds = [(not ours[n], not theirs[n]) for n in right]
        counts = metrics.PairedCounts(
            *(kinds.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False)))
        )
        versus = found.versus(vmi, [name])
        assert versus is not None
        assert (versus.reference, versus.n) == (mi, len(right))
        assert versus.difference == pytest.approx(counts.difference)
        assert (versus.interval, versus.p) == (metrics.newcombe_interval(counts), metrics.mcnemar_p(counts))
        other_way = study(answers, "vmi").versus(mi, [name])
        assert other_way is not None
        assert (other_way.n, other_way.difference) == (len(right), pytest.approx(-counts.difference))
        rates.append(success.value)
        gaps.append(counts.difference)
    mean, versus = found.success(vmi, ["a", "b", "c"]), found.versus(vmi, ["a", "b", "c"])
    assert mean is not None
    assert versus is not None
    assert mean.value == pytest.approx(sum(rates) / 3)
    assert versus.difference == pytest.approx(sum(gaps) / 3)
    assert versus.p is None
    assert found.versus(mi, ["a"]) is None, "the reference itself"


def test_the_interval_of_a_mean_is_a_bootstrap_over_images() -> None:
    answers = drawn(3)
    success = study(answers).success(Variant.parse("mi/eps8"), ["a", "b", "c"])
    assert success is not None
    right = np.array([[answers[c, "clean"][n] for c in "abc"] for n in range(60)], float)
    fooled = right * np.array([[not answers[c, "mi/eps8"][n] for c in "abc"] for n in range(60)])
    right, fooled = right[right.any(axis=1)], fooled[right.any(axis=1)]
    draws = np.random.default_rng(5).integers(len(right), size=(4000, len(right)))
    means = (fooled[draws].sum(axis=1) / right[draws].sum(axis=1)).mean(axis=1)
    assert [success.interval.low, success.interval.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_neither_the_order_of_images_nor_other_sets_change_a_rate() -> None:
    answers = drawn(4)
    shuffled = {key: dict(sorted(found.items())) for key, found in answers.items()}
    fewer = {key: found for key, found in answers.items() if key[1] != "mi/eps16"}
    vmi = Variant.parse("vmi/eps8")
    first = study(answers)
    for other in (study(shuffled), study(fewer)):
        assert other.success(vmi, ["a", "b"]) == first.success(vmi, ["a", "b"])
        assert other.versus(vmi, ["a", "b"]) == first.versus(vmi, ["a", "b"])


def test_all_fooled_none_right_when_clean_and_few_images_have_no_nan() -> None:
    every = dict.fromkeys(range(20), True)
    none = dict.fromkeys(range(20), False)
    found = study({(c, a): every if a == "clean" else none for c in "ab" for a in ("clean", "mi/eps8", "vmi/eps8")})
    mean = found.success(Variant.parse("mi/eps8"), ["a", "b"])
    assert mean is not None
    assert (mean.value, mean.interval.high) == (1.0, 1.0)
    assert mean.interval.low == pytest.approx(1 - metrics.wilson_interval(0, 20).high)
    versus = found.versus(Variant.parse("vmi/eps8"), ["a", "b"])
    assert versus is not None
    assert versus.interval.low < versus.difference == 0 < versus.interval.high
    blind = study(
        {("a", "clean"): none, ("a", "mi/eps8"): none, ("b", "clean"): {0: True}, ("b", "mi/eps8"): {0: False}}
    )
    assert blind.success(Variant.parse("mi/eps8"), ["a"]) is None
    assert blind.success(Variant.parse("mi/eps8"), ["a", "b"]) is None
    assert "nan" not in transfer_report.markdown(blind, None)
    assert "nan" not in str(transfer_report.rows(blind))


def test_the_strongest_comes_first_and_is_what_the_others_of_its_epsilon_and_purifier_are_compared_with() -> None:
    answers = drawn(0)
    for name in "abc":
        for attack in ("mi/eps8", "vmi/eps8"):
            answers[name, f"{attack}+ncis/2"] = {n: n % 3 > (attack == "mi/eps8") for n in range(60)}
    found = study(answers)
    assert [v.name for v in found.ranked(v for v in found.variants if v.bound == "eps8")] == [
        *("vmi/eps8", "mi/eps8", "mi/eps8+ncis/2", "vmi/eps8+ncis/2")
    ]
    references = {v.name: getattr(found.reference(v), "name", None) for v in found.variants}
    assert references == {
        "mi/eps8": "vmi/eps8",
        "vmi/eps8": "vmi/eps8",
        "mi/eps8+ncis/2": "mi/eps8+ncis/2",
        "vmi/eps8+ncis/2": "mi/eps8+ncis/2",
        "mi/eps16": "mi/eps16",
    }
    assert study(answers, "vmi").reference(Variant.parse("mi/eps16")) is None
    text = transfer_report.markdown(study(answers, "vmi"), "vmi")
    assert "Where there is no set of vmi, nothing is compared." in text
    with pytest.raises(ApibenchError, match="none of the sets is of that attack; there are mi, vmi"):
        study(answers, "pgn")


def test_a_surrogate_among_the_targets_is_flagged_and_in_no_mean() -> None:
    answers = drawn(1)
    weights, renamed = "file:resnet=a.pth#0123456789ab", "file:resnet=b.pth?size=32#0123456789ab"
    made = []
    for (name, attack), found in answers.items():
        surrogates = [weights] if attack == "mi/eps8" else ["s"]
        made.append(cell(renamed if name == "a" else name, attack, found, surrogates))
    found_ = Study(made)
    white = {v.name: [c for c in found_.classifiers if found_.white_box(v, c)] for v in found_.variants}
    assert white == {"mi/eps8": [renamed], "vmi/eps8": [], "mi/eps16": []}
    assert found_.held_out == ["b", "c"]
    text = transfer_report.markdown(found_, None)
    assert "- **white-box**: b is a surrogate of mi/eps8" in text
    assert text.count(" white-box ") == 2, "accuracy and success"
    head, body = transfer_report.rows(found_)
    flags = {(row[0], row[5]): row[head.index("white_box")] for row in body}
    assert [key for key, flag in flags.items() if flag] == [("mi/eps8", renamed)]
    only = Study([c for c in made if c.key.classifier == renamed])
    assert only.held_out == [renamed], "without any other, its own numbers stand"
    assert "white-box" in transfer_report.main_table(only)


def test_targeted_and_untargeted_sets_are_neither_ranked_nor_paired_with_one_another() -> None:
    clean = dict.fromkeys(range(20), True)
    shares = {"mi/eps8": 15, "vmi/eps8": 12, "mi/random/eps8": 18, "vmi/random/eps8": 3, "mi/least-likely/eps8": 10}
    answers = {("a", "clean"): clean} | {("a", name): {n: n >= k for n in range(20)} for name, k in shares.items()}
    found = study(answers)
    assert [v.name for v in found.ranked(found.variants)] == [
        *("mi/eps8", "vmi/eps8", "mi/least-likely/eps8", "mi/random/eps8", "vmi/random/eps8")
    ]
    assert {v.name: getattr(found.reference(v), "name", None) for v in found.variants} == {
        "mi/eps8": "mi/eps8",
        "vmi/eps8": "mi/eps8",
        "mi/random/eps8": "mi/random/eps8",
        "vmi/random/eps8": "mi/random/eps8",
        "mi/least-likely/eps8": "mi/least-likely/eps8",
    }
    named = study(answers, "vmi")
    assert getattr(named.reference(Variant.parse("mi/random/eps8")), "name", None) == "vmi/random/eps8"


def test_a_target_hit_is_counted_among_the_images_right_when_clean() -> None:
    """Wrong answers are class 6 here: of 10 images 8 are right when clean, 4 of which are moved to 6 and one's target is 5."""
    answers = {("a", "clean"): {n: n < 8 for n in range(10)}, ("a", "mi/random/eps8"): {n: n > 5 for n in range(10)}}
    targets = {f"{n:064x}": 6 if n < 4 else 5 if n == 4 else 7 for n in range(10)}
    made = [cell(*key, found) for key, found in answers.items()]
    found = Study(made, targets={"mi/random/eps8": targets})
    hit = found.target_hit(Variant.parse("mi/random/eps8"), ["a"])
    assert hit is not None
    assert (hit.fooled, hit.n, hit.interval) == (4, 7, metrics.wilson_interval(4, 7))
    assert Study(made).target_hit(Variant.parse("mi/random/eps8"), ["a"]) is None


@pytest.mark.parametrize("reference", ["vmi:5-di", "di-vmi:5", "vmi:5,1.5,1-di"])
def test_the_reference_may_be_written_as_any_attack(reference: str) -> None:
    answers = {("a", name): {0: name == "clean", 1: True} for name in ("clean", "vmi:5,1.5,1-di/eps8", "mi/eps8")}
    found = study(answers, reference).reference(Variant.parse("mi/eps8"))
    assert found is not None
    assert found.name == "vmi:5,1.5,1-di/eps8"


@pytest.mark.parametrize(
    ("surrogate", "target", "flag"),
    [
        ("pypi:tf_efficientnet_lite0", "timm:tf_efficientnet_lite0.in1k", True),
        ("timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite0.in1k", True),
        ("timm:resnet50.a1_in1k", "timm:resnet50.tv_in1k", False),
        ("pypi:tf_efficientnet_lite0", "timm:tf_efficientnet_lite2", False),
        ("file:resnet50=a.pth#0123456789ab", "timm:resnet50", False),
    ],
)
def test_a_network_by_another_name_may_be_the_same(surrogate: str, target: str, flag: bool) -> None:
    found = Study([cell(target, name, {0: True, 1: False}, [surrogate]) for name in ("clean", "mi/eps8")])
    assert found.white_box(Variant.parse("mi/eps8"), target) is flag
    assert ("may be the same network as a surrogate of every set" in transfer_report.markdown(found, None)) is flag


def test_the_bootstrap_of_many_images_and_classifiers_takes_little_memory() -> None:
    draw = np.random.default_rng(1)
    right = (draw.random((5000, 8)) < 0.9).astype(float)
    fooled = right * (draw.random((5000, 8)) < 0.5)
    tracemalloc.start()
    interval = transfer_rates._bootstrap(fooled, right)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 2**20
    rates = fooled.sum(axis=0) / right.sum(axis=0)
    # An image's share is a mean of 8 independent answers.
    spread = 1.96 * np.sqrt((rates * (1 - rates) / right.sum(axis=0)).sum()) / 8
    assert [interval.low, interval.high] == pytest.approx(
        [rates.mean() - spread, rates.mean() + spread], abs=spread / 8
    )


def test_norms_have_plots_of_their_own_and_a_purified_clean_set_begins_its_line() -> None:
    answers = {("a", "clean"): {n: n < 9 for n in range(10)}, ("a", "clean+ncis/2"): {n: n < 8 for n in range(10)}}
    answers |= {("a", name): {n: n < 3 for n in range(10)} for name in ("mi/eps8+ncis/2", "mi/l2-3.0", "cw")}
    found = study(answers)
    assert [name for name, _ in transfer_plots.plots(found)] == ["accuracy-linf-a.svg", "accuracy-l2-a.svg"]
    line = transfer_plots.marks(found, "mi+ncis/2", "linf", ["a"])
    assert [(mark.epsilon, mark.accuracy.value) for mark in line] == [(0.0, 0.8), (8.0, 0.3)]
    text = transfer_report.markdown(found, None)
    order = [text.index(head) for head in ("## eps8\n", "## l2-3.0\n", "## Without a bound\n")]
    assert order == sorted(order)
    assert "clean+ncis/2" in text[order[2] :]
