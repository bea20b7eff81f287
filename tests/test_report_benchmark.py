"""The paper's tables from stores with known answers: agreement, correctness, attack success, classes, and what is marked best."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from apibench import metrics
from apibench.labels import vocabulary
from apibench.report import benchmark, classes, compare, frames, write_report
from tests.storemaker import StoreMaker
from tests.test_grid import HOSTILE, compile_latex, needs_latex

ATTACK = "mi-di/eps16"
RETRIEVER, TABBY = 207, 281
CAT = vocabulary().classes[TABBY].name


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "store.sqlite")


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(path.read_text(encoding="utf-8"))))


def answers(store: Path) -> list[compare.Answers]:
    return compare.answers(frames.read(store))


@pytest.fixture
def with_truth(maker: StoreMaker) -> Path:
    """Three retrievers and a cat, one attack, one purifier.

    Correct@1 clean: A and B (C has its class second, D is called a car). Attacked: A keeps, B has none, C is refused, D fails.
    """
    for source, truth, said in (
        ("A", RETRIEVER, ["Golden Retriever"]),
        ("B", RETRIEVER, ["golden retriever", "Grass"]),
        ("C", RETRIEVER, ["Grass", "Golden Retriever"]),
        ("D", TABBY, ["Car"]),
    ):
        maker.ask(source, "clean", said, truth=truth)
    for source, said in {"A": ["Golden Retriever"], "B": [], "C": "rejected", "D": "failed"}.items():
        maker.ask(source, ATTACK, said)
    for source, said in {
        "A": ["Grass"],
        "B": ["Golden Retriever"],
        "C": ["Grass", "Golden Retriever"],
        "D": ["Car"],
    }.items():
        maker.ask(source, f"{ATTACK}+ncis/2", said)
        maker.ask(source, "clean+ncis/2", ["Golden Retriever"])
    maker.ask(
        "E", "clean", ["Golden Retriever"], truth=RETRIEVER, truth_from="predicted"
    )  # no truth: what a network said
    maker.ask("E", ATTACK, ["Golden Retriever"])
    return maker.close()


def test_correctness_by_hand(with_truth: Path, tmp_path: Path) -> None:
    written = write_report(with_truth, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written.tables if path.suffix == ".csv"] == [
        "tables/agreement-mi-di-eps16.csv",
        "tables/correct-mi-di-eps16.csv",
        "tables/class-mi-di-eps16-acme.csv",
    ]
    none, ncis = read_csv(tmp_path / "out/tables/correct-mi-di-eps16.csv")
    assert (none["purifier"], ncis["purifier"]) == ("none", "ncis/2")

    def fraction(row: dict[str, str], name: str) -> tuple[str, str]:
        return row[f"{name}_k"], row[f"{name}_n"]

    # E has no truth, so it is in no share; the empty and the refused reply are wrong, the failed one is left out.
    assert fraction(none, "standard_correct1") == ("2", "4")
    assert fraction(none, "standard_correct5") == ("3", "4")
    assert fraction(none, "robust_correct1") == ("1", "3")
    assert fraction(ncis, "robust_correct1") == ("1", "4")
    assert fraction(ncis, "robust_correct5") == ("2", "4")
    assert fraction(ncis, "standard_correct5") == ("3", "4")
    # Attack success: of A and B, correct when clean, B is lost; of A, B and C at 5, B and C.
    assert fraction(none, "attack_success1") == ("1", "2")
    assert fraction(none, "attack_success5") == ("2", "3")
    assert fraction(ncis, "attack_success1") == ("1", "2")
    assert fraction(ncis, "attack_success5") == ("1", "3")
    counted = [none[f"attacked_{kind}"] for kind in ("asked", "empty", "rejected", "failed")]
    assert counted == ["5", "1", "1", "1"]
    shown = (tmp_path / "out/tables/correct-mi-di-eps16.md").read_text(encoding="utf-8")
    assert "EMULATED: answered by net-a" in shown
    assert "1/2" in shown  # the denominator of attack success
    assert "0+1" in shown
    report = written.report.read_text(encoding="utf-8")
    assert "[LaTeX](tables/correct-mi-di-eps16.tex)" in report
    assert "### Correctness under mi-di/eps16" in report


def test_agreement_table(with_truth: Path, tmp_path: Path) -> None:
    write_report(with_truth, tmp_path / "out")
    none, ncis = read_csv(tmp_path / "out/tables/agreement-mi-di-eps16.csv")
    assert (none["standard"], none["robust_k"], none["robust_n"], none["robust_left_out"]) == ("", "2", "4", "1")
    assert (ncis["standard_k"], ncis["standard_n"]) == ("1", "4")  # by name: "golden retriever" is another label
    assert (ncis["robust_k"], ncis["robust_n"]) == ("2", "4")


def test_classes(with_truth: Path, tmp_path: Path) -> None:
    write_report(with_truth, tmp_path / "out")
    rows = read_csv(tmp_path / "out/tables/class-mi-di-eps16-acme.csv")
    found = {(row["purifier"], row["class_name"]): row for row in rows}
    assert (found["none", "Golden Retriever"]["robust_k"], found["none", "Golden Retriever"]["robust_n"]) == ("1", "3")
    assert (found["ncis/2", "Golden Retriever"]["robust_correct5_k"]) == "2"
    assert found["none", CAT]["robust_n"] == "0"  # failed
    shown = (tmp_path / "out/tables/class-mi-di-eps16-acme.md").read_text(encoding="utf-8")
    assert shown.index("Golden Retriever") < shown.index(CAT)  # most lost first


def test_only_so_many_classes_are_shown_but_all_are_in_the_csv(maker: StoreMaker, tmp_path: Path) -> None:
    for index in range(classes.MOST_CLASSES + 5):
        maker.ask(f"s{index}", "clean", ["dog"], truth=index)
        maker.ask(f"s{index}", ATTACK, ["fox"])
    (sheet,) = [one for one in benchmark.sheets(answers(maker.close())) if one.name.startswith("class-")]
    assert len(sheet.grid.body) == classes.MOST_CLASSES
    assert len(sheet.records) == classes.MOST_CLASSES + 5
    assert f"the {classes.MOST_CLASSES} of {classes.MOST_CLASSES + 5} classes" in sheet.about


def test_without_truth_there_is_no_correctness(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"], truth=5, truth_from="predicted")
    maker.ask("A", ATTACK, ["dog"])
    maker.ask("B", "clean", ["dog"], truth=1234)  # no class of ImageNet
    assert [sheet.name for sheet in benchmark.sheets(answers(maker.close()))] == ["agreement-mi-di-eps16"]


def test_the_classes_of_a_row_are_the_photographs_own(with_truth: Path) -> None:
    assert sorted(frames.read(with_truth).truth().values()) == [RETRIEVER, RETRIEVER, RETRIEVER, TABBY]


# --- what is marked ---


def ask_many(maker: StoreMaker, kept: dict[str, int], n: int = 100, **more: Any) -> None:
    """``kept``: by purifier, how many of ``n`` attacked images agree; those with more agree on all that those with fewer do."""
    for i in range(n):
        maker.ask(f"s{i:03}", "clean", ["dog"], **more)
        for purifier, count in kept.items():
            variant = ATTACK if purifier == "none" else f"{ATTACK}+{purifier}"
            maker.ask(f"s{i:03}", variant, ["dog"] if i < count else ["fox"], **more)


def marked(store: Path) -> list[str]:
    sheet = next(one for one in benchmark.sheets(answers(store)) if one.name.startswith("agreement-"))
    return [f"{record['provider']} {record['purifier']}" for record in sheet.records if record["robust_best"]]


def test_the_best_is_marked_only_where_it_is_significantly_so(maker: StoreMaker) -> None:
    ask_many(maker, {"none": 20, "jpeg": 40, "ncis/2": 70})
    ask_many(maker, {"none": 20, "jpeg": 66, "ncis/2": 70}, provider="bravo")  # 4 of 4 discordant: p = 0.125
    assert marked(maker.close()) == ["acme ncis/2"]


def test_the_family_is_all_pairs_of_rows_of_the_table(tmp_path: Path) -> None:
    """Six discordant pairs, p = 0.031: significant alone, not among the three comparisons of three rows."""
    alone, three = StoreMaker(tmp_path / "alone.sqlite"), StoreMaker(tmp_path / "three.sqlite")
    ask_many(alone, {"none": 60, "ncis/2": 66})
    ask_many(three, {"none": 60, "jpeg": 60, "ncis/2": 66})
    assert marked(alone.close()) == ["acme ncis/2"]
    assert marked(three.close()) == []


def test_a_higher_share_of_other_images_is_not_better(maker: StoreMaker) -> None:
    """60 of ncis's images failed. On the 40 of which both are known jpeg is significantly ahead; its share is the lower."""
    for i in range(100):
        maker.ask(f"s{i:03}", "clean", ["dog"])
        maker.ask(f"s{i:03}", ATTACK, ["fox"])
        maker.ask(f"s{i:03}", f"{ATTACK}+jpeg", ["dog"] if i < 40 else ["fox"])
        maker.ask(f"s{i:03}", f"{ATTACK}+ncis/2", "failed" if i >= 40 else ["fox"] if i < 10 else ["dog"])
    assert marked(maker.close()) == []


