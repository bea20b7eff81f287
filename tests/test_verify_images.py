"""What is compared of a report with its image files at hand, and without them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from apibench.cli import cli
from apibench.report import page, write_report
from apibench.report.verify import verify_report
from apibench.terminal import run_command
from tests.reportmaker import (
    Streams,
    change,
    forge,
    make_store,
    many,
    names,
    replace,
)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_a_store_names_and_is_no_file_is_not_read(tmp_path: Path, what: str) -> None:
    """A store from elsewhere: reading one would never end."""
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    if what == "pipe":
        (store.parent / "sets" / "clean" / "A.png").unlink()
        os.mkfifo(store.parent / "sets" / "clean" / "A.png")
    else:
        change(store, "UPDATE images SET folder = '/dev', file = 'zero' WHERE variant = 'clean' AND source = 'A'")
    found = verify_report(store, report)
    assert any(line.startswith("index.html: pictures in it not compared") for line in found.notes)


def test_pictures_count_where_the_images_are_at_hand(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    assert verify_report(store, report).holds
    for name in ("picture.png", "index.html"):
        content = (report / name).read_bytes()
        (report / name).write_bytes(content + b" ")
        assert names(verify_report(store, report)) == {name}
        (report / name).write_bytes(content)


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_where_they_are_not_it_is_said_and_the_files_must_be_those_that_were_written(tmp_path: Path, how: str) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    if how == "removed":
        shutil.rmtree(store.parent / "sets")
    else:
        (store.parent / "sets" / "clean" / "A.png").write_bytes(b"another")
    found = verify_report(store, report)
    assert found.holds
    assert any(line.startswith("index.html: pictures in it not compared") for line in found.notes)
    assert any(line.startswith("report.md: sections not compared") for line in found.notes)

    replace(report / "noise.csv", "16", "17")
    assert names(verify_report(store, report)) == {"noise.csv"}
    replace(
        report / "report.md", "## What was asked", "A line more\n\n## What was asked"
    )  # in the section of the noise
    replace(report / "report.md", "10000 resamples", "9000 resamples")
    assert names(verify_report(store, report)) == {"noise.csv", "report.md"}


@pytest.mark.parametrize("gone", ["all", "one", "never there"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.0 [0.0, 49.0] 0/4", "100.0 [51.0, 100.0] 4/4"),  # of a chart
        ("<b>0.0</b>", "<b>100.0</b>"),  # of the table
        ('<span class="score">0.90</span>', '<span class="score">0.10</span>'),  # under a picture
        ('<div class="picture">', '<div class="picture"><p class="note">kept in all cases</p>'),
        ("</style>", "body { display: none }</style>"),
    ],
)
def test_the_words_of_the_page_count_without_image_files(gone: str, old: str, new: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=gone != "never there")
    report = write_report(store, tmp_path / "report").report.parent
    if gone == "all":
        shutil.rmtree(store.parent / "sets")
    elif gone == "one":
        (store.parent / "sets" / "clean" / "A.png").unlink()
    assert verify_report(store, report).differences == ()
    replace(report / "index.html", old, new)
    forge(report)
    (line,) = verify_report(store, report).differences
    assert line.startswith("index.html: its t")


@pytest.mark.parametrize("beside", [False, True])
def test_photographs_after_the_first_count_without_image_files(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are JSON within the page, or in files beside it, which are called otherwise where their pictures are others."""
    if beside:
        monkeypatch.setattr(page, "MOST_INLINE", 5)
    store = many(tmp_path)
    report = write_report(store, tmp_path / "report").report.parent
    shutil.rmtree(tmp_path / "clean")
    assert verify_report(store, report).differences == ()
    path = next((report / "index_files").glob("00012-*.js")) if beside else report / "index.html"
    start, mark, end = path.read_text().rpartition("Fox")
    path.write_text(f"{start}Dog{end}")
    assert mark
    forge(report)
    (line,) = verify_report(store, report).differences
    assert line.startswith(f"{path.relative_to(report).as_posix()}: its text")
    assert "says Dog 0.90, recomputed Fox 0.90" in line


def test_a_file_beside_the_page_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_INLINE", 5)
    store = many(tmp_path)
    report = write_report(store, tmp_path / "report").report.parent
    (tmp_path / "clean" / "11.png").unlink()
    first = next((report / "index_files").glob("00012-*.js"))
    shutil.copy(first, first.with_name("00012-000000000000.js"))
    forge(report)
    assert len(names(verify_report(store, report)) & {first.name, "index_files/00012-000000000000.js"}) == 1


def test_sections_of_pictures_say_what_such_sections_say(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    shutil.rmtree(store.parent / "sets")
    replace(report / "report.md", "## Picture\n", "## Picture\n\n**All numbers above are wrong.**\n")
    forge(report)
    (line,) = verify_report(store, report).differences
    assert line.startswith("report.md, line ")
    assert line.endswith("says **All numbers above are wrong.**, which no report does there")


@pytest.mark.parametrize("name", ["figures/providers.png", "figures/providers.svg", "figures/iterations-2.png"])
def test_figures_of_numbers_need_no_image_files(name: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    shutil.rmtree(store.parent / "sets")
    (report / name).write_bytes(b"another")
    forge(report)
    assert names(verify_report(store, report)) == {name}


def test_what_could_not_be_compared_is_named_at_the_end(tmp_path: Path, capsys: Streams) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    asked = ["report", "--store", str(store), "--out", str(report), "--verify"]
    assert run_command(cli, asked) == 0
    assert capsys.readouterr().out.endswith(" files compared)\n")
    shutil.rmtree(store.parent / "sets")
    assert run_command(cli, asked) == 0
    end = (
        " files compared, except 4 that cannot be here: noise.csv, figures/noise.png, figures/noise.svg, picture.png)\n"
    )
    assert capsys.readouterr().out.endswith(end)
