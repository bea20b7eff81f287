"""Every wire whole: engine, adapter, the vendor's real SDK, real sockets, emulator. Hits are what the policy says, no more."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apibench import metrics
from apibench.emulator import Answerer, Emulator, vendors
from apibench.emulator.answerer import Pixels, Probabilities
from apibench.errors import ExitCode
from apibench.imageset import encode_png
from apibench.query import registry
from apibench.query.contract import EncodedImage, ErrorKind, ProviderError, ProviderOptions, WireKind
from apibench.query.engine import Engine, HaltReason, QueryReport, Question
from apibench.query.store import Key, ResponseStore
from tests.conftest import paint
from tests.emulation import encode
from tests.fakes import QUICK
from tests.servers import http_server

WIRES: dict[str, tuple[str, dict[str, str]]] = {
    "aws": ("aws", {}),
    "azure": ("azure", {}),
    "clarifai": ("clarifai", {}),
    "google": ("google", {}),
    "google over REST": ("google", {"transport": "rest"}),
}
FIRST = {
    "aws": "Golden Retriever",
    "azure": "golden retriever",
    "clarifai": "golden retriever",
    "google": "Golden retriever",
    "google over REST": "Golden retriever",
}
RETRIEVER = 207
GOOD = encode_png(paint(1, 96, 96))


def retriever(_: Pixels) -> Probabilities:
    found = np.full(1000, 0.1 / 999)
    found[RETRIEVER] = 0.9
    return found


class Asked:
    """One query of one wire: the emulator behind it, its store, and what became of it."""

    def __init__(self, wire: str, folder: Path, **emulator: Any) -> None:
        self.provider, self.settings = WIRES[wire]
        self.emulator = Emulator(providers=[self.provider], answerer=Answerer(retriever, "tiny"), **emulator).start()
        self.path = folder / "s.sqlite"
        self.key = Key("default", self.provider, "emulated", "{}")

    def about(self, *images: bytes, timeout: float = 5.0, **engine: Any) -> QueryReport:
        adapter = registry.adapter(self.provider)
        options = ProviderOptions(emulated=True, timeout=timeout, concurrency=1, settings=self.settings)
        provider = adapter.create(replace(options, endpoint=self.emulator.endpoint(adapter.wire(options))))
        questions = [Question(hashlib.sha256(i).hexdigest(), f"x{n}", lambda i=i: i) for n, i in enumerate(images)]  # type: ignore[misc]
        with ResponseStore.open(self.path) as store:
            try:
                return Engine(provider, store, self.key, policy=QUICK, concurrency=1, **engine).run(questions)
            finally:
                provider.close()

    @property
    def hits(self) -> int:
        return self.emulator.hits.total()

    def stored(self, columns: str) -> list[tuple[Any, ...]]:
        with ResponseStore.open(self.path, read_only=True) as store:
            return store._connection.execute(f"SELECT {columns} FROM v_outcomes").fetchall()


Ask = Callable[..., Asked]


@pytest.fixture(params=WIRES)
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ask]:
    made: list[Asked] = []

    def start(**emulator: Any) -> Asked:
        made.append(Asked(request.param, tmp_path, **emulator))
        return made[-1]

    yield start
    for asked in made:
        asked.emulator.close()


def test_an_answer_is_stored_as_received_and_reads_the_same_again(ask: Ask, request: pytest.FixtureRequest) -> None:
    asked = ask()
    report = asked.about(GOOD)
    assert (report.answered, asked.hits, asked.emulator.bill_count) == (1, 1, 1)
    ((raw, labels, version),) = asked.stored("raw, labels, model_version")
    parsed = registry.adapter(asked.provider).parse(raw)
    wire = request.node.callspec.params["ask"]
    first = metrics.drop_returned_parents(parsed.labels)[0]
    assert (first.name, parsed.model_version, version) == (FIRST[wire], "emulated/tiny", "emulated/tiny")
    assert first.score == pytest.approx(0.9, abs=1e-6)
    assert [label["name"] for label in json.loads(labels)] == [label.name for label in parsed.labels]
    scores = [label.score for label in parsed.labels]
    assert scores == sorted(scores, reverse=True)
    assert asked.about(GOOD).stored == 1
    assert asked.hits == 1, "an image with a stored answer is never sent again"


@pytest.mark.parametrize(
    ("fault", "hits"),
    [
        ("throttle", QUICK.attempts),
        ("provisioned", QUICK.attempts),
        ("429", QUICK.attempts),
        ("500", QUICK.attempts),
        ("image-error", QUICK.attempts),
        ("502", QUICK.uncertain + 1),
        ("504", QUICK.uncertain + 1),
        ("drop", QUICK.uncertain + 1),
        ("reset", QUICK.uncertain + 1),
        ("drop-after", QUICK.uncertain + 1),
        ("truncated", QUICK.uncertain + 1),
        ("malformed", QUICK.uncertain + 1),
        ("html", QUICK.uncertain + 1),
        ("empty", QUICK.uncertain + 1),
        ("hang:5", QUICK.uncertain + 1),
    ],
)
def test_a_fault_that_does_not_end_is_met_as_often_as_the_policy_says(ask: Ask, fault: str, hits: int) -> None:
    asked = ask(faults=[fault] * 20)
    report = asked.about(GOOD, timeout=0.3 if fault.startswith("hang") else 5.0)
    assert asked.hits == report.sent == hits
    lost = hits == QUICK.uncertain + 1
    assert (report.answered, len(report.left if lost else report.failed), report.halted) == (0, 1, None)
    assert (len(report.problems), report.uncertain) == (1, hits if lost else 0)


@pytest.mark.parametrize(
    "fault", ["throttle", "429", "500", "502", "503", "504", "image-error", "drop", "reset", "malformed"]
)
def test_a_fault_that_ends_costs_one_more_request(ask: Ask, fault: str) -> None:
    asked = ask(faults=[fault])
    report = asked.about(GOOD)
    assert (report.answered, report.sent, asked.hits, asked.emulator.bill_count) == (1, 2, 2, 1)


def test_an_answer_called_text_is_an_answer(ask: Ask) -> None:
    asked = ask(faults=["content-type"])
    assert (asked.about(GOOD).answered, asked.hits, asked.emulator.bill_count) == (1, 1, 1)
    assert asked.emulator.hits["content-type"] == 1


def test_a_slow_answer_is_billed_whoever_waits_for_it(ask: Ask) -> None:
    asked = ask(faults=["slow:0.9"])
    begun = time.monotonic()
    report = asked.about(GOOD, timeout=5.0)
    assert (report.answered, asked.hits, asked.emulator.bill_count) == (1, 1, 1)
    assert time.monotonic() - begun > 0.8


def test_a_trickle_does_not_outlast_the_timeout(ask: Ask) -> None:
    """A piece every 50 ms, so no read ever times out: it is the call that does, after as long."""
    asked = ask(faults=["slow:4"] * 20)
    begun = time.monotonic()
    report = asked.about(GOOD, timeout=0.4)
    took = time.monotonic() - begun
    assert (report.answered, report.uncertain, asked.hits) == (0, QUICK.uncertain + 1, QUICK.uncertain + 1)
    assert asked.emulator.bill_count == asked.hits, "what was too slow for us is billed all the same"
    assert took < 3.5, "less than one of the replies would have taken"


def trickling(connection: socket.socket) -> None:
    """Headers that never end, a byte at a time."""
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Filler: ")
        for _ in range(100):
            time.sleep(0.05)
            connection.sendall(b"x")


@pytest.mark.parametrize("wire", ["aws", "azure", "google over REST"])
def test_headers_that_trickle_do_not_outlast_it_either(wire: str) -> None:
    name, settings = WIRES[wire]
    with http_server(trickling) as (url, hits):
        options = ProviderOptions(endpoint=url, emulated=True, timeout=0.4, settings=settings)
        provider = registry.adapter(name).create(options)
        begun = time.monotonic()
        (outcome,) = provider.label([EncodedImage(GOOD, "0" * 64)])
        took = time.monotonic() - begun
        provider.close()
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain, outcome.sent, len(hits)) == (ErrorKind.TRANSIENT, True, True, 1)
    assert took < 3


@pytest.mark.parametrize("wire", ["aws", "azure", "google over REST"])
def test_a_deadline_is_of_one_call_and_not_of_its_connection(wire: str, tmp_path: Path) -> None:
    """Calls one after the other over one connection, together far longer than the timeout."""
    asked = Asked(wire, tmp_path, latency=0.3)
    try:
        report = asked.about(*(encode_png(paint(i, 96, 96)) for i in range(4)), timeout=0.8)
        assert (report.answered, report.uncertain, asked.hits) == (4, 0, 4)
    finally:
        asked.emulator.close()


def test_an_image_that_fails_inside_a_success_is_asked_again_alone(ask: Ask) -> None:
    asked = ask(faults=["image-error"])
    report = asked.about(*(encode_png(paint(i, 96, 96)) for i in range(3)), batch=3)
    batched = registry.adapter(asked.provider).info.max_batch > 1
    assert (report.answered, asked.hits, asked.emulator.bill_count) == (3, 2 if batched else 4, 3)


def test_a_batch_of_large_images_fits_into_its_requests(tmp_path: Path) -> None:
    """Five images whose base64 has together more than Google's JSON may: two requests, and none that is refused."""
    asked = Asked("google over REST", tmp_path)
    try:
        large = [encode(np.random.default_rng(i).integers(0, 256, (840, 840, 3), np.uint8)) for i in range(5)]
        assert sum(map(len, large)) * 4 / 3 > 10 * 1024**2
        limits = registry.adapter("google").info.limits.over(WireKind.HTTP)
        report = asked.about(*large, batch=16, limits=limits)
        assert (report.answered, report.sent, report.problems, asked.hits) == (5, 2, [], 2)
    finally:
        asked.emulator.close()