def test_equal_values_are_not_marked(maker: StoreMaker) -> None:
    ask_many(maker, {"none": 20, "jpeg": 70, "ncis/2": 70})
    assert marked(maker.close()) == []


def test_a_marked_value_is_bold_in_every_form_and_the_caption_says_when(maker: StoreMaker, tmp_path: Path) -> None:
    ask_many(maker, {"none": 20, "ncis/2": 70})
    write_report(maker.close(), tmp_path / "out")
    interval = metrics.wilson_interval(70, 100)
    value = f"70.0 [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    folder = tmp_path / "out/tables"
    assert f"**{value}**" in (folder / "agreement-mi-di-eps16.md").read_text(encoding="utf-8")
    latex = (folder / "agreement-mi-di-eps16.tex").read_text(encoding="utf-8")
    assert rf"\textbf{{{value.replace('[', '{[}').replace(']', '{]}')}}}" in latex
    assert r"\textbf{EMULATED: answered by net{-}a, not by a vendor.}" in latex
    assert "corrected by Holm" in latex
    assert [row["robust_best"] for row in read_csv(folder / "agreement-mi-di-eps16.csv")] == ["0", "1"]


# --- as files ---


def test_who_answered_is_a_column_only_where_it_tells_rows_apart(maker: StoreMaker) -> None:
    ask_many(maker, {"none": 1}, n=2)
    ask_many(maker, {"none": 1}, n=2, provider="bravo", version="emulated/net-b")
    (one,) = benchmark.sheets(answers(maker.path))
    ask_many(
        maker,
        {"none": 1},
        n=2,
        provider="bravo",
        version="emulated/net-c",
        settings="{}",
        campaign="default",
        folder="b",
    )
    (two,) = benchmark.sheets(answers(maker.close()))
    assert one.grid.head[:2] == ["Provider", "Purifier"]
    assert two.grid.head[:3] == ["Provider", "Answered by", "Purifier"]
    for sheet, networks in ((one, "net-a, net-b"), (two, "net-a, net-b, net-c")):
        assert f"answered by {networks}, not by a vendor" in sheet.markdown


