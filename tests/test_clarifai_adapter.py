"""The Clarifai adapter: every reply becomes labels or a typed error; gRPC itself never sends twice; no key gets out."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("clarifai_grpc")

import grpc
from apibench_adapters import rpc
from apibench_adapters.clarifai import ClarifaiProvider, F, adapter, parse
from apibench_adapters.clarifai_status import BROKEN, CODES, MAYBE_DONE, OF_THE_MODEL, OPEN, SUCCESSES, kind_of, name_of
from clarifai_grpc.channel import clarifai_channel
from clarifai_grpc.grpc.api import resources_pb2, service_pb2, service_pb2_grpc
from clarifai_grpc.grpc.api.status import status_code_pb2, status_pb2
from google.protobuf.message import DecodeError

from apibench.emulator import Answerer, Emulator
from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    Outcome,
    ProviderError,
    ProviderOptions,
    WireKind,
)
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore, canonical, labels_to_json
from tests.emulation import by_colour, picture
from tests.fakes import QUICK

IMAGE = EncodedImage(b"\x89PNG pretend", "0" * 64)
PAT = "0123456789abcdef" * 2
METHOD = "/clarifai.api.V2/PostModelOutputs"


@pytest.fixture(autouse=True)
def no_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is not real, and the variables that the SDK reads would lead to a closed port."""
    monkeypatch.setenv("CLARIFAI_PAT", PAT)
    monkeypatch.setenv("CLARIFAI_API_BASE", "http://127.0.0.1:1")
    monkeypatch.setenv("CLARIFAI_GRPC_BASE", "127.0.0.1:1")


def output(*concepts: tuple[str, float], code: str = "SUCCESS", details: str = "") -> resources_pb2.Output:
    made = resources_pb2.Output(
        status=status_pb2.Status(code=code, details=details),
        model=resources_pb2.Model(model_version=resources_pb2.ModelVersion(id="version-1")),
    )
    made.data.SetInParent()
    made.data.concepts.extend(
        resources_pb2.Concept(id=f"ai_{name}", name=name, value=value) for name, value in concepts
    )
    return made


def reply(*outputs: resources_pb2.Output, code: str = "SUCCESS", details: str = "") -> bytes:
    status = status_pb2.Status(code=code, description="said", details=details, req_id="request-1")
    return bytes(service_pb2.MultiOutputResponse(status=status, outputs=outputs).SerializeToString())


GOOD = reply(output(("dog", 0.98), ("golden retriever", 0.5), ("grass", 0.0)))


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """A gRPC service that keeps what it is asked, and answers each call by ``answer``."""

    def __init__(self, answer: Callable[[Any], bytes]) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.url = ""

    @property
    def hits(self) -> int:
        return len(self.asked)

    def service(self, details: Any) -> Any:
        def serve(body: bytes, context: Any) -> bytes:
            assert details.method == METHOD
            self.asked.append(service_pb2.PostModelOutputsRequest.FromString(body))
            self.metadata.append(dict(details.invocation_metadata))
            return self.answer(context)

        return grpc.unary_unary_rpc_method_handler(serve)


@contextmanager
def serving(answer: Callable[[Any], bytes]) -> Iterator[Service]:
    service = Service(answer)
    server = grpc.server(ThreadPoolExecutor(8), handlers=(service,))
    service.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(grace=None).wait(5)


@contextmanager
def emulated(url: str, timeout: float = 5.0, **chosen: Any) -> Iterator[ClarifaiProvider]:
    provider = adapter.create(ProviderOptions(endpoint=url, emulated=True, timeout=timeout, settings=chosen))
    try:
        yield provider
    finally:
        provider.close()


def ask(url: str, images: int = 1, **options: Any) -> list[Outcome]:
    with emulated(url, **options) as provider:
        return provider.label([IMAGE] * images)


def error(outcome: Outcome) -> ProviderError:
    assert isinstance(outcome, ProviderError), outcome
    return outcome


# --- answers ---


