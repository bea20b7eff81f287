"""``--record`` and ``--replay``, and what a provider on this machine costs: the query stage and its command line."""

from __future__ import annotations

import sqlite3
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from apibench.cli import cli
from apibench.emulator import Answerer, Emulator
from apibench.errors import ApibenchError, ExitCode
from apibench.imageset import ImageSet, SetWriter
from apibench.query import registry, stage
from apibench.query.stage import QuerySettings
from tests.conftest import paint
from tests.emulation import by_colour
from tests.fakes import QUICK


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    writer = SetWriter(tmp_path / "clean", {"stage": "import"})
    for i in range(3):
        writer.write(f"photo{i}", paint(i, 96, 96), variant="clean", label=i, label_source="given")
    finished = writer.finish(f"photo{i}" for i in range(3))
    assert finished is not None
    return finished


@pytest.fixture
def cassette(images: ImageSet, tmp_path: Path) -> Path:
    """Recorded of an emulator, with a throttled request among the answered ones."""
    path = tmp_path / "c.jsonl"
    with Emulator(providers=["aws"], answerer=Answerer(by_colour, "tiny"), faults=["throttle"]) as emulator:
        query = QuerySettings("aws", emulated=True, policy=QUICK, record=path, concurrency=1)
        report = stage.query_images([images], tmp_path / "recorded.sqlite", query, emulator)
    assert (report.answered, report.sent) == (3, 4)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], standalone_mode=False)


def rows(store: Path, of: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store) as connection:
        return connection.execute(f"SELECT {of} ORDER BY 1").fetchall()


def test_a_recording_is_played_by_the_command(cassette: Path, images: ImageSet, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    arguments = ("query", "--provider", "aws", "--images", images.folder, "--store", store, "--replay", cassette)
    dry = invoke(*arguments, "--dry-run")
    assert "3 calls to send (replay of emulated: costs nothing)" in dry.output
    done = invoke(*arguments)
    assert done.return_value is ExitCode.DONE, done.output
    of = "sha256, raw, labels, model_version, settings FROM responses"
    assert rows(store, of) == rows(tmp_path / "recorded.sqlite", of)
    assert rows(store, "DISTINCT provider, origin, price FROM responses") == [("aws", "replay of emulated", 0.0)]
    before = store.read_bytes()
    assert invoke(*arguments).return_value is ExitCode.DONE
    assert store.read_bytes() == before, "nothing is asked twice"
    status = invoke("query", "--store", store, "--status", "--check")
    assert "replay of emulated" in status.output
    assert "sound" in status.output


def test_a_report_says_that_it_was_played(cassette: Path, images: ImageSet, tmp_path: Path) -> None:
    store, out = tmp_path / "s.sqlite", tmp_path / "report"
    stage.query_images([images], store, QuerySettings("aws", replay=cassette, policy=QUICK))
    assert invoke("report", "--store", store, "--out", out).exception is None
    text = (out / "report.md").read_text()
    assert "REPLAYED: played from a recording" in text
    assert "(replay of emulated)" in text


def test_an_image_that_is_not_in_it_is_named(cassette: Path, clean_set: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings("azure", replay=cassette, policy=QUICK)
    with pytest.raises(ApibenchError, match=r"c\.jsonl: nothing recorded of azure"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    larger = SetWriter(tmp_path / "larger", {"stage": "import"})
    larger.write("unknown", paint(9, 96, 96), variant="clean", label=0, label_source="given")
    other = larger.finish(["unknown"])
    assert other is not None
    report = stage.query_images([other], tmp_path / "s.sqlite", QuerySettings("aws", replay=cassette, policy=QUICK))
    assert report.message == f"{cassette}: no reply recorded about unknown (clean)"
    assert (report.sent, report.exit_code) == (0, ExitCode.NOTHING_DONE)


def test_replay_stands_alone(cassette: Path) -> None:
    for other in ({"emulated": True}, {"endpoint": "https://x.example"}, {"record": cassette}):
        with pytest.raises(ApibenchError, match="--replay is what answers"):
            QuerySettings("aws", replay=cassette, **other)  # type: ignore[arg-type]


def test_replaying_needs_no_keys_and_spends_nothing(cassette: Path, images: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings("aws", replay=cassette, policy=QUICK, max_cost=0.001)
    stage.check_access(query)
    assert stage.query_images([images], tmp_path / "s.sqlite", query).answered == 3


def test_an_sdk_that_fails_in_its_making_is_told_without_what_it_holds(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "Planted" + "+Secret/Value~0123.4"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)

    def broken(_: object) -> object:
        raise RuntimeError(f"bad key {secret}")

    monkeypatch.setattr(registry.adapter("aws"), "create", broken)
    with pytest.raises(
        ApibenchError, match=r"aws: no client can be made \(RuntimeError: bad key \[removed\]\)"
    ) as caught:
        stage.query_images([images], tmp_path / "s.sqlite", QuerySettings("aws", policy=QUICK))
    assert caught.value.__suppress_context__


def test_a_classifier_of_this_machine_is_local_and_free(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apibench_adapters import local

    point = EntryPoint("local", "apibench_adapters.local:adapter", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(local, "_canonical", lambda name: f"canonical:{name}")
    monkeypatch.setattr(local, "_load", lambda name: Answerer(by_colour, name))
    query = QuerySettings("local:tiny", policy=QUICK, max_cost=1.0)
    store = tmp_path / "s.sqlite"
    assert "local: costs nothing" in str(stage.plan([images], store, query))
    assert stage.query_images([images], store, query).answered == 3
    assert rows(store, "DISTINCT provider, origin, price, settings FROM responses") == [
        ("local", "local", 0.0, '{"classifier":"canonical:tiny","max_labels":10}')
    ]
    assert stage.query_images([images], store, QuerySettings("local:other", policy=QUICK)).answered == 3
    assert stage.query_images([images], store, query).stored == 3