def test_a_table_longer_than_a_page_is_one_for_each_provider(maker: StoreMaker) -> None:
    for provider in ("acme", "bravo"):
        ask_many(maker, {"none": 0, **{f"ncis/{i}": 1 for i in range(1, 25)}}, n=1, provider=provider)
    (sheet,) = benchmark.sheets(answers(maker.close()))
    assert len(sheet.grid.body) == 50
    assert sheet.latex.count(r"\begin{table}") == 2
    assert "Agreement under mi{-}di/eps16: bravo (emulated)." in sheet.latex
    assert r"\label{tab:agreement-mi-di-eps16-2}" in sheet.latex


@needs_latex
def test_hostile_names_make_tables_that_compile(maker: StoreMaker, tmp_path: Path) -> None:
    for number, hostile in enumerate(HOSTILE):
        version = f"emulated/{hostile}"
        maker.ask("A", "clean", [hostile], campaign=hostile, version=version, settings=hostile, truth=RETRIEVER)
        maker.ask("A", f"mi{hostile}/eps{number}", [hostile], campaign=hostile, version=version, settings=hostile)
        maker.ask(
            "A", f"mi{hostile}/eps{number}+p{hostile}", [hostile], campaign=hostile, version=version, settings=hostile
        )
    written = write_report(maker.close(), tmp_path / "out")
    tables = [path for path in written.tables if path.suffix == ".tex"]
    assert len(tables) == 3 * len(HOSTILE)
    compile_latex(tmp_path, *(path.read_text(encoding="utf-8") for path in tables))