def test_labels_values_ids_and_the_raw_message() -> None:
    with serving(lambda _: GOOD) as service:
        (outcome,) = ask(service.url)
    assert isinstance(outcome, Answer)
    assert (outcome.raw, outcome.request_id) == (GOOD, "request-1")
    assert outcome.parsed.model_version == "version-1"
    assert [(x.name, x.score, x.id, x.parents) for x in outcome.parsed.labels] == [
        ("dog", 0.98, "ai_dog", ()),
        ("golden retriever", 0.5, "ai_golden retriever", ()),
        ("grass", 0.0, "ai_grass", ()),
    ]
    assert adapter.parse(outcome.raw) == outcome.parsed


def test_each_image_of_a_batch_keeps_its_own_part_as_received() -> None:
    """A MultiOutputResponse of the same status and that image's output alone, readable by us and by the SDK."""
    whole = reply(output(("dog", 0.9)), output(code="INPUT_DOWNLOAD_FAILED"), output(("cat", 0.8)), code="MIXED_STATUS")
    with serving(lambda _: whole) as service:
        outcomes = ask(service.url, images=3)
    assert [getattr(outcome, "kind", None) for outcome in outcomes] == [None, ErrorKind.REJECTED, None]
    sent = service_pb2.MultiOutputResponse.FromString(whole)
    for number, outcome in enumerate(outcomes):
        own = service_pb2.MultiOutputResponse.FromString(outcome.raw)
        assert (own.status, list(own.outputs)) == (sent.status, [sent.outputs[number]])
        if isinstance(outcome, Answer):
            assert parse(outcome.raw) == outcome.parsed


def test_labels_that_can_be_read_are_an_answer_even_where_the_sdk_stumbles() -> None:
    """The model's name is no UTF-8, which ends the SDK's reading; the labels are there, and paid for."""
    named = output(("dog", 0.98))
    named.model.name = "general"
    body = reply(named).replace(b"general", b"gen\xff\xfeal")
    with pytest.raises(DecodeError):
        service_pb2.MultiOutputResponse.FromString(body)
    with serving(lambda _: body) as service:
        (outcome,) = ask(service.url)
    assert isinstance(outcome, Answer), outcome
    assert (outcome.raw, [label.name for label in outcome.parsed.labels]) == (body, ["dog"])


def test_the_request_holds_settings_bytes_and_key() -> None:
    chosen: dict[str, Any] = {
        "model": "food-item-recognition",
        "model_version": "v7",
        "max_concepts": 3,
        "min_value": 0.25,
    }
    with (
        serving(lambda _: reply(output(), output())) as service,
        emulated(service.url, user_id="me", app_id="mine", **chosen) as provider,
    ):
        assert provider.settings == chosen | {"user_id": "me", "app_id": "mine"}
        provider.label([IMAGE, EncodedImage(b"other", "1" * 64)])
    (asked,) = service.asked
    assert service.metadata[0]["authorization"] == "Key EMULATED"
    assert (asked.user_app_id.user_id, asked.user_app_id.app_id) == ("me", "mine")
    assert (asked.model_id, asked.version_id) == ("food-item-recognition", "v7")
    config = asked.model.output_info.output_config
    assert (config.max_concepts, config.min_value) == (3, 0.25)
    assert [given.data.image.base64 for given in asked.inputs] == [IMAGE.data, b"other"], (
        "the bytes, not base64 of them"
    )


def test_the_default_settings_are_the_public_model_and_all_that_it_says() -> None:
    assert adapter.settings(ProviderOptions()) == {
        "model": "general-image-recognition",
        "model_version": "",
        "user_id": "clarifai",
        "app_id": "main",
        "max_concepts": 20,
        "min_value": 0.0,
    }
    assert adapter.wire(ProviderOptions()) is WireKind.GRPC


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": "x"},
        {"model": ""},
        {"model": "a/b"},
        {"model": 7.5},
        {"model_version": "a b"},
        {"user_id": "x\n"},
        {"app_id": ""},
        {"max_concepts": 0},
        {"max_concepts": 201},
        {"max_concepts": 2.5},
        {"max_concepts": True},
        {"min_value": -0.1},
        {"min_value": 1.1},
        {"min_value": "0"},
        {"min_value": float("nan")},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adapter.settings(ProviderOptions(settings=wrong))