def test_an_image_refused_on_demand_is_not_sent_again(ask: Ask) -> None:
    asked = ask(faults=["bad-image"])
    report = asked.about(GOOD)
    assert (report.answered, len(report.rejected), asked.hits, asked.emulator.bill_count) == (0, 1, 1, 0)


def test_a_key_that_expires_stops_the_run(ask: Ask) -> None:
    asked = ask(faults=["ok", "expired"])
    report = asked.about(GOOD)
    again = asked.about(encode_png(paint(2, 96, 96)), encode_png(paint(3, 96, 96)))
    assert (report.answered, again.halted, asked.hits) == (1, HaltReason.CREDENTIALS, 2)
    assert "EMULATED" not in again.message


def test_the_adapters_sign_with_the_fake_keys_that_are_checked(ask: Ask) -> None:
    asked = ask(accepted_keys=vendors.FAKE_KEYS)
    assert (asked.about(GOOD).answered, asked.hits) == (1, 1)


def test_a_wrong_key_stops_the_run_with_its_first_request(ask: Ask) -> None:
    asked = ask(accepted_keys={"OTHER"})
    report = asked.about(GOOD, encode_png(paint(2, 96, 96)), encode_png(paint(3, 96, 96)))
    assert (asked.hits, report.sent, report.halted) == (1, 1, HaltReason.CREDENTIALS)
    assert report.exit_code is ExitCode.NOTHING_DONE
    assert "EMULATED" not in report.message
    assert asked.emulator.bill_count == 0