def test_tables_of_an_earlier_report_are_taken_away(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", ATTACK, ["dog"])
    folder = tmp_path / "out/tables"
    folder.mkdir(parents=True)
    for name in ("agreement-other-eps8.csv", "class-other.tex", "notes.md"):
        (folder / name).write_text("old")
    write_report(maker.close(), tmp_path / "out")
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"agreement-mi-di-eps16.{form}" for form in ("csv", "md", "tex")] + ["notes.md"]


def test_names_of_attacks_that_look_alike_are_kept_apart(maker: StoreMaker) -> None:
    maker.ask("A", "clean", ["dog"])
    for attack in ("mi di/eps8", "mi-di/eps8", "../../x"):
        maker.ask("A", attack, ["dog"])
    names = [sheet.name for sheet in benchmark.sheets(answers(maker.close()))]
    assert names == ["agreement-x", "agreement-mi-di-eps8", "agreement-mi-di-eps8-2"]


def test_the_table_of_changes_is_corrected(maker: StoreMaker, tmp_path: Path) -> None:
    ask_many(maker, {"none": 60, "jpeg": 60, "ncis/2": 66})
    written = write_report(maker.close(), tmp_path / "out")
    rows = {row["purifier"]: row for row in read_csv(written.table)}
    p = metrics.sign_test_p(6, 0)
    assert float(rows["ncis/2"]["gain_mcnemar_p"]) == pytest.approx(p)
    assert float(rows["ncis/2"]["gain_holm_p"]) == pytest.approx(2 * p)
    assert float(rows["jpeg"]["gain_holm_p"]) == 1.0
    assert rows["none"]["gain_holm_p"] == ""
    # Of 100 images of which 6 change, all six one way are needed, and so many are not there often enough.
    assert rows["ncis/2"]["gain_could_show"] == ""
    assert "p, Holm" in written.report.read_text(encoding="utf-8")


def test_the_smallest_difference_is_in_the_table(maker: StoreMaker, tmp_path: Path) -> None:
    ask_many(maker, {"none": 20, "ncis/2": 40})
    (_, row) = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert float(row["gain_could_show"]) == pytest.approx(metrics.smallest_difference(100, 0.2))


def test_a_tie_for_the_second_place_marks_nothing_unless_both_are_behind(maker: StoreMaker) -> None:
    for i in range(60):
        maker.ask(f"{i:03}", "clean", ["a"])
        maker.ask(f"{i:03}", ATTACK, ["b"])
        for name, kept in (("pa", i < 35), ("pb", i < 21), ("pc", i >= 39)):
            maker.ask(f"{i:03}", f"{ATTACK}+{name}", ["a"] if kept else ["b"])
    (sheet,) = (one for one in benchmark.sheets(answers(maker.close())) if one.name.startswith("agreement"))
    assert [record["robust_best"] for record in sheet.records] == [0, 0, 0, 0]


def test_emulated_answers_played_back_are_emulated_still(maker: StoreMaker, tmp_path: Path) -> None:
    for variant in ("clean", ATTACK):
        maker.ask("A", variant, ["a"], origin="replay of emulated")
    written = write_report(maker.close(), tmp_path / "out")
    assert "EMULATED: answered by net-a" in written.main_table
    assert "REPLAYED" in written.main_table
    assert "0 (emulated: nothing was paid)" in written.report.read_text(encoding="utf-8")