def test_an_id_of_digits_is_an_id() -> None:
    """The command line takes --setting user_id=12345 for a number."""
    assert adapter.settings(ProviderOptions(settings={"user_id": 12345}))["user_id"] == "12345"


def test_threads_get_their_own_answers() -> None:
    with Emulator(answerer=Answerer(by_colour, "tiny"), providers=["clarifai"]) as emulator:
        with emulated(emulator.grpc_url, min_value=0.001) as provider:
            together = threading.Barrier(8, timeout=10)

            def work(worker: int) -> None:
                together.wait()
                for turn in range(6):
                    red = 25 * worker + turn
                    image = EncodedImage(picture(red, 100, 0), "x")
                    (outcome,) = provider.label([image])
                    assert isinstance(outcome, Answer), outcome
                    found = {label.name: label.score for label in outcome.parsed.labels}
                    assert found.get("golden retriever", 0) == pytest.approx(red / (red + 100), abs=0.001)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(work, range(8)))
        assert emulator.hits == Counter({"answered": 48})


# --- the numbers that stand for the SDK's names ---


def test_every_field_number_is_the_sdks() -> None:
    messages = {
        "RESPONSE": service_pb2.MultiOutputResponse,
        "STATUS": status_pb2.Status,
        "OUTPUT": resources_pb2.Output,
        "MODEL": resources_pb2.Model,
        "VERSION": resources_pb2.ModelVersion,
        "DATA": resources_pb2.Data,
        "CONCEPT": resources_pb2.Concept,
    }
    numbers = {name: number for name, number in vars(F).items() if name.isupper()}
    assert len(numbers) == 15
    for name, number in numbers.items():
        message, _, field = name.partition("_")
        assert messages[message].DESCRIPTOR.fields_by_name[field.lower()].number == number, name


def test_every_code_is_the_sdks() -> None:
    values = {number for codes in CODES.values() for number in codes}
    assert len(values) == sum(map(len, CODES.values())), "no code twice"
    for codes in CODES.values():
        for number, name in codes.items():
            assert status_code_pb2.StatusCode.Value(name) == number
    assert status_code_pb2.StatusCode.Value("SUCCESS") in SUCCESSES
    assert {status_code_pb2.StatusCode.Value(name) for name in ("MIXED_STATUS", "FAILURE")} == OPEN - SUCCESSES
    assert values >= MAYBE_DONE | OF_THE_MODEL


# What a prediction cannot meet: decided by reading the whole enum, and said to be unknown if it comes all the same.
ELSEWHERE = re.compile(
    r"ZERO|TEAPOT|MODEL_(TRAIN|UNTRAINED|QUEUED_FOR_TRAINING|UPLOADING|BUILD|MODIFY|EVALUAT|NOT_EVALUATED|EXAMPLE|EXPORT"
    r"|QUEUED_FOR_EVALUATION)|INPUT_(SUCCESS|DOWNLOAD_SUCCESS|DELETE|MODIFY|CLUSTER|REINDEX|VIDEO)|ALL_INPUT_VIDEOS|WORKFLOW|CONCEPT"
    r"|ANNOTATION|METADATA|TRAINER|DATA_DUMP|APP_|MODULE|BULK|RUNNER_(PERMISSION|INVALID|STREAM|SPECIAL)|NODEPOOL|COMPUTE"
    r"|DEPLOYMENT_INVALID|INSTANCE|PIPELINE|ARTIFACT|SEARCH|SAVED|STATS|QUERY|EVALUATION|STRIPE|SIGNUP_EVENT|LOGIN|SIFT|MP_"
    r"|WORKER_ACTIVE|SSO|TASK|LABEL_ORDER|LICENSE|PASSWORD|FEATUREFLAG_(CONFIG|INVALID|NOT)|MAINTENANCE|DATASET|JOB|LIST|ARCHIVE"
    r"|UPLOAD|LOG_|TWILIO"
)