def test_a_bad_image_is_refused_once_and_never_sent_again(ask: Ask) -> None:
    asked = ask()
    report = asked.about(b"\x89PNG no image", GOOD)
    assert (asked.hits, report.sent, report.answered, len(report.rejected)) == (2, 2, 1, 1)
    assert sorted(asked.stored("outcome, error_kind")) == [("answered", None), ("rejected", ErrorKind.REJECTED.value)]
    again = asked.about(b"\x89PNG no image", GOOD)
    assert (asked.hits, again.sent, len(again.rejected_before)) == (2, 0, 1)
    assert asked.emulator.bill_count == 1


def test_a_cap_is_a_cap_on_every_wire(ask: Ask) -> None:
    asked = ask(faults=["500", "ok", "throttle"])
    report = asked.about(*(encode_png(paint(i, 96, 96)) for i in range(6)), max_calls=4)
    assert (asked.hits, report.halted, report.exit_code) == (4, HaltReason.CAP, ExitCode.CAP_REACHED)


def test_a_rate_limit_of_one_vendor_is_not_another_ones(tmp_path: Path) -> None:
    networks = Answerer(retriever, "tiny")
    with Emulator(answerer=networks, providers=["aws", "azure"], rate_limit=0.001) as emulator:
        for name in ("aws", "azure"):
            adapter = registry.adapter(name)
            provider = adapter.create(ProviderOptions(endpoint=emulator.url, emulated=True))
            question = Question(hashlib.sha256(GOOD).hexdigest(), "x", lambda: GOOD)
            with ResponseStore.open(tmp_path / f"{name}.sqlite") as store:
                engine = Engine(provider, store, Key("default", name, "emulated", "{}"), policy=QUICK)
                assert engine.run([question]).answered == 1
            provider.close()
        assert emulator.hits["answered"] == 2


def test_one_emulator_speaks_for_all_on_two_ports() -> None:
    answerer = Answerer(retriever, "tiny")
    with Emulator(answerer=answerer, providers=["aws", "azure", "clarifai", "google"]) as emulator:
        lines = emulator.describe()
    assert [line.partition(" on ")[0] for line in lines] == [
        "emulating AWS Rekognition (HTTP)",
        "emulating Azure Image Analysis 4.0 (HTTP)",
        "emulating Azure Computer Vision (HTTP)",
        "emulating Clarifai (gRPC)",
        "emulating Google Cloud Vision (HTTP)",
        "emulating Google Cloud Vision (gRPC)",
    ]
    assert len({line.partition(" on ")[2].partition(",")[0] for line in lines}) == 2
    assert all(line.endswith("answered by tiny") for line in lines)


def test_closing_in_the_middle_of_a_call_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def slow(pixels: Pixels) -> Probabilities:
        begun.release()
        go.wait(10)
        return retriever(pixels)

    emulator = Emulator(answerer=Answerer(slow, "slow"), providers=["clarifai"]).start()
    adapter = registry.adapter("clarifai")
    provider = adapter.create(ProviderOptions(endpoint=emulator.grpc_url, emulated=True, timeout=10.0))
    asking = threading.Thread(target=provider.label, args=([EncodedImage(GOOD, "0" * 64)],))
    closing = threading.Thread(target=emulator.close)
    asking.start()
    assert begun.acquire(timeout=10)
    closing.start()
    emulator._stopping.wait(10)
    go.set()
    for thread in (closing, asking):
        thread.join(20)
        assert not thread.is_alive()
    provider.close()
    assert not caplog.records
