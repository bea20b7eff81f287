"""Tables in LaTeX: they compile, show what was said, and nothing in them is a command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apibench import text
from apibench.grid import Grid, emphasised, to_csv

HOSTILE = [
    r"\input{/etc/passwd}",
    r"\write18{touch pwned}",
    r"$x^2_1$ & ~ # % {unbalanced",
    "]]] [[[ \\\\",
    "--- -- ,, << >> ?` !` '' ``",
    "<script>alert(1)</script>",
    "日本語 ラベル",
    "chat 🐈 cafe\N{COMBINING ACUTE ACCENT}",
    "^^5cinput ^^M",
    "\u202eevil\u202c \x1b[31m",
    "|pipe| *star* `code` \"quote\" 'q' @ = + -",
]
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def compile_latex(folder: Path, *tables: str) -> str:
    """The text of a document with those tables, where pdftotext is there to read it.

    Fails where pdflatex does, or warns of a character that is not there.
    """
    preamble = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
    )
    (folder / "paper.tex").write_text("\n".join([preamble, *tables, r"\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    if shutil.which("pdftotext") is None:
        return ""
    shown = subprocess.run(
        ["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
    )
    return shown.stdout


def grid(cells: list[str]) -> Grid:
    return Grid(["Name", "Share, %"], [[cell, "−1.5 [−2, 1] 3/4"] for cell in cells], words=1, right=[1])


@needs_latex
def test_hostile_text_compiles_and_shows_as_it_is(tmp_path: Path) -> None:
    shown = compile_latex(tmp_path, grid(HOSTILE).latex(text.latex(" ".join(HOSTILE[:5])), "tab:hostile"))
    assert not (tmp_path / "pwned").exists()
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    if shown:  # where pdftotext is installed
        for wanted in (
            r"\input{/etc/passwd}",
            r"\write18{touch pwned}",
            "$x^2_1$ & ~ # % {unbalanced",
            "^^5cinput ^^M",
            "U+65E5",
        ):
            assert wanted in shown
    assert "root:" not in shown


@needs_latex
def test_every_letter_that_is_kept_is_there(tmp_path: Path) -> None:
    kept = [chr(code) for code in range(0x20, 0x3000) if text.latex(chr(code)) and "U+" not in text.latex(chr(code))]
    assert "ß" in kept
    assert "中" not in kept
    compile_latex(
        tmp_path, grid([" ".join(kept[i : i + 20]) for i in range(0, len(kept), 20)]).latex("Letters", "tab:letters")
    )


@given(st.text())
def test_no_text_is_a_command(value: str) -> None:
    """What is left of an escaped text without our own commands has no character that LaTeX gives a meaning to."""
    left = text.latex(value)
    for command in sorted(set(text._LATEX.values()), key=len, reverse=True):
        left = left.replace(command, "")
    assert not set(left.replace("{}", "")) & set("\\{}$&#^_~%")
    assert "\n" not in left


def test_code_points_keep_names_apart() -> None:
    assert text.latex("猫") == "U+732B"
    assert text.latex("猫") != text.latex("犬")
    assert text.latex("café_1") == r"café\_1"


def test_booktabs_headings_and_best_cells() -> None:
    found = Grid(
        head=["Provider", "Purifier", "standard", "robust"],
        body=[["a_b", "none", "1.0", "2.0"], ["a_b", "ncis/1", "3.0", "4.0"], ["c", "none", "5.0", "6.0"]],
        words=2,
        right=[2, 3],
        above=["", "", "Agreement", "Agreement"],
        best=frozenset({(1, 3)}),
    )
    lines = found.latex("A caption", "tab:one").splitlines()
    assert r"\caption{A caption}" in lines
    assert r" &  & \multicolumn{2}{c}{Agreement} \\" in lines
    assert r"\cmidrule(lr){3-4}" in lines
    assert r"a\_b & none & 1.0 & 2.0 \\" in lines
    assert r" & ncis/1 & 3.0 & \textbf{4.0} \\" in lines  # what repeats is said once
    assert [line for line in lines if line == r"\addlinespace"] == [r"\addlinespace"]
    assert "| a_b      | ncis/1   |                 3.0 |           **4.0** |" in found.markdown()
    assert "Agreement: robust" in found.markdown().splitlines()[0]


def test_captions() -> None:
    assert emphasised("*Robust*: 5 % of a_b") == r"\emph{Robust}: 5 \% of a\_b"


def test_csv_is_harmless_to_a_spreadsheet() -> None:
    written = to_csv([{"a": "=cmd|' /C calc'!A0", "b": -0.5, "c": None, "d": 3}], ["a", "b", "c", "d"])
    assert written == "a,b,c,d\n'=cmd|' /C calc'!A0,-0.5,,3\n"
