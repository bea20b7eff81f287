"""Accuracies, matched comparisons and plots from cells made by hand, whose answers are known."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apibench import metrics
from apibench.evaluation import cells, comparison, plots, report, tables
from apibench.evaluation.cells import Cell, Key, Verdict
from apibench.evaluation.comparison import Results, Setting, Threat
from apibench.evaluation.plots import Point

MI = Threat("mi-di/eps8")
NCIS, JPEG50, JPEG90 = Setting("ncis", "ncis", 2), Setting("jpeg", "jpeg:50", 1), Setting("jpeg", "jpeg:90", 1)


def cell(classifier: str, attack: str, setting: Setting, correct: Sequence[int], aware: bool = False) -> Cell:
    """``correct``: a 1 or 0 an image."""
    verdicts = tuple(Verdict(f"i{n}", f"{n:064x}", 5, 5 if right else 6) for n, right in enumerate(correct))
    return Cell(Key(classifier, attack, setting.purifier, setting.passes, aware), setting.family, 8.0, verdicts, {})


def first(right: int, n: int = 50) -> list[int]:
    return [1] * right + [0] * (n - right)


def by_hand() -> list[Cell]:
    """Two classifiers, 50 images: ncis 80 % clean and 40 %; jpeg:50 at 78 % and 20 %; jpeg:90 at 86 %, too far, and 10 %."""
    found = []
    for name in ("a", "b"):
        for setting, standard, robust in (
            (NCIS, 40, 20),
            (JPEG50, 39, 10),
            (JPEG90, 43, 5),
            (comparison.NOTHING, 45, 2),
        ):
            found += [cell(name, "clean", setting, first(standard)), cell(name, MI.attack, setting, first(robust))]
    # Under jpeg:50 classifier b has 14 right, not 10: the mean is 24 %.
    found = [c for c in found if c.key != Key("b", MI.attack, "jpeg:50", 1)]
    return [*found, cell("b", MI.attack, JPEG50, first(14))]


def test_matched_settings_their_difference_and_what_has_no_match() -> None:
    results = Results(by_hand())
    found, lacking = comparison.matched(results, MI, "ncis")
    (match,) = found
    assert (match.reference, match.rival, match.n) == (NCIS, JPEG50, 50)
    assert match.standard == pytest.approx((0.80, 0.78))
    assert match.robust == pytest.approx((0.40, 0.24))
    assert match.difference == pytest.approx(0.16)
    assert match.verdict == "ahead"
    # a differs on images 11-20, b on 15-20: six images by 1, four by one half, forty by nothing.
    values = np.array([1.0] * 6 + [0.5] * 4 + [0.0] * 40)
    deviation = values.std() / np.sqrt(50)
    assert match.interval.low == pytest.approx(0.16 - 1.96 * deviation, abs=0.02)
    assert match.interval.high == pytest.approx(0.16 + 1.96 * deviation, abs=0.02)
    (none,) = lacking
    assert (none.family, none.nearest) == ("none", comparison.NOTHING)
    assert none.gap == pytest.approx(0.10)
    one = {c.classifier: c for c in comparison.each_classifier(results, match)}
    assert one["a"].difference == pytest.approx(0.20)
    assert one["a"].interval == metrics.newcombe_interval(metrics.PairedCounts(10, 10, 0, 30))
    assert one["b"].p == pytest.approx(2 * 0.5**6)


def test_the_strongest_of_several_matched_rivals_is_shown() -> None:
    weak = Setting("jpeg", "jpeg:55", 1)
    more = [cell(c, a, weak, first(n)) for c in ("a", "b") for a, n in (("clean", 40), (MI.attack, 6))]
    found, _ = comparison.matched(Results([*by_hand(), *more]), MI, "ncis")
    assert {match.rival for match in found} == {JPEG50, weak}
    assert [match.rival for match in comparison.strongest(found)] == [JPEG50]


def test_means_are_over_the_classifiers_and_images_that_both_have() -> None:
    found = [c for c in by_hand() if not (c.key.classifier == "b" and c.key.purifier == "jpeg:50")]
    (match,) = comparison.matched(Results(found), MI, "ncis")[0]
    assert [c.classifier for c in comparison.each_classifier(Results(found), match)] == ["a"]
    assert match.robust == pytest.approx((0.40, 0.20))
    fewer = [c if c.key.attack == "clean" else cell(c.key.classifier, MI.attack, _of(c), first(10, 10)) for c in found]
    assert comparison.matched(Results(fewer), MI, "ncis")[0][0].n == 10


def _of(c: Cell) -> Setting:
    return Setting(c.family, c.key.purifier, c.key.passes)


def test_aware_stands_beside_blind_and_what_was_not_run_is_named() -> None:
    found = [*by_hand(), cell("a", "pgd-adaptive/eps8", NCIS, first(1, 8), aware=True)]
    computed = tables.Tables.of(Results(found), "ncis")
    row = next(r for r in computed.rows if (r.attack, r.setting, r.classifier) == (MI.attack, NCIS, "a"))
    assert row.blind is not None
    assert row.aware is not None
    assert (row.blind.value, row.blind.n, row.aware.value, row.aware.n) == (0.4, 50, 0.125, 8)
    assert row.aware_by == "pgd-adaptive/eps8"
    mean = next(r for r in computed.rows if (r.attack, r.setting, r.classifier) == (MI.attack, NCIS, tables.MEAN))
    assert mean.aware is None, "one classifier of two is no mean"
    text = tables.markdown(computed, "by hand", ["CW: *no* time"])
    assert "- purifier-aware, eps8: jpeg:50/1, jpeg:90/1" in text
    assert "- pgd-adaptive/eps8, purifier-aware: on 8 of 50 images" in text
    assert "- pgd-adaptive/eps8, purifier-aware: not on b" in text
    assert "CW: \\*no\\* time" in text
    of_both = next(line for line in text.splitlines() if line.startswith("| pgd-adaptive/eps8 | ncis/2"))
    cells_of_it = [part.strip() for part in of_both.strip("|").split("|")]
    assert cells_of_it[3:] == ["8", "100.0 [67.6, 100.0]", "100.0 [67.6, 100.0]", "12.5 [2.2, 47.1]", "mi-di/eps8"]


def test_accuracies_have_the_intervals_they_should_have() -> None:
    results = Results(by_hand())
    one = results.accuracy(MI, NCIS, ["a"])
    assert one is not None
    assert (one.value, one.interval) == (0.4, metrics.wilson_interval(20, 50))
    mean = results.accuracy(MI, JPEG50, ["a", "b"])
    assert mean is not None
    assert mean.value == pytest.approx(0.24)
    assert mean.interval.low < 0.24 < mean.interval.high
    assert results.accuracy(MI, Setting("x", "x", 1), ["a"]) is None


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=40), st.randoms())
def test_the_bootstrap_keeps_to_the_values_and_knows_no_order(values: list[float], random: object) -> None:
    def bootstrap_mean(values: list[float], resamples: int) -> metrics.Interval:
        return comparison.bootstrap_mean(np.array(values), lowest=-1.0, resamples=resamples)

    interval = bootstrap_mean(values, 200)
    if len(set(values)) > 1:
        assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bootstrap_mean(shuffled, 200) == interval
    mirrored = bootstrap_mean([-value for value in values], 2000)
    straight = bootstrap_mean(values, 2000)
    assert mirrored.low == pytest.approx(-straight.high, abs=0.35)


@given(st.integers(1, 500), st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]))
def test_values_that_are_all_the_same_still_have_an_interval(n: int, value: float) -> None:
    others = metrics.wilson_interval(0, n).high
    interval = comparison.bootstrap_mean(np.full(n, value), lowest=-1.0)
    assert -1 <= interval.low <= value <= interval.high <= 1
    # What could be otherwise is as far off as it can be, and on one side or the other.
    assert interval.high - interval.low == pytest.approx(2 * others)
    if value >= 0:
        share = comparison.bootstrap_mean(np.full(n, value))
        assert share.high - share.low == pytest.approx(others)
    for right in (0, n):
        wilson = metrics.wilson_interval(right, n)
        of_all = comparison.bootstrap_mean(np.full(n, right / n))
        assert (of_all.low, of_all.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


@pytest.mark.parametrize(("n", "verdict"), [(19, "too few images"), (20, "ahead")])
def test_few_images_have_no_verdict(n: int, verdict: str) -> None:
    found = [
        cell("a", attack, setting, first(right, n))
        for setting, robust in ((NCIS, n), (JPEG50, 0))
        for attack, right in (("clean", n), (MI.attack, robust))
    ]
    computed = tables.Tables.of(Results(found), "ncis")
    ((match,), _) = computed.matched[MI]
    assert match.verdict == verdict
    assert 0 < match.interval.low < match.difference == match.interval.high == 1
    text = tables.markdown(computed, "by hand", [])
    assert ("1 ahead, 0 undecided, 0 behind\n" in text) is (n >= 20)
    assert ("0 ahead, 0 undecided, 0 behind, 1 too few images" in text) is (n < 20)
    assert "over fewer than 20 images neither is said" in text
    assert "as Wilson's upper limit of 0 of *n*" in text


def test_identical_settings_are_undecided_and_not_equal_to_the_last_image() -> None:
    found = [cell(c, a, s, first(30)) for c in ("a", "b") for s in (NCIS, JPEG50) for a in ("clean", MI.attack)]
    ((match,), _) = comparison.matched(Results(found), MI, "ncis")
    limit = metrics.wilson_interval(0, 50).high
    assert (match.difference, match.verdict) == (0, "undecided")
    assert (match.interval.low, match.interval.high) == pytest.approx((-limit, limit))


def test_a_classifier_that_saw_fewer_images_has_its_own_n() -> None:
    found = [c for c in by_hand() if (c.key.classifier, c.key.attack) != ("b", MI.attack)]
    found += [cell("b", MI.attack, setting, first(4, 30)) for setting in (NCIS, JPEG50, JPEG90)]
    computed = tables.Tables.of(Results(found), "ncis")
    rows = list(csv.DictReader(tables.matched_csv(computed).splitlines()))
    assert {row["classifier"]: row["n"] for row in rows} == {"mean": "30", "a": "50", "b": "30"}


@given(
    st.dictionaries(st.integers(0, 20), st.integers(-50, 50).map(lambda n: n / 400), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.02, 0.1]),
)
def test_matching_keeps_exactly_what_is_within_the_tolerance(gaps: dict[int, float], tolerance: float) -> None:
    by_setting = {Setting("f", "p", passes): gap for passes, gap in gaps.items()}
    near, nearest = comparison.matching(by_setting, tolerance)
    assert all(abs(by_setting[s]) <= tolerance + 2e-9 for s in near)
    assert all(abs(gap) > tolerance for s, gap in by_setting.items() if s not in near)
    assert abs(by_setting[nearest]) == min(map(abs, by_setting.values()))
    assert not near or nearest in near


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7, 0.9]), st.sampled_from([0.0, 0.2, 0.4])), max_size=12))
def test_nothing_of_a_family_betters_its_frontier(pairs: list[tuple[float, float]]) -> None:
    points = [Point(a, b, str(n)) for n, (a, b) in enumerate(pairs)]
    best = plots.frontier_of(points)
    for point in points:
        assert any(p.standard >= point.standard and p.robust >= point.robust for p in best)
    for one in best:
        assert not any(p.standard > one.standard and p.robust > one.robust for p in points)
    assert [p.standard for p in best] == sorted(p.standard for p in best)


def write_by_hand(folder: Path) -> None:
    for one in by_hand():
        cells.write(folder / "cells", one)
    (folder / cells.RUN).write_text(json.dumps({"name": "by hand", "reference": "ncis", "notes": []}))


def test_the_plot_is_well_formed_inside_its_frame_and_its_names_do_not_touch(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    (path,) = report.write(tmp_path).plots
    root = ElementTree.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    shown = {g.get("data-family") for g in root.iter(f"{space}g")} - {None}
    assert shown == {"ncis", "jpeg"}
    legend = [t for t in root.iter(f"{space}text") if float(t.get("x", 0)) > 670]
    heights = sorted(float(t.get("y", 0)) for t in legend)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16
    for circle in root.iter(f"{space}circle"):
        assert 0 <= float(circle.get("cy", -1)) <= 560
    titles = {t.text for t in root.iter(f"{space}title")}
    assert "ncis/2: standard 80.0, robust 40.0" in titles
    assert "no purifier: standard 90.0, robust 4.0" in titles


def test_reading_results_needs_no_torch(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    script = (
        "import sys; from pathlib import Path; from apibench.evaluation import report\n"
        "report.write(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    from apibench.errors import ApibenchError

    with pytest.raises(ApibenchError, match="there are no results yet"):
        report.write(tmp_path)
    write_by_hand(tmp_path)
    victim = next((tmp_path / "cells").iterdir())
    for content in ("", "[]", "{}", '{"format": 1}'):
        victim.write_text(content)
        with pytest.raises(ApibenchError, match=victim.name.replace("(", r"\(")):
            report.write(tmp_path)


def test_file_names_are_safe_short_and_as_different_as_what_they_name() -> None:
    names = [
        "a/b",
        "file:r=x.safetensors?mean=0.5#aa",
        "file:r=x.safetensors?mean=0.5#ab",
        "n" * 99,
        "n" * 98,
        "ü",
        ".",
    ]
    made = [cells.slug(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(len(one) <= 60 and not set(one) & set('/\\:*?"<>|#') for one in made)
    assert cells.display("file:resnet=my.v2.safetensors?mean=0.5#abc") == "my.v2"
    assert cells.display("pypi:tf_efficientnet_lite2") == "tf_efficientnet_lite2"