def test_every_code_of_the_sdk_is_decided_upon() -> None:
    for name, number in status_code_pb2.StatusCode.items():
        decided = kind_of(number) is not None or number in OPEN
        assert decided != bool(ELSEWHERE.match(name)), f"{name} ({number})"
        if any(number in family for family in BROKEN):
            assert kind_of(number) is ErrorKind.TRANSIENT
            assert name.startswith(
                ("DATABASE_", "ASYNC_WORKER_", "QUEUE_", "SQS_", "CLUSTER_INTERNAL", "CACHE_", "REDIS_", "INTERNAL_")
            )
    assert (kind_of(22102), name_of(22102), kind_of(98099), name_of(98099)) == (
        None,
        "22102",
        ErrorKind.TRANSIENT,
        "98099",
    )
    assert kind_of(30300) is ErrorKind.REJECTED


# --- over real sockets: one hit for one call, whatever happens ---


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data


def header(name: bytes, value: bytes) -> bytes:
    """A literal header field without indexing (RFC 7541, section 6.2.2)."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, END_STREAM, END_HEADERS, ACK = 0, 1, 3, 4, 6, 7, 1, 4, 1
Then = Callable[[socket.socket, int], object]


@contextmanager
def http2(then: Then) -> Iterator[tuple[str, list[int]]]:
    """A server that speaks just enough HTTP/2 to count calls and to answer them wrongly; False closes the connection."""
    hits: list[int] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.read(24)
            self.connection.sendall(frame(SETTINGS, 0, 0))
            while len(head := self.rfile.read(9)) == 9:
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                data = self.rfile.read(int.from_bytes(head[:3], "big"))
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self.connection.sendall(frame(kind, ACK, 0, data if kind == PING else b""))
                if kind == HEADERS:
                    hits.append(stream)
                if kind == DATA and flags & END_STREAM and then(self.connection, stream) is False:
                    return

        def finish(self) -> None:
            self.connection.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as tcp:
        tcp.daemon_threads = True
        threading.Thread(target=tcp.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{tcp.server_address[1]}", hits
        finally:
            tcp.shutdown()


STARTED = header(b":status", b"200") + header(b"content-type", b"application/grpc")


def page(status: bytes, *headers: tuple[bytes, bytes]) -> Then:
    """A gateway's reply, which is no gRPC."""
    fields = b"".join(header(*pair) for pair in ((b":status", status), (b"content-type", b"text/html"), *headers))
    return lambda c, s: c.sendall(frame(HEADERS, END_STREAM | END_HEADERS, s, fields))


def ended(code: int, *headers: tuple[bytes, bytes]) -> Then:
    fields = STARTED + b"".join(header(*pair) for pair in ((b"grpc-status", b"%d" % code), *headers))
    return lambda c, s: c.sendall(frame(HEADERS, END_STREAM | END_HEADERS, s, fields))


def message(data: bytes, promised: int | None = None, *, end: bool = True) -> Then:
    def send(connection: socket.socket, stream: int) -> bool:
        size = len(data) if promised is None else promised
        connection.sendall(frame(HEADERS, END_HEADERS, stream, STARTED))
        connection.sendall(frame(DATA, 0, stream, bytes(1) + size.to_bytes(4, "big") + data))
        if end:
            connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, stream, header(b"grpc-status", b"0")))
        return end

    return send


def hang(connection: socket.socket, stream: int) -> None: ...


def silent(connection: socket.socket, stream: int) -> None:
    connection.sendall(frame(HEADERS, END_HEADERS, stream, STARTED))
    connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, stream, header(b"grpc-status", b"0")))


def reset(code: int) -> Then:
    return lambda c, s: c.sendall(frame(RST_STREAM, 0, s, code.to_bytes(4, "big")))


def linger(connection: socket.socket, stream: int) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    return False


