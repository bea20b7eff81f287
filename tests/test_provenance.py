"""What a report says of where it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apibench.report import provenance, write_report
from tests.reportmaker import make_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "run")


@pytest.fixture
def report(store: Path, tmp_path: Path) -> Path:
    return write_report(store, tmp_path / "report").report.parent


def test_provenance_names_store_rule_seed_and_every_file_and_no_folder_of_this_machine(
    store: Path, report: Path
) -> None:
    text = (report / provenance.NAME).read_text()
    found = json.loads(text)
    answers = found["store"].pop("answers_sha256")
    assert found["store"] == {"name": "store.sqlite", "sha256": provenance.sha256(store)}
    assert len(answers) == 64
    assert found["report"] == {"campaign": None, "campaigns": ["default"]}
    assert found["bootstrap"]["seed"] is not None
    assert found["label_rule"]
    assert found["versions"]["numpy"]
    assert set(found["files"]) == {
        path.relative_to(report).as_posix()
        for path in report.rglob("*")
        if path.is_file() and path.name != provenance.NAME
    }
    assert all(provenance.sha256(report / name) == digest for name, digest in found["files"].items())
    assert str(store.parent) not in text
    assert str(Path.home()) not in text


def test_the_same_store_gives_the_same_bytes(store: Path, report: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    shutil.copy(store, copied)
    write_report(copied / store.name, copied / "report")
    assert (copied / "report" / provenance.NAME).read_bytes() == (report / provenance.NAME).read_bytes()


def test_a_store_is_hashed_once_for_a_report(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may have gigabytes, and may be written to between two looks."""
    hashed: list[Path] = []
    real = provenance.sha256
    monkeypatch.setattr(provenance, "sha256", lambda path: (hashed.append(path), real(path))[1])  # type: ignore[func-returns-value]
    write_report(store, tmp_path / "report")
    assert hashed.count(store) == 1


def test_the_recipe_of_the_run_is_in_it_without_folders(store: Path, tmp_path: Path) -> None:
    recipe = store.parent / provenance.RUN_RECIPE
    recipe.write_text('name = "mine"\n[images]\nsource = "/home/somebody/photos"\n[generate]\nseed = 7\n')
    write_report(store, tmp_path / "report")
    found = provenance.read(tmp_path / "report")["recipe"]
    assert found["sha256"] == provenance.sha256(recipe)
    assert found["content"] == {"name": "mine", "images": {"source": "…/photos"}, "generate": {"seed": 7}}


def test_image_sets_at_hand_are_named_by_their_manifest(store: Path, tmp_path: Path) -> None:
    folder = store.parent / "sets" / "clean"
    folder.mkdir(parents=True)
    (folder / "set.json").write_text('{"stage": "import", "max_side": 64}')
    (folder / "manifest.jsonl").write_text("{}\n")
    write_report(store, tmp_path / "report")
    (found,) = provenance.read(tmp_path / "report")["image_sets"]
    assert found["name"] == "clean"
    assert found["made_by"] == {"stage": "import", "max_side": 64}
    assert found["manifest_sha256"] == provenance.sha256(folder / "manifest.jsonl")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("file:resnet18=/home/somebody/my.pth?mean=0.5", "file:resnet18=…/my.pth?mean=0.5"),
        ("/home/somebody/photos", "…/photos"),
        ("~/photos/cats", "…/cats"),
        ("C:\\Users\\somebody\\cats", "…/cats"),
        ("cannot read '/tmp/x/y.png'", "cannot read '…/y.png'"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("pypi:foolbox", "pypi:foolbox"),
        ("data/photos", "data/photos"),
    ],
)
def test_a_path_loses_its_folders_and_nothing_else_does(text: str, plain: str) -> None:
    assert provenance.without_folders({"a": [text]}) == {"a": [plain]}
