"""The local table and the transfer table as LaTeX: they compile and say what the Markdown says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from apibench.evaluation import latex, report, transfer_report
from apibench.evaluation.comparison import Results, Setting
from apibench.evaluation.tables import Tables
from tests.test_evaluation_tables import by_hand, write_by_hand
from tests.test_grid import HOSTILE, compile_latex, needs_latex
from tests.test_transfer_rates import drawn, study


def test_the_local_table_says_what_the_document_says(tmp_path: Path) -> None:
    write_by_hand(tmp_path)
    report.write(tmp_path)
    written = (tmp_path / "accuracy.tex").read_text(encoding="utf-8")
    assert written.count(r"\begin{table}") == 2  # clean, and one attack
    assert "Accuracy under mi{-}di/eps8." in written
    row = next(line for line in written.splitlines() if line.startswith("ncis/2 & mean & 50 &"))
    assert "80.0 {[}" in row
    assert "40.0 {[}" in row


@needs_latex
def test_the_local_table_compiles_whatever_the_names(tmp_path: Path) -> None:
    cells = [
        replace(
            one, key=replace(one.key, classifier=one.key.classifier + HOSTILE[number % 11], purifier=one.key.purifier)
        )
        for number, one in enumerate(by_hand())
    ]
    results = Results(cells)
    assert all(isinstance(setting, Setting) for setting in results.settings)
    compile_latex(tmp_path, latex.accuracy(Tables.of(results, "ncis")))


@needs_latex
def test_the_transfer_table_compiles(tmp_path: Path) -> None:
    written = transfer_report.latex(study(drawn(0, ("a_b", r"c\d", "e&f"))))
    assert r"vmi & -- & 51 &" in written
    assert r"Over a\_b, " in written
    compile_latex(tmp_path, written)