FAULTS: list[tuple[str, Then, ErrorKind, bool]] = [
    ("drop", lambda c, s: False, ErrorKind.TRANSIENT, True),
    ("reset", linger, ErrorKind.TRANSIENT, True),
    ("hang", hang, ErrorKind.TRANSIENT, True),
    ("refused stream", reset(7), ErrorKind.TRANSIENT, True),
    ("reset stream", reset(2), ErrorKind.TRANSIENT, True),
    ("calm down", reset(11), ErrorKind.THROTTLED, False),
    ("go away", lambda c, s: c.sendall(frame(GOAWAY, 0, 0, bytes(8))), ErrorKind.TRANSIENT, True),
    ("unavailable", ended(14, (b"x-request-id", b"1")), ErrorKind.TRANSIENT, False),
    ("unavailable, retry at once", ended(14, (b"grpc-retry-pushback-ms", b"1")), ErrorKind.TRANSIENT, False),
    ("exhausted", ended(8), ErrorKind.THROTTLED, False),
    ("unauthenticated", ended(16), ErrorKind.CREDENTIALS, False),
    ("a success without a message", silent, ErrorKind.PROTOCOL, True),
    ("a redirect", page(b"307", (b"location", b"http://127.0.0.1:1/")), ErrorKind.TRANSIENT, True),
    ("HTTP 401", page(b"401"), ErrorKind.CREDENTIALS, False),
    ("HTTP 429", page(b"429", (b"retry-after", b"1")), ErrorKind.TRANSIENT, True),
    ("HTTP 502", page(b"502"), ErrorKind.TRANSIENT, True),
    ("HTTP 503", page(b"503"), ErrorKind.TRANSIENT, True),
    ("half a message, then the end", message(GOOD[:20], len(GOOD)), ErrorKind.PROTOCOL, True),
    ("half a message, then a drop", message(GOOD[:20], len(GOOD), end=False), ErrorKind.TRANSIENT, True),
    ("an empty message", message(b""), ErrorKind.PROTOCOL, True),
    ("malformed", message(b"{{{{"), ErrorKind.PROTOCOL, True),
    ("no gRPC", lambda c, s: c.sendall(b"HTTP/1.1 200 OK\r\n\r\n"), ErrorKind.TRANSIENT, True),
]


