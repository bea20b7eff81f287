"""The table by epsilon, from stores with known answers."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest

from apibench.report import compare, frames, strength, write_report
from tests.storemaker import StoreMaker
from tests.test_grid import compile_latex, needs_latex

RETRIEVER = 207
KEPT = {4: 7, 8: 5, 16: 1}  # of ten photographs, so many keep their label
PURIFIED = {4: 8, 16: 3}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for number in range(10):
        source = str(number)
        maker.ask(source, "clean", ["Golden Retriever"], truth=RETRIEVER)
        maker.ask(source, "clean+ncis/2", ["Golden Retriever" if number < 9 else "Car"])
        for bound, kept in KEPT.items():
            maker.ask(source, f"mi-di/eps{bound}", ["Golden Retriever" if number < kept else "Car"])
        for bound, kept in PURIFIED.items():
            maker.ask(source, f"mi-di/eps{bound}+ncis/2", ["Golden Retriever" if number < kept else "Car"])
        maker.ask(source, "ni/eps8", ["Car"])
    return maker.close()


def test_each_epsilon_is_a_column_of_an_attack_that_has_several(store: Path) -> None:
    agreement, correct = strength.sheets(compare.answers(frames.read(store)))
    assert [agreement.name, correct.name] == ["strength-agreement-mi-di", "strength-correct-mi-di"]
    assert agreement.grid.body[0][-1] == "10.0 [1.8, 40.4] 1/10"
    assert agreement.grid.head[-4:] == ["standard", "epsilon 4", "epsilon 8", "epsilon 16"], "by number"
    shares = [[cell.split()[0] for cell in row[-4:]] for row in agreement.grid.body]
    assert shares == [["–", "70.0", "50.0", "10.0"], ["90.0", "80.0", "–", "30.0"]]
    shares = [[cell.split()[0] for cell in row[-4:]] for row in correct.grid.body]
    assert shares == [["100.0", "70.0", "50.0", "10.0"], ["90.0", "80.0", "–", "30.0"]]


def test_without_classes_there_is_no_correctness(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for variant in ("clean", "mi-di/eps4", "mi-di/eps8"):
        maker.ask("A", variant, ["Dog"])
    (one,) = strength.sheets(compare.answers(frames.read(maker.close())))
    assert one.name == "strength-agreement-mi-di"


def test_each_norm_has_a_table_of_its_own(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for variant in ("clean", "mi/eps4", "mi/eps16", "mi/l2-0.5", "mi/l2-3.0", "ni/l2-3.0", "noise"):
        maker.ask("A", variant, ["Dog"])
    linf, l2 = strength.sheets(compare.answers(frames.read(maker.close())))
    assert linf.grid.head[-2:] == ["epsilon 4", "epsilon 16"]
    assert (l2.name, l2.grid.head[-2:]) == ("strength-agreement-mi-l2", ["L2 0.5", "L2 3"])


def test_tables_of_an_earlier_report_are_taken_away(store: Path, tmp_path: Path) -> None:
    write_report(store, tmp_path / "out")
    maker = StoreMaker(tmp_path / "other.sqlite")
    for variant in ("clean", "mi/eps4"):
        maker.ask("A", variant, ["Dog"])
    write_report(maker.close(), tmp_path / "out")
    assert list((tmp_path / "out/tables").glob("strength-*")) == []


def test_the_report_has_it_in_every_form(store: Path, tmp_path: Path) -> None:
    written = write_report(store, tmp_path / "out")
    assert "### Agreement under mi-di, by epsilon" in written.report.read_text()
    rows = list(csv.DictReader(StringIO((tmp_path / "out/tables/strength-agreement-mi-di.csv").read_text())))
    found = {(row["purifier"], row["bound"]): (row["share_k"], row["share_n"]) for row in rows}
    assert found == {
        **{("none", str(bound)): (str(kept), "10") for bound, kept in KEPT.items()},
        **{("ncis/2", str(bound)): (str(kept), "10") for bound, kept in PURIFIED.items()},
        ("none", "0"): ("", ""),
        ("ncis/2", "0"): ("9", "10"),
        ("ncis/2", "8"): ("", ""),
    }


@needs_latex
def test_its_latex_compiles(store: Path, tmp_path: Path) -> None:
    sheets = strength.sheets(compare.answers(frames.read(store)))
    compile_latex(tmp_path, *(sheet.latex for sheet in sheets))  # fails where LaTeX does
