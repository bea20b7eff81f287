"""How good the label map is, on pairs judged by hand: measured, and not allowed to fall."""

from __future__ import annotations

import csv
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from apibench.labels import checked
from apibench.labels.checked import Pair, Score
from apibench.labels.match import LIMITS, Limits
from apibench.metrics import Proportion

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "label_map.py"
REPORT = ROOT / "reports" / "reference" / "labels" / "README.md"

# By half: pairs, right ones, right matches, all matches. A change of the rule may only move these to the better.
MEASURED = {"choose": (356, 184, 182, 183), "measure": (352, 182, 169, 171), "blind": (302, 82, 64, 64)}


@pytest.mark.parametrize("half", checked.HALVES)
def test_precision_and_recall_do_not_fall(half: str) -> None:
    judged = checked.pairs(half)
    pairs, right, hits, matched = MEASURED[half]
    assert (len(judged), sum(pair.names for pair in judged)) == (pairs, right)
    found = checked.score(judged)
    assert found.recall.n == right
    assert found.recall.k >= hits
    assert found.precision.n - found.precision.k <= matched - hits


@pytest.mark.parametrize("half", checked.HALVES)
def test_every_rule_is_worth_having(half: str) -> None:
    judged = checked.pairs(half)
    recalls = [checked.score(judged, LIMITS, checked.RULES[:n]).recall.k for n in (1, 2, 3)]
    assert recalls == sorted(set(recalls))
    for rule in checked.RULES:
        alone = checked.score(judged, LIMITS, (rule,)).precision
        assert alone.k >= 0.95 * alone.n


def test_limits_alone_are_not_enough() -> None:
    judged = checked.pairs("measure")
    alone, lists = (checked.score(judged, Limits(by_hand=by_hand)) for by_hand in (False, True))
    assert alone.precision.k / alone.precision.n < 0.9 < lists.precision.k / lists.precision.n
    assert alone.recall.k < lists.recall.k


def test_the_sample_is_large_and_says_each_thing_once() -> None:
    everything = checked.pairs()
    assert len(everything) == sum(len(checked.pairs(half)) for half in checked.HALVES) == 1010
    assert max(Counter((pair.label, pair.index) for pair in everything).values()) == 1
    assert all(0 <= pair.index < 1000 and pair.label.strip() == pair.label for pair in everything)
    for half in ("choose", "measure"):
        judged = checked.pairs(half)
        assert 0.4 < sum(pair.names for pair in judged) / len(judged) < 0.6
        assert {pair.origin for pair in judged} == {"drawn", "vendor", "hard"}


def test_precision_and_recall_are_what_they_are_called() -> None:
    judged = [
        Pair("Dog", 207, True, "hard", "choose"),  # right and matched
        Pair("Cat", 281, True, "hard", "choose"),
        Pair("Tabby", 281, True, "hard", "choose"),
        Pair("Retriever", 208, False, "hard", "choose"),  # matched, and judged wrong
        Pair("Animal", 207, True, "hard", "choose"),  # judged right, and missed
        Pair("Animal", 281, True, "hard", "choose"),
        Pair("Wheel", 207, False, "hard", "choose"),  # neither
    ]
    assert checked.score(judged) == Score(Proportion(3, 4), Proportion(3, 5))
    assert checked.score(judged, rules=("name",)) == Score(Proportion(1, 1), Proportion(1, 5))
    assert checked.score([]) == Score(Proportion(0, 0), Proportion(0, 0))
    assert [pair.label for pair in checked.mistakes(judged)] == ["Retriever", "Animal", "Animal"]


# --- the page of the reference reports ---


@pytest.fixture
def script() -> dict[str, Any]:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks are in the repository only")
    return runpy.run_path(str(SCRIPT))


def test_the_page_has_the_figures_of_the_rule_as_it_is(script: dict[str, Any]) -> None:
    page = REPORT.read_text(encoding="utf-8")
    choose = checked.pairs("choose")
    for table in (
        script["sample"](),
        script["by_rule"](),
        script["trade_off"](choose, by_hand=False),
        script["trade_off"](choose, by_hand=True),
        *(script["mistakes"](half) for half in checked.HALVES),
    ):
        assert table in page, "python benchmarks/label_map.py"


def test_the_page_shows_what_matched(script: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("foolbox")
    answers = tmp_path / "answers.csv"
    columns = ["title", "provider", "origin", "network", "image", "attack", "purifier", "label_1", "label_2"]
    with answers.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *(f"label_{n}" for n in (3, 4, 5))])
        writer.writeheader()
        row = dict(zip(columns, ("AWS", "aws", "emulated", "net", "imagenet_16_251", "clean", "none"), strict=False))
        writer.writerow(row | {"label_1": "A|nimal", "label_2": "Dog"})
        writer.writerow(row | {"label_1": "Never shown", "attack": "mi-di/eps8"})
    caption, totals, table = script["demonstration"](answers)
    assert "emulated, net" in caption
    assert totals.splitlines()[-1].split() == ["|", "AWS", "|", "1", "|", "0", "|", "1", "|"]
    assert r"| `imagenet_16_251`: 251 Dalmatian | AWS      | A\|nimal, **Dog** (ancestor) |" in table
    assert "Never shown" not in table
