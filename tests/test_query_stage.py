"""The query stage: what it needs before anything is sent, and a store that something went wrong with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apibench import run as runs
from apibench.errors import ApibenchError, ExitCode
from apibench.imageset import ImageSet
from apibench.query import registry, stage
from apibench.query.contract import EncodedImage, ErrorKind, Outcome
from apibench.query.stage import QuerySettings
from apibench.query.store import SCHEMA
from tests.fakes import QUICK, FakeAdapter, FakeProvider, answer, error

QUERY = QuerySettings("fake", policy=QUICK, prices=None)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """A provider behind the stage, instead of one with an SDK."""
    made = FakeProvider()

    @contextmanager
    def connect(*_: object) -> Iterator[FakeProvider]:
        yield made

    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(stage, "_connect", connect)
    return made


def test_an_answered_set_needs_nobody(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.sqlite"
    assert stage.query_images([clean_set], store, QUERY).answered == 5
    before = store.read_bytes()
    monkeypatch.setattr(stage, "_connect", lambda *_: pytest.fail("connected"))
    assert stage.query_images([clean_set], store, QUERY).stored == 5
    assert store.read_bytes() == before, "not even opened for writing"
    assert str(stage.plan([clean_set], store, QUERY)).startswith("fake: 5 images, 5 stored, 0 calls")

    moved = ImageSet(clean_set.folder.rename(tmp_path / "moved"), clean_set.records)
    assert stage.query_images([moved], store, QUERY).stored == 5
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT DISTINCT folder FROM images").fetchall() == [("moved",)]


def test_a_set_that_holds_an_image_twice_is_answered_once(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    twin = dataclasses.replace(clean_set.records[0], id="twin", file="photo0.png")
    twice = ImageSet(clean_set.folder, [*clean_set.records, twin])
    stage.query_images([twice], tmp_path / "s.sqlite", QUERY)
    assert provider.hits == 5
    monkeypatch.setattr(stage, "_connect", lambda *_: pytest.fail("connected"))
    assert stage.query_images([twice], tmp_path / "s.sqlite", QUERY).stored == 5


@pytest.mark.parametrize("harm", ["empty", "hot journal"])
def test_a_store_cut_off_in_its_making_is_made_again(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, harm: str
) -> None:
    store = tmp_path / "s.sqlite"
    if harm == "empty":
        store.touch()
    else:
        import subprocess
        import sys

        code = (
            "import sqlite3, os, sys\n"
            "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
            "for statement in sys.argv[2].split(';')[:3]: c.execute(statement)\n"
            "c.execute('CREATE TABLE filler (x)')\n"
            "c.executemany('INSERT INTO filler VALUES (?)', [(b'x' * 4000,)] * 50)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(store), SCHEMA], check=False)
        assert store.with_name("s.sqlite-journal").stat().st_size > 0
    assert stage.plan([clean_set], store, QUERY).calls == 5 if harm == "empty" else True
    assert stage.query_images([clean_set], store, QUERY).answered == 5


def test_without_credentials_not_even_a_store_is_made(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoKeys(FakeAdapter):
        def create(self, options: object) -> FakeProvider:
            raise error(ErrorKind.CREDENTIALS)

    monkeypatch.setattr(registry, "adapter", lambda name: NoKeys())
    with pytest.raises(ApibenchError, match="fake: scripted credentials"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", QUERY)
    assert not list(tmp_path.glob("s.sqlite*"))


def test_two_endpoints_of_ones_own_are_two_providers(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    for endpoint in ("https://a.example", "https://b.example", "https://b.example:8443", "https://b.example/eu"):
        provider.host = endpoint.removeprefix("https://").partition("/")[0].partition(":")[0]
        query = QuerySettings("fake", endpoint=endpoint, policy=QUICK)
        assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).answered == 5
        assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).stored == 5
    assert provider.hits == 20


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: ImageSet) -> runs.RunResult:
    from apibench.recipe import Recipe

    monkeypatch.setattr(runs, "providers", lambda recipe: (["fake"], []))
    monkeypatch.setattr(runs, "query_settings", lambda recipe, name: QUERY)
    result = runs.RunResult(tmp_path / "s.sqlite")
    runs.ask(Recipe(name="x"), [images], lambda text: None, result)
    return result


def test_a_run_ends_with_the_code_a_query_ends_with(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = clean_set.records[2].sha256

    def script(hit: int, image: EncodedImage) -> Outcome:
        return error(ErrorKind.REJECTED) if image.sha256 == bad else answer()

    provider._script = script
    assert asked(monkeypatch, tmp_path, clean_set).exit_code is ExitCode.SOME_FAILED
    again = asked(monkeypatch, tmp_path, clean_set)
    assert again.exit_code is ExitCode.SOME_FAILED, "an image refused before is still without an answer"
    assert "photo2" in again.problems[0]


def test_a_run_whose_keys_are_refused_has_done_nothing(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider._script = lambda hit, image: error(ErrorKind.CREDENTIALS)
    result = asked(monkeypatch, tmp_path, clean_set)
    assert result.exit_code is ExitCode.NOTHING_DONE
    assert result.problems == ["fake: scripted credentials"]


@pytest.mark.parametrize("wrong", [{"timeout": float("nan")}, {"per_second": float("inf")}, {"timeout": -1.0}])
def test_numbers_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ApibenchError, match="must be a number above 0"):
        QuerySettings("fake", **wrong)  # type: ignore[arg-type]
