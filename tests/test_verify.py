"""Is a report what its store says, whatever was changed, added or renamed?"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.query.contract import Label
from apibench.report import provenance, write_report
from apibench.report.verify import verify_report
from apibench.terminal import run_command
from tests.reportmaker import (
    ATTACK,
    Streams,
    change,
    forge,
    make_store,
    names,
    raw,
    replace,
    snapshot,
)
from tests.storemaker import StoreMaker


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "run")


@pytest.fixture
def report(store: Path, tmp_path: Path) -> Path:
    return write_report(store, tmp_path / "report").report.parent


def test_a_report_is_what_its_store_says_and_nothing_is_written(store: Path, report: Path, capsys: Streams) -> None:
    before = snapshot(report), snapshot(store.parent)
    assert run_command(cli, ["report", "--store", str(store), "--out", str(report), "--verify"]) == 0
    assert "is what the raw responses of" in capsys.readouterr().out
    assert (snapshot(report), snapshot(store.parent)) == before
    compared = verify_report(store, report).compared
    assert {"table.csv", "answers.csv", "noise.csv", "report.md", "index.html"} <= set(compared)
    # Every table is looked at, whatever tables a report has.
    assert {
        path.relative_to(report).as_posix() for path in report.rglob("*") if path.suffix in (".csv", ".md", ".tex")
    } <= set(compared)


def test_a_changed_number_is_found_with_its_row_and_column(store: Path, report: Path, capsys: Streams) -> None:
    replace(report / "answers.csv", "Fox", "Wolf")
    assert run_command(cli, ["report", "--store", str(store), "--out", str(report), "--verify"]) == 3
    told = capsys.readouterr()
    assert told.err == "differs: answers.csv, row 13, column label_1: says Wolf, recomputed Fox\n"
    assert "is what the raw responses" not in told.out


def test_a_changed_line_of_the_document_is_found(store: Path, report: Path) -> None:
    replace(report / "report.md", "10000 resamples", "9000 resamples")
    (line,) = verify_report(store, report).differences
    assert line.startswith("report.md, line ")
    assert "says …" in line
    assert "9000" in line
    assert "recomputed …" in line


@pytest.mark.parametrize("suffix", [".csv", ".md", ".tex"])
def test_every_table_counts(store: Path, report: Path, suffix: str) -> None:
    for path in sorted(path for path in report.rglob(f"*{suffix}") if path.is_file()):
        content = path.read_bytes()
        path.write_bytes(content + b"1\n")
        assert names(verify_report(store, report)) == {path.relative_to(report).as_posix()}
        path.write_bytes(content)


def test_a_changed_raw_response_is_found_though_its_stored_labels_are_as_they_were(store: Path, report: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(
            "UPDATE responses SET raw = ? WHERE sha256 = (SELECT sha256 FROM images WHERE variant = ? AND source = 'A')",
            (raw(["Dog"]), ATTACK),
        )
        connection.commit()
    found = verify_report(store, report)
    assert {"table.csv", "answers.csv", "report.md", "provenance.json"} <= names(found)
    assert "answers.csv, row 13, column agrees_top1: says 0, recomputed 1" in found.differences


def test_changed_stored_labels_are_found_too(store: Path, report: Path) -> None:
    change(store, "UPDATE responses SET labels = '[]'")
    assert {"report.md", "provenance.json"} <= names(verify_report(store, report))


@pytest.mark.parametrize("name", ["table.csv", "report.md", "index.html", "provenance.json"])
def test_a_missing_file_is_found(store: Path, report: Path, name: str) -> None:
    (report / name).unlink()
    (line,) = verify_report(store, report).differences
    assert line.startswith(f"{name}: not there")


def test_a_table_too_many_is_found(store: Path, report: Path) -> None:
    (report / "table-2.csv").write_text("provider\n")
    assert verify_report(store, report).differences == ("table-2.csv: is no file of the report of this store",)


def test_a_report_of_another_store_is_found(report: Path, tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "other.sqlite")
    maker.ask("A", "clean", [Label("Cow", 0.9)], provider="aws", raw=raw(["Cow"]), version="3.0")
    found = verify_report(maker.close(), report)
    assert any(line.startswith("provenance.json, store: says store.sqlite with SHA-256") for line in found.differences)
    assert {"table.csv", "answers.csv", "report.md"} <= names(found)


def test_a_report_of_one_campaign_is_verified_as_one(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    write_report(store, tmp_path / "report", "may")
    assert verify_report(store, tmp_path / "report").holds
    assert not verify_report(store, tmp_path / "report", "june").holds


@pytest.mark.parametrize("named", ["may", None])
def test_a_report_is_of_its_campaigns_whatever_is_added_to_the_store(named: str | None, tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may",))
    write_report(store, tmp_path / "report", named)
    assert verify_report(store, tmp_path / "report", "may").holds
    make_store(tmp_path, campaigns=("june",))
    for campaign in ("may", None):
        found = verify_report(store, tmp_path / "report", campaign)
        assert found.differences == ()
        assert any("store.sqlite is another file by now (more was added to it)" in note for note in found.notes)
    # What it is of has to be as it was, though no table tells.
    change(store, "UPDATE responses SET raw = raw || ' ' WHERE campaign = 'june'")
    assert verify_report(store, tmp_path / "report").holds
    change(store, "UPDATE responses SET raw = raw || ' ' WHERE campaign = 'may'")
    assert any("provenance.json, store: says" in line for line in verify_report(store, tmp_path / "report").differences)


def test_the_hash_that_the_document_names_is_of_the_store_then_or_now(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may",))
    report = write_report(store, tmp_path / "report").report
    make_store(tmp_path, campaigns=("june",))
    then = provenance.read(report.parent)["store"]["sha256"]
    replace(report, then, "0" * 64)
    (line,) = verify_report(store, report.parent).differences
    assert line.startswith("report.md, line ")
    assert "00000000" in line


def test_a_report_set_against_a_campaign_of_a_store_that_grew(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    write_report(store, tmp_path / "report", "june", "may")
    make_store(tmp_path, campaigns=("july",))
    assert verify_report(store, tmp_path / "report", against="may").differences == ()
    change(store, "UPDATE responses SET raw = raw || ' ' WHERE campaign = 'may'")
    assert not verify_report(store, tmp_path / "report", against="may").holds


@pytest.mark.parametrize(
    ("of", "given", "told"),
    [
        (("may",), "june", "made for campaign may; name it with --campaign may"),
        (("may", "june"), "june", "made for campaigns june, may; leave --campaign out"),
    ],
)
def test_a_report_for_other_campaigns_says_so_first(
    of: tuple[str, ...], given: str | None, told: str, tmp_path: Path, capsys: Streams
) -> None:
    store = make_store(tmp_path, campaigns=of)
    write_report(store, tmp_path / "report")
    make_store(tmp_path, campaigns=("june", "july"))
    more = [] if given is None else ["--campaign", given]
    code = run_command(cli, ["report", "--store", str(store), "--out", str(tmp_path / "report"), "--verify", *more])
    first, *others = capsys.readouterr().err.splitlines()
    assert code == 3
    assert first.startswith(f"differs: provenance.json, report: {told}")
    assert any(line.startswith("differs: answers.csv") for line in others)


def test_a_report_of_several_campaigns_of_a_store_that_grew(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    write_report(store, tmp_path / "report")
    make_store(tmp_path, campaigns=("late",))
    assert verify_report(store, tmp_path / "report").differences == ()
    change(store, "UPDATE responses SET raw = raw || ' ' WHERE campaign = 'june'")
    assert names(verify_report(store, tmp_path / "report")) == {"provenance.json", "report.md"}


def test_images_added_since_are_named_as_the_cause(tmp_path: Path) -> None:
    """They count as left out where they were not asked about, whoever put them into the store."""
    store = make_store(tmp_path, campaigns=("may",))
    maker = StoreMaker(store)
    maker.ask("E", "clean", [Label("Dog", 0.9)], provider="aws", campaign="may", raw=raw(["Dog"]), version="3.0")
    write_report(maker.close(), tmp_path / "report")
    maker = StoreMaker(store)
    maker.ask("E", ATTACK, [Label("Fox", 0.9)], provider="aws", campaign="june", raw=raw(["Fox"]), version="3.0")
    first, *others = verify_report(maker.close(), tmp_path / "report").differences
    assert first.startswith("provenance.json, images: says 17, recomputed 18: images of variants that were asked about")
    assert any(line.startswith("table.csv, row 1, column attacked_top1_left_out") for line in others)


def test_a_report_made_while_another_query_was_writing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run")
    maker = StoreMaker(store)
    maker.ask("Z", "clean", ["Dog"], provider="aws", campaign="june", raw=raw(["Dog"]), version="3.0")
    report = write_report(store, tmp_path / "report", "default").report
    assert "write-ahead log beside it" in report.read_text(encoding="utf-8")
    maker.close()
    found = verify_report(store, report.parent)
    assert found.differences == ()
    assert "report.md: made, or verified, while a query was writing to the store" in found.notes


def test_a_store_that_a_report_was_set_against_may_be_called_otherwise(tmp_path: Path) -> None:
    old = make_store(tmp_path / "old", campaigns=("may",)).rename(tmp_path / "old.sqlite")
    store = make_store(tmp_path / "new", campaigns=("june",))
    report = write_report(store, tmp_path / "report", None, str(old)).report.parent
    old = old.rename(tmp_path / "renamed.sqlite")
    assert verify_report(store, report, against=str(old)).differences == ()
    replace(report / "report.md", "Changes are since answers in", "Changes are not since answers in")
    assert names(verify_report(store, report, against=str(old))) == {"report.md"}


@pytest.mark.parametrize("written", [None, 7, [7], [{}], {"may": 1}])
def test_an_older_report_or_a_wrong_one_does_not_tell_its_campaigns(written: object, tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    for campaign in ("may", None):
        write_report(store, tmp_path / "report", campaign)
        path = tmp_path / "report" / provenance.NAME
        content = json.loads(path.read_text())
        content["store"].pop("answers_sha256")
        content["report"].pop("campaigns")
        if written is not None:
            content["report"]["campaigns"] = written
        path.write_text(json.dumps(content))
        found = verify_report(store, tmp_path / "report")
        assert found.holds == (written is None)
        assert names(found) <= {"provenance.json"}


def test_a_report_that_was_set_against_another_campaign(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    write_report(store, tmp_path / "report", "june", "may")
    with pytest.raises(
        ApibenchError, match=r"was set against campaign may, store store\.sqlite; name that with --against"
    ):
        verify_report(store, tmp_path / "report")
    assert verify_report(store, tmp_path / "report", against="may").holds
    replace(tmp_path / "report" / "tables" / "against.md", "then", "when")
    assert names(verify_report(store, tmp_path / "report", against="may")) == {"tables/against.md"}


def test_labels_that_only_the_store_tells_do_not_count(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"])  # of a provider without an adapter
    maker.ask("A", ATTACK, [Label("Dog", 0.9)], provider="aws", raw=b"{")  # of one that cannot read this
    write_report(maker.close(), tmp_path / "report")
    first, second = verify_report(maker.path, tmp_path / "report").differences
    assert first.startswith("labels of acme cannot be read from the raw responses: acme: no adapter")
    assert second.startswith("store.sqlite: 1 raw responses of aws cannot be read again; ")


def test_no_report_is_nothing_to_verify(store: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):  # a folder of other things is none either
        with pytest.raises(ApibenchError, match="there is no report;"):
            verify_report(store, folder)


def test_any_file_too_many_is_found(store: Path, report: Path) -> None:
    (report / "figures" / "more.png").parent.mkdir(exist_ok=True)
    (report / "figures" / "more.png").write_bytes(b"x")
    assert names(verify_report(store, report)) == {"figures/more.png"}


def test_an_identical_store_of_another_name_is_the_same(store: Path, report: Path) -> None:
    found = verify_report(store.rename(store.with_name("copy.sqlite")), report)
    assert found.differences == ()
    assert any("named otherwise" in line for line in found.notes)


def test_a_hash_in_the_provenance_is_held_against_the_file(store: Path, report: Path) -> None:
    replace(report / "provenance.json", provenance.sha256(report / "table.csv"), "0" * 64)
    assert names(verify_report(store, report)) == {"table.csv"}


def test_a_line_of_versions_says_nothing_else(store: Path, report: Path) -> None:
    replace(report / "report.md", "; numpy ", "; all is well, numpy ")
    (line,) = verify_report(store, report).differences
    assert line.startswith("report.md, line ")


def test_sections_left_out_have_to_be_as_written(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    shutil.rmtree(store.parent / "sets")
    replace(report / "report.md", "## Noise of the attack", "## Noise of the attack\n\nAnother")
    assert names(verify_report(store, report)) == {"report.md"}


# --- the recipe, the image sets and the page ---


def test_another_recipe_beside_the_store_is_found(store: Path, tmp_path: Path, capsys: Streams) -> None:
    recipe = store.parent / provenance.RUN_RECIPE
    recipe.write_text('name = "mine"\n')
    report = write_report(store, tmp_path / "report").report.parent
    asked = ["report", "--store", str(store), "--out", str(report), "--verify"]
    assert run_command(cli, asked) == 0
    recipe.write_text('name = "yours"\n')
    capsys.readouterr()
    assert run_command(cli, asked) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("differs: provenance.json, recipe: says ")
    recipe.unlink()
    assert run_command(cli, asked) == 0
    assert "provenance.json, recipe: not compared, it is not at hand" in capsys.readouterr().out


def test_another_image_set_beside_the_store_is_found(store: Path, tmp_path: Path, capsys: Streams) -> None:
    folder = store.parent / "sets" / "clean"
    folder.mkdir(parents=True)
    (folder / "set.json").write_text('{"stage": "import"}')
    (folder / "manifest.jsonl").write_text("{}\n")
    report = write_report(store, tmp_path / "report").report.parent
    asked = ["report", "--store", str(store), "--out", str(report), "--verify"]
    assert run_command(cli, asked) == 0
    capsys.readouterr()
    for name, content in (("manifest.jsonl", '{"id": "x"}\n'), ("set.json", '{"stage": "import", "max_side": 9}')):
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        assert run_command(cli, asked) == 3
        assert capsys.readouterr().err == "differs: provenance.json, image_sets: clean at hand is another one\n"
        (folder / name).write_text(before)
    (folder / "manifest.jsonl").unlink()
    assert run_command(cli, asked) == 0
    assert "image_sets: clean is not compared, it is not at hand" in capsys.readouterr().out


@pytest.mark.parametrize("about", [None, {"name": "clean", "manifest_sha256": "0" * 64, "made_by": None}])
def test_an_image_set_that_the_report_does_not_name_or_names_twice(
    about: dict[str, object] | None, store: Path, tmp_path: Path
) -> None:
    folder = store.parent / "sets" / "clean"
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("{}\n")
    report = write_report(store, tmp_path / "report").report.parent
    content = provenance.read(report)
    content["image_sets"] = [] if about is None else [*content["image_sets"], about]
    (report / provenance.NAME).write_text(json.dumps(content))
    (line,) = verify_report(store, report).differences
    expected = "clean at hand is another one" if about is None else "clean is one too many"
    assert line == f"provenance.json, image_sets: {expected}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("What an attack does to", "What no attack does to", "its text: says What no attack does"),
        (
            "0.0, 49.0] 0/4</small>",
            "0.0, 48.0] 0/4</small>",
            "its table under 'The numbers': says …0.0 [0.0, 48.0] 0/4",
        ),
        (
            '<section aria-labelledby="who">',
            '<section aria-labelledby="x">',
            "its text under 'The photographs': says …",
        ),
        ("Under each picture", "Under no picture", "its text under 'The photographs': says …"),
    ],
)
def test_what_differs_in_the_page_is_told(old: str, new: str, told: str, tmp_path: Path, capsys: Streams) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    replace(report / "index.html", old, new)
    assert run_command(cli, ["report", "--store", str(store), "--out", str(report), "--verify"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"differs: index.html: {told}")
    assert "recomputed" in line


def test_another_picture_in_the_page_is_told_as_one(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", images=True)
    report = write_report(store, tmp_path / "report").report.parent
    replace(report / "index.html", "base64,UklGR", "base64,UklGS")
    assert verify_report(store, report).differences == ("index.html: a picture in it is another one",)


def test_names_of_files_come_to_the_terminal_as_text(store: Path, report: Path) -> None:
    (report / "\x1b[2Jmine\x07.png").write_bytes(b"x")
    forge(report)
    found = verify_report(store, report)
    assert found.differences == ("[2Jmine.png: is no file of the report of this store",)
    (report / "provenance.json").write_text("{}")
    assert "\x1b" not in "".join(verify_report(store, report).differences)


def test_what_the_provenance_says_shows_on_a_terminal_as_what_it_is(store: Path, tmp_path: Path) -> None:
    (store.parent / provenance.RUN_RECIPE).write_text('name = "\N{RIGHT-TO-LEFT OVERRIDE}red"\n', encoding="utf-8")
    write_report(store, tmp_path / "report")
    assert (tmp_path / "report" / provenance.NAME).read_bytes().isascii()


@pytest.mark.parametrize("version", ["0.0.0"])
def test_other_versions_of_the_libraries_are_told_and_no_difference(
    store: Path, report: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apibench.report import document

    known: Callable[[str], str] = document.version
    monkeypatch.setattr(document, "version", lambda name: version if name == "numpy" else known(name))
    found = verify_report(store, report)
    assert found.holds
    assert any("made with other versions" in line and "numpy 0.0.0" in line for line in found.notes)
