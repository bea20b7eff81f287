"""``--record`` and ``--replay``, and what a provider on this machine costs: the query stage and its command line."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from apibench import run as runs
from apibench.cli import cli
from apibench.emulator import Answerer, Emulator
from apibench.errors import ApibenchError, ExitCode
from apibench.imageset import ImageSet, SetWriter
from apibench.query import registry, stage
from apibench.query.contract import WireKind
from apibench.query.engine import HaltReason
from apibench.query.stage import QuerySettings
from apibench.recipe import Recipe
from tests.conftest import paint
from tests.emulation import by_colour
from tests.fakes import QUICK, FakeAdapter, FakeProvider


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
    assert "3 calls to send (replay of emulated: costs nothing)" in done.output
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


def test_a_recording_whose_first_start_failed_is_played_start_by_start(images: ImageSet, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    for fault in ("expired", "ok"):
        with Emulator(providers=["aws"], answerer=Answerer(by_colour, "tiny"), faults=[fault]) as emulator:
            query = QuerySettings("aws", emulated=True, policy=QUICK, record=tmp_path / "c.jsonl", concurrency=1)
            stage.query_images([images], tmp_path / "recorded.sqlite", query, emulator)
    played = QuerySettings("aws", policy=QUICK, replay=tmp_path / "c.jsonl", concurrency=1)
    first, second = (stage.query_images([images], store, played) for _ in range(2))
    assert (first.halted, first.answered) == (HaltReason.CREDENTIALS, 0)
    assert (second.halted, second.answered) == (None, 3)


def test_an_image_that_is_not_in_it_is_named(cassette: Path, clean_set: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings("azure", replay=cassette, policy=QUICK)
    with pytest.raises(ApibenchError, match=r"c\.jsonl: nothing recorded of azure"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    larger = SetWriter(tmp_path / "larger", {"stage": "import"})
    larger.write("unknown", paint(9, 96, 96), variant="clean", label=0, label_source="given")
    other = larger.finish(["unknown"])
    assert other is not None
    report = stage.query_images([other], tmp_path / "s.sqlite", QuerySettings("aws", replay=cassette, policy=QUICK))
    hint = "1 of 1 images are not in it; --record adds them"
    assert report.message == f"{cassette}: no reply recorded about unknown (clean) ({hint})"
    assert (report.sent, report.exit_code) == (0, ExitCode.NOTHING_DONE)


def test_replay_stands_alone(cassette: Path) -> None:
    for other in ({"emulated": True}, {"endpoint": "https://x.example"}, {"record": cassette}):
        with pytest.raises(ApibenchError, match="--replay is what answers"):
            QuerySettings("aws", replay=cassette, **other)  # type: ignore[arg-type]


def test_replaying_needs_no_keys_and_spends_nothing(cassette: Path, images: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings("aws", replay=cassette, policy=QUICK, max_cost=0.001)
    stage.check_access(query)
    assert stage.query_images([images], tmp_path / "s.sqlite", query).answered == 3


def test_an_adapter_that_ignores_its_endpoint_cannot_answer_for_a_recording(
    cassette: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws, made = registry.adapter("aws"), FakeProvider()

    class Ignoring(FakeAdapter):
        info = aws.info
        settings = staticmethod(aws.settings)

        def create(self, options: object) -> FakeProvider:
            return made

    monkeypatch.setattr(registry, "adapter", lambda name: Ignoring())
    with pytest.raises(
        ApibenchError, match=r"aws: replayed calls go to a recording on this machine, and not to fake\.exa"
    ):
        stage.query_images([images], tmp_path / "s.sqlite", QuerySettings("aws", replay=cassette, policy=QUICK))
    assert (made.hits, list(tmp_path.glob("s.sqlite*"))) == (0, [])


def test_another_campaign_is_recorded_into_a_file_of_its_own(cassette: Path, images: ImageSet, tmp_path: Path) -> None:
    with Emulator(providers=["aws"], answerer=Answerer(by_colour, "tiny")) as emulator:
        query = QuerySettings("aws", emulated=True, policy=QUICK, record=cassette, campaign="june")
        with pytest.raises(ApibenchError, match="holds campaign default; record june into a file of its own"):
            stage.query_images([images], tmp_path / "recorded.sqlite", query, emulator)
        assert emulator.hits.total() == 0


def test_without_credentials_no_empty_recording_is_left(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLARIFAI_PAT", raising=False)
    record = tmp_path / "c.jsonl"
    with pytest.raises(ApibenchError, match="CLARIFAI_PAT"):
        stage.query_images([images], tmp_path / "s.sqlite", QuerySettings("clarifai", policy=QUICK, record=record))
    assert not record.exists()


def test_a_recipe_records_and_replays(images: ImageSet, cassette: Path, tmp_path: Path) -> None:
    section = {"providers": ["aws"], "replay": str(cassette)}
    query = runs.query_settings(Recipe.model_validate({"name": "x", "query": section}), "aws")
    assert (query.replay, query.record, query.pretended) == (cassette, None, True)
    assert stage.query_images([images], tmp_path / "s.sqlite", query).answered == 3
    section = {"providers": ["aws"], "emulated": True, "record": str(tmp_path / "new.jsonl")}
    recipe = Recipe.model_validate({"name": "x", "query": section})
    assert runs.query_settings(recipe, "aws").record == tmp_path / "new.jsonl"
    both = Recipe.model_validate({"name": "x", "query": section | {"replay": str(cassette)}})
    with pytest.raises(ApibenchError, match="--replay is what answers"):
        runs.query_settings(both, "aws")


# --- an emulator that runs already ---


@pytest.mark.parametrize(
    ("provider", "settings", "kind"),
    [
        ("google", {}, WireKind.HTTP),
        ("clarifai", {}, WireKind.HTTP),
        ("aws", {}, WireKind.GRPC),
        ("google", {"transport": "rest"}, WireKind.GRPC),
    ],
)
def test_the_other_port_of_an_emulator_is_told_apart_before_anything_is_sent(
    provider: str, settings: dict[str, str], kind: WireKind, images: ImageSet, tmp_path: Path
) -> None:
    with Emulator(providers=["aws", "clarifai", "google"], answerer=Answerer(by_colour, "tiny")) as emulator:
        endpoint = emulator.endpoint(kind)
        query = QuerySettings(provider, emulated=True, endpoint=endpoint, policy=QUICK, settings=settings)
        with pytest.raises(
            ApibenchError, match=f"--endpoint {endpoint}: .* is spoken there, and {provider} is"
        ) as told:
            stage.query_images([images], tmp_path / "s.sqlite", query)
        assert ("transport=rest" in str(told.value)) == (provider == "google" and not settings)
        right = replace(query, endpoint=emulator.endpoint(registry.adapter(provider).wire(query.options())))
        assert not (tmp_path / "s.sqlite").exists()
        assert stage.query_images([images], tmp_path / "s.sqlite", right).answered == 3
        assert emulator.hits.total() == 3, "whoever asked what is spoken is not counted"


@pytest.mark.parametrize("provider", ["aws", "google"])
def test_a_dead_endpoint_is_told_to_start_an_emulator(provider: str, images: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings(provider, emulated=True, endpoint="http://127.0.0.1:1", policy=QUICK)
    with pytest.raises(ApibenchError, match=r"127\.0\.0\.1:1: no emulator is there .*start `apibench emulate`"):
        stage.query_images([images], tmp_path / "s.sqlite", query)
    assert not (tmp_path / "s.sqlite").exists()


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