@pytest.mark.parametrize(("then", "kind", "uncertain"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_grpc_sends_once_whatever_comes_back(then: Then, kind: ErrorKind, uncertain: bool) -> None:
    with http2(then) as (url, hits):
        outcome = error(ask(url, timeout=0.5 if then is hang else 10.0)[0])
        assert (outcome.kind, outcome.uncertain) == (kind, uncertain), outcome
        assert len(hits) == 1
        assert outcome.message
        assert "\n" not in outcome.message


def test_the_same_server_can_answer_rightly() -> None:
    with http2(message(GOOD)) as (url, hits):
        assert isinstance(ask(url)[0], Answer)
        assert len(hits) == 1


EMULATED = [
    ("throttle", ErrorKind.THROTTLED, False),
    ("provisioned", ErrorKind.THROTTLED, False),
    ("429", ErrorKind.THROTTLED, False),
    ("500", ErrorKind.TRANSIENT, False),
    ("503", ErrorKind.TRANSIENT, False),
    ("drop", ErrorKind.TRANSIENT, True),
    ("drop-after", ErrorKind.TRANSIENT, True),
    ("hang:5", ErrorKind.TRANSIENT, True),
    ("truncated", ErrorKind.PROTOCOL, True),
    ("malformed", ErrorKind.PROTOCOL, True),
    ("empty", ErrorKind.PROTOCOL, True),
    ("html", ErrorKind.PROTOCOL, True),
]


@pytest.mark.parametrize(("fault", "kind", "uncertain"), EMULATED, ids=[row[0] for row in EMULATED])
def test_every_fault_of_the_emulator_is_one_hit(fault: str, kind: ErrorKind, uncertain: bool) -> None:
    with (
        Emulator(answerer=Answerer(by_colour, "tiny"), providers=["clarifai"], faults=[fault]) as emulator,
        emulated(emulator.grpc_url, timeout=0.5 if fault.startswith("hang") else 10.0) as provider,
    ):
        first = provider.label([EncodedImage(picture(), "x")] * 2)
        assert {(error(x).kind, error(x).uncertain) for x in first} == {(kind, uncertain)}
        assert emulator.hits.total() == 1
        assert all(isinstance(x, Answer) for x in provider.label([EncodedImage(picture(), "x")] * 2))


def test_a_call_takes_no_longer_than_its_time_out() -> None:
    with http2(hang) as (url, hits):
        started = time.monotonic()
        outcome = error(ask(url, timeout=0.3)[0])
        assert time.monotonic() - started < 3
        assert (outcome.code, outcome.uncertain, len(hits)) == ("DEADLINE_EXCEEDED", True, 1)


def test_a_refused_connection_is_transient_and_certain() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outcome = error(ask(f"http://127.0.0.1:{port}")[0])
    assert (outcome.kind, outcome.uncertain) == (ErrorKind.TRANSIENT, False)


def test_a_closed_provider_answers_with_an_error() -> None:
    with serving(lambda _: GOOD) as service:
        with emulated(service.url) as provider:
            pass
        assert error(provider.label([IMAGE])[0]).kind is ErrorKind.PROTOCOL
        assert service.hits == 0


# --- the SDK's traps ---


def unavailable(context: Any) -> bytes:
    context.set_trailing_metadata((("x-request-id", "1"),))
    context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
    raise AssertionError


def test_the_sdks_own_channel_would_send_five_times_and_ours_sends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")  # theirs heeds the proxy that is not there
    with serving(unavailable) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        theirs = clarifai_channel.ClarifaiChannel.get_insecure_grpc_channel(base=host, port=int(port))
        with theirs, pytest.raises(grpc.RpcError):
            service_pb2_grpc.V2Stub(theirs).PostModelOutputs(service_pb2.PostModelOutputsRequest(), timeout=5)
        assert service.hits == 5, "what this guards against is there"
        assert error(ask(service.url)[0]).kind is ErrorKind.TRANSIENT
        assert service.hits == 6


@pytest.mark.parametrize("before", ["nothing", "JSON", "gRPC"])
def test_the_stub_reads_grpc_whatever_channel_the_program_made_last(
    monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(clarifai_channel, "wrap_response_deserializer", None)
    if before == "JSON":
        clarifai_channel.ClarifaiChannel.get_json_channel(base_url="http://127.0.0.1:1")
    if before == "gRPC":
        clarifai_channel.ClarifaiChannel.get_insecure_grpc_channel(base="127.0.0.1", port=1).close()
    theirs = clarifai_channel.wrap_response_deserializer
    assert (theirs is None) == (before == "nothing")
    with serving(lambda _: GOOD) as service:
        assert isinstance(ask(service.url)[0], Answer)
    assert clarifai_channel.wrap_response_deserializer is theirs, "the program's own stubs go on reading what they did"


def test_the_global_is_put_back_where_the_stub_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(channel: object) -> None:
        raise RuntimeError("no stub")

    monkeypatch.setattr(clarifai_channel, "wrap_response_deserializer", "theirs")
    monkeypatch.setattr(service_pb2_grpc, "V2Stub", broken)
    with pytest.raises(RuntimeError, match="no stub"), emulated("http://127.0.0.1:1"):
        pass
    assert clarifai_channel.wrap_response_deserializer == "theirs"


def test_providers_may_be_made_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clarifai_channel, "wrap_response_deserializer", None)
    with serving(lambda _: GOOD) as service, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ask(service.url)[0], range(16)))
    assert all(isinstance(outcome, Answer) for outcome in found)
    assert clarifai_channel.wrap_response_deserializer is None


