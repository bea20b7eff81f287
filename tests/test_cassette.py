"""Record and replay over every wire: the vendors' SDKs, unmodified, ask a recording as they asked the service."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apibench.emulator import Answerer, Emulator
from apibench.errors import ApibenchError
from apibench.imageset import encode_png
from apibench.query import registry
from apibench.query.cassette import Entry, Recorder, read
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Exchange, ProviderOptions, WireKind
from apibench.query.engine import Engine, HaltReason, QueryReport
from apibench.query.replay import Replay, Tape, _Server, heard_before
from apibench.query.result import Question
from apibench.query.store import Key, ResponseStore, canonical
from tests.conftest import paint
from tests.emulation import by_colour
from tests.fakes import QUICK, FakeProvider
from tests.servers import http, http_server

WIRES: dict[str, tuple[str, dict[str, str]]] = {
    "aws": ("aws", {}),
    "azure": ("azure", {}),
    "clarifai": ("clarifai", {}),
    "google": ("google", {}),
    "google over REST": ("google", {"transport": "rest"}),
}
IMAGES = [encode_png(paint(i, 96, 96)) for i in range(3)]
BAD = b"\x89PNG no image"


def ask(questions: list[Question], store: Path, key: Key, provider: Any, **engine: Any) -> QueryReport:
    with ResponseStore.open(store) as opened:
        return Engine(provider, opened, key, **{"policy": QUICK, "concurrency": 1} | engine).run(questions)


def questions_of(*images: bytes) -> list[Question]:
    return [
        Question(hashlib.sha256(data).hexdigest(), f"photo{n}", lambda data=data: data)  # type: ignore[misc]
        for n, data in enumerate(images)
    ]


@contextmanager
def recorded(wire: str, path: Path, faults: list[str]) -> Iterator[tuple[Any, Key]]:
    """A provider whose emulator is recorded, and its key."""
    name, settings = WIRES[wire]
    adapter = registry.adapter(name)
    options = ProviderOptions(emulated=True, timeout=5.0, concurrency=1, settings=settings)
    with (
        Emulator(providers=[name], answerer=Answerer(by_colour, "tiny"), faults=faults) as emulator,
        Recorder(path) as recorder,
    ):
        kind = adapter.wire(options)
        key = Key("default", name, "emulated", canonical({**adapter.settings(options), "emulated_by": "tiny"}))
        provider = adapter.create(replace(options, endpoint=emulator.endpoint(kind), tap=recorder.tap))
        yield recorder.provider(provider, key, kind), key
        provider.close()


@contextmanager
def replayed(
    wire: str, path: Path, names: dict[str, str] | None = None, store: Path | None = None
) -> Iterator[tuple[Any, Key]]:
    name, settings = WIRES[wire]
    adapter = registry.adapter(name)
    options = ProviderOptions(emulated=True, timeout=5.0, concurrency=4, settings=settings)
    tape = Tape.of(path, name, adapter.wire(options), adapter.settings(options))
    with ExitStack() as stack:
        opened = stack.enter_context(ResponseStore.open(store, read_only=True)) if store is not None else None
        heard = heard_before(opened, tape.key("default")) if opened is not None else None
        replay = stack.enter_context(Replay(tape, names, heard))
        provider = replay.provider(adapter.create(replace(options, endpoint=replay.endpoint)))
        stack.callback(provider.close)
        yield provider, tape.key("default")


def rows(store: Path, of: str) -> list[tuple[Any, ...]]:
    with ResponseStore.open(store, read_only=True) as opened:
        return opened._connection.execute(f"SELECT {of} ORDER BY 1, 2, 3").fetchall()


@pytest.mark.parametrize("wire", WIRES)
def test_what_was_recorded_is_played_through_the_same_sdk(wire: str, tmp_path: Path) -> None:
    """Throttled, failing, lost, malformed and refused requests among the answered ones: the stores hold the same."""
    asked = questions_of(*IMAGES, BAD)
    faults = ["throttle", "500", "ok", "drop", "ok", "malformed", "ok", "ok"]
    with recorded(wire, tmp_path / "c.jsonl", faults) as (provider, key):
        first = ask(asked, tmp_path / "first.sqlite", key, provider)
    assert (first.answered, len(first.rejected), first.sent) == (3, 1, 8)
    with replayed(wire, tmp_path / "c.jsonl") as (provider, key):
        assert key.origin == "replay of emulated"
        again = ask(asked, tmp_path / "again.sqlite", key, provider, concurrency=4)
    assert (again.answered, again.sent, len(again.rejected), again.uncertain) == (3, 8, 1, first.uncertain)
    for of in (
        "sha256, raw, labels, model_version, settings FROM responses",
        "sha256, outcome, error_kind, error_code, http_status, raw FROM attempts",
        "sha256, request_id, 0 FROM responses",
        "DISTINCT provider, campaign, settings FROM attempts",
    ):
        assert rows(tmp_path / "again.sqlite", of) == rows(tmp_path / "first.sqlite", of)


@pytest.mark.parametrize("wire", ["clarifai", "google", "google over REST"])
def test_a_batch_is_one_entry_and_played_as_one(wire: str, tmp_path: Path) -> None:
    asked = questions_of(*IMAGES)
    with recorded(wire, tmp_path / "c.jsonl", ["500"]) as (provider, key):
        assert ask(asked, tmp_path / "first.sqlite", key, provider, batch=3).sent == 2
    assert [len(entry.images) for entry in read(tmp_path / "c.jsonl")] == [3, 3]
    with replayed(wire, tmp_path / "c.jsonl") as (provider, key):
        report = ask(asked, tmp_path / "again.sqlite", key, provider, batch=3)
        assert (report.answered, report.sent) == (3, 2)
        alone = ask(asked, tmp_path / "alone.sqlite", key, provider)
    assert (alone.halted, alone.answered) == (HaltReason.QUOTA, 0)
    assert "no reply recorded about image" in alone.message
    assert "(it was asked about with others; give the --batch that was recorded)" in alone.message
    of = "sha256, raw, labels FROM responses"
    assert rows(tmp_path / "again.sqlite", of) == rows(tmp_path / "first.sqlite", of)


@pytest.mark.parametrize(("wire", "batch"), [("aws", 1), ("google", 3)])
def test_a_recording_of_a_start_that_failed_and_one_that_did_not_is_played_to_its_end(
    wire: str, batch: int, tmp_path: Path
) -> None:
    """Start by start, as it was recorded: what a store has heard is not said to it again."""
    asked = questions_of(*IMAGES)
    for faults, answered in ((["expired"], 0), (["500"], 3)):
        with recorded(wire, tmp_path / "c.jsonl", faults) as (provider, key):
            assert ask(asked, tmp_path / "first.sqlite", key, provider, batch=batch).answered == answered
    ResponseStore.open(tmp_path / "again.sqlite").close()
    for halted, answered in ((HaltReason.CREDENTIALS, 0), (None, 3)):
        with replayed(wire, tmp_path / "c.jsonl", store=tmp_path / "again.sqlite") as (provider, key):
            report = ask(asked, tmp_path / "again.sqlite", key, provider, batch=batch)
            assert (report.halted, report.answered) == (halted, answered)
    of = "sha256, outcome, error_kind FROM attempts"
    assert rows(tmp_path / "again.sqlite", of) == rows(tmp_path / "first.sqlite", of)


def test_a_reply_that_a_killed_start_may_have_heard_is_played_once_more(tmp_path: Path) -> None:
    asked = questions_of(*IMAGES)
    with recorded("aws", tmp_path / "c.jsonl", []) as (provider, key):
        ask(asked, tmp_path / "first.sqlite", key, provider)
    with replayed("aws", tmp_path / "c.jsonl") as (_, key), ResponseStore.open(tmp_path / "again.sqlite") as store:
        store.begin(key, [asked[0].sha256], price=0.0, cap=None)
    with replayed("aws", tmp_path / "c.jsonl", store=tmp_path / "again.sqlite") as (provider, key):
        assert ask(asked, tmp_path / "again.sqlite", key, provider).answered == 3


def test_an_image_that_was_not_recorded_is_named_with_the_cassette(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recorded("aws", path, []) as (provider, key):
        ask(questions_of(IMAGES[0]), tmp_path / "first.sqlite", key, provider)
    asked = questions_of(*IMAGES)
    names = {question.sha256: question.name for question in asked}
    with replayed("aws", path, names) as (provider, key):
        assert provider._replay.missing(names) == ["photo1", "photo2"]
        report = ask(asked, tmp_path / "again.sqlite", key, provider)
    assert (report.answered, report.sent, report.halted) == (1, 1, HaltReason.QUOTA)
    hint = "2 of 3 images are not in it; --record adds them"
    assert report.message == f"{path}: no reply recorded about photo1 ({hint})"
    with replayed("aws", path, names) as (provider, key):
        ask(asked[:1], tmp_path / "third.sqlite", key, provider)
        report = ask(asked[:1], tmp_path / "fourth.sqlite", key, provider)
    assert report.message.startswith(f"{path}: no further reply recorded about photo0 (2 of 3 images")
    with replayed("aws", path, {asked[0].sha256: "photo0"}) as (provider, key):
        ask(asked[:1], tmp_path / "fifth.sqlite", key, provider)
        report = ask(asked[:1], tmp_path / "sixth.sqlite", key, provider)
    assert report.message.endswith("photo0 (it is played already; every reply is played once a start)")


def test_other_settings_another_wire_or_another_provider_are_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recorded("google", path, []) as (provider, key):
        ask(questions_of(IMAGES[0]), tmp_path / "s.sqlite", key, provider)
    for name, wire, settings in (
        ("google", WireKind.GRPC, {"maxResults": 11, "model": ""}),
        ("google", WireKind.HTTP, {"maxResults": 10, "model": ""}),
        ("aws", WireKind.HTTP, {}),
    ):
        with pytest.raises(ApibenchError, match=r"c\.jsonl: nothing recorded of .*\n.*google over grpc with"):
            Tape.of(path, name, wire, settings)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ApibenchError, match="it holds nothing at all"):
        Tape.of(tmp_path / "empty.jsonl", "aws", WireKind.HTTP, {})
    with pytest.raises(ApibenchError, match=r"none\.jsonl: cannot be read"):
        Tape.of(tmp_path / "none.jsonl", "aws", WireKind.HTTP, {})


@pytest.mark.parametrize("wire", ["aws", "clarifai", "google over REST"])
def test_several_are_played_at_a_time_and_each_has_its_own(
    wire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.jsonl"
    with recorded(wire, path, []) as (provider, key):
        ask(questions_of(*IMAGES), tmp_path / "first.sqlite", key, provider)
    together = threading.Barrier(3)
    answer = _Server._answer

    def all_at_once(self: _Server, request: Any) -> Any:
        together.wait(20)  # breaks, and fails, unless all three are on their way
        return answer(self, request)

    monkeypatch.setattr(_Server, "_answer", all_at_once)
    with replayed(wire, path) as (provider, key):
        report = ask(questions_of(*reversed(IMAGES)), tmp_path / "again.sqlite", key, provider, concurrency=3)
    assert (report.answered, report.sent) == (3, 3)
    of = "sha256, raw, labels FROM responses"
    assert rows(tmp_path / "again.sqlite", of) == rows(tmp_path / "first.sqlite", of)


def test_requests_that_share_an_image_wait_for_each_other() -> None:
    server, order = _Server(WireKind.HTTP), list[str]()
    first_is_in, go = threading.Event(), threading.Event()

    def ask_about(name: str, *images: bytes) -> None:
        with server.expecting(list(images)):
            order.append(f"{name} in")
            first_is_in.set()
            if name == "first":
                go.wait(10)
            order.append(f"{name} out")

    threads = [threading.Thread(target=ask_about, args=("first", b"a", b"b"))]
    threads[0].start()
    first_is_in.wait(10)
    threads += [threading.Thread(target=ask_about, args=given) for given in (("other", b"c"), ("same", b"b"))]
    for thread in threads[1:]:
        thread.start()
    threads[1].join(10)
    threads[2].join(0.2)
    assert order == ["first in", "other in", "other out"]
    go.set()
    for thread in threads:
        thread.join(10)
    assert order[3:] == ["first out", "same in", "same out"]


@pytest.mark.parametrize("status", [520, 599, 429, 299])
def test_a_vendors_own_status_is_played_as_it_was(status: int, tmp_path: Path) -> None:
    reply = Exchange(WireKind.HTTP, "/DetectLabels", status, {"content-type": "text/plain"}, b"own")
    sha256 = hashlib.sha256(IMAGES[0]).hexdigest()
    settings = dict(registry.adapter("aws").settings(ProviderOptions()))
    path = tmp_path / "c.jsonl"
    path.write_text(entry(exchange=reply, images=(sha256,), settings=settings).line() + "\n")
    with replayed("aws", path) as (provider, _):
        (outcome,) = provider.label([EncodedImage(IMAGES[0], sha256)])
    assert outcome.status == status


def test_a_request_without_the_image_gets_no_answer(tmp_path: Path) -> None:
    """An SDK that changed what it sends must not be told what was said of something else."""
    path = tmp_path / "c.jsonl"
    with recorded("azure", path, []) as (provider, key):
        ask(questions_of(IMAGES[0]), tmp_path / "s.sqlite", key, provider)
    with replayed("azure", path) as (provider, _):
        inner = provider._inner
        send = inner.label
        inner.label = lambda images: send([EncodedImage(IMAGES[1], image.sha256) for image in images])
        (outcome,) = provider.label([EncodedImage(IMAGES[0], hashlib.sha256(IMAGES[0]).hexdigest())])
    assert not isinstance(outcome, Answer)
    assert outcome.kind is ErrorKind.TRANSIENT


def test_playing_uses_no_real_key_and_no_endpoint_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.jsonl"
    with recorded("aws", path, []) as (provider, key):
        ask(questions_of(IMAGES[0]), tmp_path / "s.sqlite", key, provider)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "REAL" * 4)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.invalid")
    seen: list[str] = []
    answer = _Server._answer
    monkeypatch.setattr(
        _Server, "_answer", lambda self, request: (seen.append(str(request.headers)), answer(self, request))[1]
    )
    with replayed("aws", path) as (provider, key):
        assert provider.host == "127.0.0.1"
        assert ask(questions_of(IMAGES[0]), tmp_path / "t.sqlite", key, provider).answered == 1
    assert len(seen) == 1
    assert "Credential=EMULATED" in seen[0]
    assert "AKIAREAL" not in seen[0]


# --- the file ---


def test_a_cassette_is_canonical_and_holds_neither_images_nor_times(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recorded("aws", path, ["throttle"]) as (provider, key):
        ask(questions_of(IMAGES[0]), tmp_path / "s.sqlite", key, provider)
    lines = path.read_text().splitlines()
    assert [canonical(json.loads(line)) for line in lines] == lines
    throttled, answered = map(json.loads, lines)
    assert set(answered) == {
        *("cassette", "campaign", "provider", "origin", "settings", "wire", "images", "request"),
        *("method", "status", "headers", "text"),
    }
    assert set(answered["headers"]) <= {"content-type", "x-amzn-requestid"}
    assert (throttled["status"], answered["status"]) == (400, 200)
    assert throttled["request"] == answered["request"]
    assert base64.b64encode(IMAGES[0])[:40].decode() not in path.read_text()


def test_recording_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recorded("aws", path, []) as (provider, key):
        ask(questions_of(*IMAGES[:2]), tmp_path / "s.sqlite", key, provider)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])  # a crash within the second line
    assert len(read(path)) == 1
    with recorded("aws", path, []) as (provider, key):
        ask(questions_of(IMAGES[2]), tmp_path / "s.sqlite", key, provider)
    first, second = read(path)
    assert first.line().encode() == whole.splitlines()[0]
    assert second.images == (hashlib.sha256(IMAGES[2]).hexdigest(),)


def entry(**changed: Any) -> Entry:
    reply = Exchange(WireKind.HTTP, "/DetectLabels", 200, {"content-type": "application/json"}, b"{}")
    return dataclasses.replace(Entry("aws", "live", {"MaxLabels": 10}, WireKind.HTTP, ("a" * 64,), reply), **changed)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.replace("a" * 64, "b" * 64),
        lambda line: line.replace('"cassette":1', '"cassette":2'),
        lambda line: line.replace('"wire":"http"', '"wire":"smoke"'),
        lambda line: line.replace('"status":200', '"status":"two"'),
        lambda line: line.replace('"status":200', '"status":1e999'),
        lambda line: "[1]",
        lambda line: "no JSON",
        lambda line: "",
    ],
)
def test_a_spoilt_line_is_named(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(entry().line() + "\n" + spoil(entry().line()) + "\n")
    with pytest.raises(ApibenchError, match=r"c\.jsonl, line 2: not an entry of a recording") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ApibenchError):
        Recorder(path)


def test_entries_of_every_kind_read_as_they_were_written(tmp_path: Path) -> None:
    rpc = Exchange(WireKind.GRPC, "/s/M", 0, {}, b"", ("UNAVAILABLE", "later", b"\x00\xff"))
    message = Exchange(WireKind.GRPC, "/s/M", 0, {}, b"\x08\x01\xff")
    binary = Exchange(WireKind.HTTP, "/x", 200, {}, b"\xff\xfe")
    kinds = [
        entry(),
        entry(exchange=rpc, wire=WireKind.GRPC),
        entry(exchange=message, wire=WireKind.GRPC, sent=("c" * 64,)),
        entry(exchange=binary),
        entry(exchange=None, lost="dropped\u2028by \ud83d"),
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(one.line() + "\n" for one in kinds))
    again = read(path)
    assert [one.line() for one in again] == [one.line() for one in kinds]
    assert [one.exchange for one in again] == [one.exchange for one in kinds]


def test_several_measurements_in_one_file_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(entry().line() + "\n" + entry(origin="custom").line() + "\n")
    with pytest.raises(ApibenchError, match=r"c\.jsonl: more than one measurement of aws"):
        Tape.of(path, "aws", WireKind.HTTP, {"MaxLabels": 10})
    path.write_text(entry().line() + "\n")
    provider = registry.adapter("aws").create(ProviderOptions(endpoint="http://127.0.0.1:1", emulated=True))
    with Recorder(path) as recorder, pytest.raises(ApibenchError, match="holds answers of origin live"):
        recorder.provider(provider, Key("default", "aws", "emulated", "{}"), WireKind.HTTP)
    provider.close()


def test_a_cassette_is_of_one_campaign(tmp_path: Path) -> None:
    """Two would be one request asked twice, of which the first answer is played for both."""
    path = tmp_path / "c.jsonl"
    old, may, june = entry(), entry(campaign="may"), entry(campaign="june")
    path.write_text(old.line() + "\n" + may.line() + "\n")
    assert [one.campaign for one in read(path)] == ["", "may"]
    provider = registry.adapter("aws").create(ProviderOptions(endpoint="http://127.0.0.1:1", emulated=True))
    with Recorder(path) as recorder:
        recorder.provider(provider, Key("may", "aws", "live", "{}"), WireKind.HTTP)
        with pytest.raises(ApibenchError, match="holds campaign may; record june into a file of its own"):
            recorder.provider(provider, Key("june", "aws", "live", "{}"), WireKind.HTTP)
    provider.close()
    assert len(Tape.of(path, "aws", WireKind.HTTP, {"MaxLabels": 10}).entries) == 2
    path.write_text(may.line() + "\n" + june.line() + "\n")
    with pytest.raises(ApibenchError, match=r"more than one campaign of aws is recorded \(june, may\)"):
        Tape.of(path, "aws", WireKind.HTTP, {"MaxLabels": 10})


def test_a_replay_of_a_replay_is_one(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(entry(origin="replay of live").line() + "\n")
    assert Tape.of(path, "aws", WireKind.HTTP, {"MaxLabels": 10}).origin == "replay of live"


def test_a_refused_connection_is_not_recorded(tmp_path: Path) -> None:
    options = ProviderOptions(endpoint="http://127.0.0.1:1", emulated=True, timeout=2.0)
    key = Key("default", "aws", "emulated", "{}")
    with Recorder(tmp_path / "c.jsonl") as recorder:
        provider = registry.adapter("aws").create(replace(options, tap=recorder.tap))
        recorder.provider(provider, key, WireKind.HTTP).label([EncodedImage(IMAGES[0], "0" * 64)])
        provider.close()
    assert not (tmp_path / "c.jsonl").exists(), "where nothing was said there is no file"
    (tmp_path / "c.jsonl").touch()
    Recorder(tmp_path / "c.jsonl").close()
    assert (tmp_path / "c.jsonl").exists(), "unless there was one before"


def test_an_adapter_that_does_not_tell_what_it_hears_cannot_be_recorded(tmp_path: Path) -> None:
    with Recorder(tmp_path / "c.jsonl") as recorder, pytest.raises(ApibenchError, match="does not tell"):
        recorder.provider(FakeProvider(), Key("default", "fake", "custom", "{}"), WireKind.HTTP)


def test_a_full_disk_loses_no_answer_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded("azure", tmp_path / "c.jsonl", []) as (provider, key):

        class Full:
            def write(self, _: bytes) -> int:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(provider._recorder, "_file", Full())
        monkeypatch.setattr(Recorder, "close", lambda self: None)
        report = ask(questions_of(*IMAGES), tmp_path / "s.sqlite", key, provider)
    assert (report.answered, report.sent, report.halted) == (1, 1, HaltReason.QUOTA)
    assert "c.jsonl: cannot be written: No space left" in report.message


def test_a_key_that_a_reply_repeats_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an error as of an answer: the known key of this process, in headers and bodies."""
    secret = "Sy" + "nthetic-Key.0123456789"
    monkeypatch.setenv("VISION_KEY", secret)
    bodies = [
        (401, json.dumps({"error": {"code": "401", "message": f"no such key: {secret}"}}).encode()),
        (200, json.dumps({"tags": [{"name": secret, "confidence": 0.5}], "requestId": secret}).encode()),
    ]
    for status, body in bodies:
        path = tmp_path / f"{status}.jsonl"
        with (
            http_server(http(f"{status} X", body, f"apim-request-id: {secret}\r\n")) as (url, _),
            Recorder(path) as recorder,
        ):
            adapter = registry.adapter("azure")
            provider = adapter.create(ProviderOptions(endpoint=url, emulated=True, tap=recorder.tap))
            key = Key("default", "azure", "emulated", canonical(dict(provider.settings)))
            (outcome,) = recorder.provider(provider, key, WireKind.HTTP).label([EncodedImage(b"x", "0" * 64)])
            provider.close()
        assert secret.encode() not in path.read_bytes()
        assert secret not in repr(outcome)
        assert path.read_bytes().count(b"\n") == 1