def test_the_vendors_larger_package_is_never_imported() -> None:
    code = (
        "import sys\n"
        "from apibench_adapters.clarifai import adapter, parse\n"
        "from apibench.query.contract import ProviderOptions\n"
        "print([m for m in ('grpc', 'google.protobuf', 'clarifai_grpc', 'clarifai') if m in sys.modules])\n"
        "adapter.settings(ProviderOptions()), adapter.endpoint(ProviderOptions()), adapter.wire(ProviderOptions())\n"
        f"print([label.name for label in parse({GOOD!r}).labels], 'google.protobuf' in sys.modules)\n"
        "adapter.create(ProviderOptions(endpoint='http://127.0.0.1:1', emulated=True)).close()\n"
        "print('clarifai_grpc' in sys.modules, 'clarifai' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.splitlines() == ["[]", "['dog', 'golden retriever', 'grass'] False", "True False"]


# --- credentials ---


def refusal(make: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        make()
    assert caught.value.kind is ErrorKind.CREDENTIALS
    assert PAT not in caught.value.message
    return caught.value


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_no_credentials_is_one_line_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("CLARIFAI_PAT")
    if value is not None:
        monkeypatch.setenv("CLARIFAI_PAT", value)
    assert "set CLARIFAI_PAT" in refusal(lambda: adapter.create(ProviderOptions())).message


@pytest.mark.parametrize("wrong", [f"Key {PAT}", f"{PAT}\nx", f"{PAT}\u2013", f"{PAT}\x00"[:-1] + "\x7f"])
def test_a_key_that_is_none_is_not_told_to_the_world(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("CLARIFAI_PAT", wrong)
    assert "CLARIFAI_PAT" in refusal(lambda: adapter.create(ProviderOptions())).message


@pytest.mark.parametrize("endpoint", [None, "https://api.clarifai.com", "http://10.0.0.1", "http://127.0.0.1.example"])
def test_emulated_calls_never_leave_the_machine(endpoint: str | None) -> None:
    assert "emulator" in refusal(lambda: adapter.create(ProviderOptions(endpoint=endpoint, emulated=True))).message


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://api.clarifai.com", "api.clarifai.com", "ftp://x"])
def test_a_real_key_does_not_go_over_plain_http(endpoint: str) -> None:
    assert "https" in refusal(lambda: adapter.create(ProviderOptions(endpoint=endpoint))).message


def live(monkeypatch: pytest.MonkeyPatch, service: Service, endpoint: str | None = None) -> ClarifaiProvider:
    """A provider with the real key; its secure channel leads to the service, and says where it would have led."""

    def connect(where: str, credentials: object = None) -> Any:
        service.url = where
        return grpc.insecure_channel(loopback, options=rpc.options(emulated=True))

    loopback = service.url.removeprefix("http://")
    monkeypatch.setattr(rpc, "secure_channel", connect)
    return adapter.create(ProviderOptions(endpoint=endpoint))


@pytest.mark.parametrize(
    ("endpoint", "host"), [(None, "api.clarifai.com"), ("https://eu.clarifai.example:8443", "eu.clarifai.example")]
)
def test_a_real_key_goes_to_the_vendor_or_where_the_user_says_and_to_no_variables_host(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, host: str
) -> None:
    """The fixture has set CLARIFAI_API_BASE and CLARIFAI_GRPC_BASE."""
    with serving(lambda _: GOOD) as service:
        provider = live(monkeypatch, service, endpoint)
        assert isinstance(provider.label([IMAGE])[0], Answer)
        provider.close()
    expected = endpoint or "https://api.clarifai.com"
    assert (provider.host, service.url) == (host, expected)
    assert adapter.endpoint(ProviderOptions(endpoint=endpoint)) == expected
    assert service.metadata[0]["authorization"] == f"Key {PAT}"


def test_emulated_takes_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither key nor host; and no proxy, though the tests' environment names one that is not there."""
    monkeypatch.delenv("CLARIFAI_PAT")
    with serving(lambda _: GOOD) as service:
        assert isinstance(ask(service.url)[0], Answer)
        monkeypatch.setenv("CLARIFAI_PAT", PAT)
        assert isinstance(ask(service.url)[0], Answer)
    assert [metadata["authorization"] for metadata in service.metadata] == ["Key EMULATED"] * 2


def test_an_error_that_repeats_the_key_is_kept_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"wrong metadata authorization: Key {PAT}"

    def end(context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, said)
        raise AssertionError

    repeated = [
        lambda _: reply(code="CONN_KEY_INVALID", details=said),
        lambda _: reply(output(code="INTERNAL_SERVER_ISSUE", details=said), code="FAILURE"),
        lambda _: GOOD[:-3] + PAT.encode(),
        end,
    ]
    with serving(lambda context: repeated.pop(0)(context)) as service:
        provider = live(monkeypatch, service)
        for _ in range(4):
            outcome = error(provider.label([IMAGE])[0])
            for place in (outcome.message, repr(outcome), repr(provider), str(outcome.code), repr(outcome.raw)):
                assert PAT not in place
            if outcome.code in ("CONN_KEY_INVALID", "INTERNAL_SERVER_ISSUE"):
                assert outcome.raw is not None
                kept = service_pb2.MultiOutputResponse.FromString(outcome.raw)
                assert kept.status.req_id == "request-1", "what is left can still be read"
        provider.close()


def test_no_key_ends_up_in_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through the engine into the store: an error that repeats the key, a reply that is not readable, and an answer."""
    script = [reply(code="CONN_THROTTLED", details=f"for Key {PAT}"), b"<html>", GOOD]
    with serving(lambda _: script.pop(0)) as service, ResponseStore.open(tmp_path / "s.sqlite") as store:
        provider = live(monkeypatch, service)
        key = Key("default", "clarifai", "live", canonical(provider.settings))
        report = Engine(provider, store, key, policy=QUICK).run([Question(IMAGE.sha256, "x", lambda: IMAGE.data)])
        assert (report.answered, report.sent, report.uncertain) == (1, 3, 1)
        ((raw, labels),) = store._connection.execute("SELECT raw, labels FROM responses").fetchall()
        assert raw == GOOD
        assert labels == labels_to_json(parse(raw).labels), "what is stored can be read again from what was paid for"
        provider.close()
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"CONN_THROTTLED" in held
    assert PAT.encode() not in held


# --- whatever comes ---


@settings(max_examples=300)
@given(st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 6))
def test_no_mutated_message_escapes_as_anything_but_labels_or_a_protocol_error(at: int, junk: bytes, drop: int) -> None:
    data = bytearray(GOOD)
    at %= len(data)
    data[at : at + drop] = junk
    try:
        parsed = parse(bytes(data))
    except ProviderError as found:
        assert found.kind is ErrorKind.PROTOCOL  # noqa: PT017
    else:
        assert all(0.0 <= label.score <= 1.0 for label in parsed.labels)


def test_no_mutated_reply_makes_the_adapter_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the message: an answer that reads the same again, or a typed error, one an image."""
    said = [b""]

    class Player(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return self

        def result(self) -> bytes:
            return said[0]

    def channel(_: str) -> Any:
        return grpc.intercept_channel(grpc.insecure_channel("127.0.0.1:1"), Player())

    monkeypatch.setattr(rpc, "loopback_channel", channel)
    mixed = reply(output(("dog", 0.98)), output(code="INPUT_DOWNLOAD_FAILED"), code="MIXED_STATUS")
    throttled = reply(code="CONN_THROTTLED")
    with emulated("http://127.0.0.1:1") as provider:

        @settings(max_examples=200, deadline=None)
        @given(st.sampled_from([GOOD, mixed, throttled]), st.integers(0, 999), st.binary(max_size=4), st.integers(1, 3))
        def mutate(body: bytes, at: int, junk: bytes, count: int) -> None:
            at %= len(body)
            said[0] = body[:at] + junk + body[at + 1 :]
            outcomes = provider.label([IMAGE] * count)
            assert len(outcomes) == count
            for outcome in outcomes:
                if isinstance(outcome, Answer):
                    assert parse(outcome.raw) == outcome.parsed
                    assert count > 1 or outcome.raw == said[0]
                else:
                    assert isinstance(outcome, ProviderError)

        mutate()
