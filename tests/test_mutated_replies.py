"""A bad server: recorded replies, mutated, through the vendors' real SDKs. No crash, no hang; a typed error or a right result.

``APIBENCH_MUTATIONS`` is how many examples of each wire are tried; a few by default, always the same ones.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from apibench_adapters import clarifai_status, google_reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apibench.emulator.wire import Reply, RpcError
from apibench.query import registry
from apibench.query.contract import Adapter, Answer, ErrorKind, Outcome, Provider, ProviderError, ProviderOptions
from apibench.query.redact import MOST_KEPT
from tests import servers
from tests.mutations import BYTES, VARINT, fields_of, of_bytes, of_json, of_message, one_field
from tests.recorded.cases import Case, table

EXAMPLES = int(os.environ.get("APIBENCH_MUTATIONS", "60"))
TIMEOUT, LONGEST = 3.0, 10.0  # seconds: of the client, and until a call counts as one that hangs
mutated = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def recorded(name: str) -> list[Case]:
    return [parameter.values[0] for parameter in table(name)]


def some(cases: Sequence[Case]) -> st.SearchStrategy[Case]:
    """A case, half of the time one with labels."""
    return st.sampled_from([case for case in cases if any("labels" in one for one in case.expect)]) | st.sampled_from(
        cases
    )


# --- the bad servers, and what their clients make of it ---


@dataclass
class Bad:
    """A server that replies as it is told, the real SDK that asks it, and how often it was asked."""

    adapter: Adapter
    provider: Provider
    hits: list[Any]
    reply: Any = None

    def ask(self, case: Case) -> list[Outcome]:
        """One call: it ends in time, asks once, and gives a well-formed outcome for each image."""
        self.hits.clear()
        begun = time.monotonic()
        outcomes = self.provider.label(case.sent)
        assert time.monotonic() - begun < LONGEST
        assert len(self.hits) == 1, "a reply is never asked for again, and a redirect never followed"
        assert len(outcomes) == case.images
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                well_formed(outcome)
                assert self.adapter.parse(outcome.raw) == outcome.parsed
            else:
                typed(outcome)
        return outcomes


def well_formed(answer: Answer) -> None:
    texts = [answer.parsed.model_version or "x"]
    for label in answer.parsed.labels:
        texts += [label.name, *label.parents, label.id or "x"]
        assert isinstance(label.score, float)
        assert 0 <= label.score <= 1
    for text in texts:
        assert isinstance(text, str)
        assert text.encode(), "a name that no file and no database takes"


def typed(error: ProviderError) -> None:
    assert isinstance(error, ProviderError)
    assert isinstance(error.kind, ErrorKind)
    assert error.message.isprintable()
    assert 0 < len(error.message) <= 600
    assert error.sent, "the server has seen it"
    assert error.retry_after is None or 0 <= error.retry_after < math.inf
    for text in (error.message, error.code or ""):
        text.encode()


@contextmanager
def bad(name: str, **chosen: str) -> Iterator[Bad]:
    adapter = registry.adapter(name)
    over_http = adapter.wire(ProviderOptions(settings=chosen)).value == "http"
    found: Bad | None = None

    def respond(connection: socket.socket) -> None:
        assert found is not None
        connection.sendall(found.reply)

    serve: Any = servers.http_server(respond) if over_http else servers.grpc_server(lambda _: found and found.reply)
    with serve as (url, hits):
        options = ProviderOptions(endpoint=url, emulated=True, timeout=TIMEOUT, settings=chosen)
        found = Bad(adapter, adapter.create(options), hits)
        yield found
        found.provider.close()


def served(name: str, **chosen: str) -> Any:
    @pytest.fixture(scope="module")
    def made() -> Iterator[Bad]:
        with bad(name, **chosen) as server:
            yield server

    return made


aws, azure, google_rest = served("aws"), served("azure"), served("google", transport="rest")
clarifai, google = served("clarifai"), served("google")


# --- over HTTP ---

STATUSES = st.one_of(st.just(200), st.just(200), st.just(200), st.integers(100, 599))
TYPES = st.sampled_from(
    ("application/json", "text/html", "application/x-amz-json-1.1", "", "\x00", "application/json; charset=utf-16")
)
HEADERS = st.sampled_from(
    (
        *(("Retry-After", text) for text in ("1", "-5", "1e999", "nan", "9" * 400, "soon", "Wed, 21 Oct 2015 07:28:00 GMT")),
        *(("Content-Encoding", text) for text in ("gzip", "deflate", "br", "identity", "x", "gzip, gzip, gzip")),
        *(("Location", text) for text in ("/elsewhere", "http://127.0.0.1:9/", "::", "")),
        *((name, "\xff\xfe") for name in ("x-amzn-requestid", "apim-request-id", "x-amzn-errortype", "X")),
        *(("Transfer-Encoding", text) for text in ("chunked", "x")),
        ("Set-Cookie", "a=b; Domain=.com"),
    )
)  # fmt: skip


@st.composite
def over_http(draw: st.DrawFn, cases: Sequence[Case]) -> tuple[Case, int, bytes, bytes]:
    """A case, and its reply mutated: status, body, and all of what is sent."""
    case = draw(some(cases))
    as_json = case.json is not None and draw(st.booleans())
    body = draw(of_json(case.json) if as_json else of_bytes(case.body))
    status = case.status if draw(st.booleans()) else draw(STATUSES)
    headers = {"Content-Type": "application/json", **case.headers}
    for part in draw(st.lists(st.sampled_from(("type", "header")), max_size=2)):
        headers |= {"Content-Type": draw(TYPES)} if part == "type" else dict([draw(HEADERS)])
    sent = body
    if headers.get("Content-Encoding") == "gzip" and draw(st.booleans()):
        sent = gzip.compress(body, mtime=0)
    length = len(sent) + draw(st.sampled_from((0, 0, 0, 0, 0, 0, 1, 1000, -1)))
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    # Not kept alive: a connection that the server has closed meanwhile would lose the next request.
    lines += [f"Content-Length: {max(length, 0)}", "Connection: close"]
    return case, status, body, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent


# What a reader without any care finds in a body, of its so-manieth image: names, and scores in [0, 1].
Plain = list[tuple[str, float]]
OF_JSON: dict[str, Callable[[Any, int], Plain]] = {
    "aws": lambda body, _: [(x["Name"], x["Confidence"] / 100) for x in body["Labels"]],
    "azure": lambda body, _: [(x["name"], x["confidence"]) for x in body["tags"]],
    "google": lambda body, number: [
        (x["description"], x.get("score") or 0.0) for x in body["responses"][number].get("labelAnnotations") or []
    ],
}


def check_http(server: Bad, example: tuple[Case, int, bytes, bytes]) -> None:
    case, status, body, server.reply = example
    for number, outcome in enumerate(server.ask(case)):
        if isinstance(outcome, Answer):
            assert status == 200
            whole = json.loads(outcome.raw if case.images == 1 else body)
            right(outcome, OF_JSON[server.adapter.info.name](whole, number))


def right(answer: Answer, plain: Plain) -> None:
    assert [label.name for label in answer.parsed.labels] == [name for name, _ in plain]
    assert [label.score for label in answer.parsed.labels] == pytest.approx([score for _, score in plain], abs=2e-5)


@mutated
@given(example=over_http(recorded("aws")))
def test_aws(aws: Bad, example: Any) -> None:
    check_http(aws, example)


@mutated
@given(example=over_http(recorded("azure")))
def test_azure(azure: Bad, example: Any) -> None:
    check_http(azure, example)


@mutated
@given(example=over_http(recorded("google_rest")))
def test_google_over_rest(google_rest: Bad, example: Any) -> None:
    check_http(google_rest, example)


# --- over gRPC ---

CODES = st.sampled_from([code for code in google_reply.CODES if code != "OK"])


@st.composite
def over_grpc(
    draw: st.DrawFn, cases: Sequence[Case], write: Callable[[Any], bytes], status: bytes
) -> tuple[Case, Reply]:
    """A case, and its reply mutated: a message, or a status whose details are."""
    if draw(st.integers(0, 9)) == 0:
        details = draw(st.none() | st.binary(max_size=30) | of_message(status))
        return cases[0], Reply(0, b"", rpc=RpcError(draw(CODES), draw(st.text(max_size=30)), details))
    case = draw(some(cases))
    whole = write(case.json) if case.json is not None else case.body
    for _ in range(draw(st.integers(1, 2))):
        whole = draw(of_message(whole) if draw(st.integers(0, 2)) else of_bytes(whole))
    return case, Reply(200, whole)


def messages(name: str) -> list[Case]:
    return [case for case in recorded(name) if case.rpc is None]


def write_clarifai(content: Any) -> bytes:
    from clarifai_grpc.grpc.api import service_pb2
    from google.protobuf import json_format

    return bytes(json_format.ParseDict(content, service_pb2.MultiOutputResponse()).SerializeToString())


def write_google(content: Any) -> bytes:
    from google.cloud import vision

    message = vision.BatchAnnotateImagesResponse
    return bytes(message.serialize(message.from_json(json.dumps(content))))


def status_with_details() -> bytes:
    """A google.rpc.Status with an ErrorInfo and a RetryInfo."""
    pair = one_field(1, BYTES, b"quota_unit") + one_field(2, BYTES, b"1/min/{project}")
    info = one_field(1, BYTES, b"RATE_LIMIT_EXCEEDED") + one_field(3, BYTES, pair)
    wait = one_field(1, BYTES, one_field(1, VARINT, b"\x03") + one_field(2, VARINT, b"\x05"))
    packed = [(b"google.rpc.ErrorInfo", info), (b"google.rpc.RetryInfo", wait)]
    details = [
        one_field(1, BYTES, b"type.googleapis.com/" + name) + one_field(2, BYTES, value) for name, value in packed
    ]
    return one_field(1, VARINT, b"\x08") + b"".join(one_field(3, BYTES, detail) for detail in details)


@mutated
@given(example=over_grpc(messages("clarifai"), write_clarifai, status_with_details()))
def test_clarifai(clarifai: Bad, example: tuple[Case, Reply]) -> None:
    from clarifai_grpc.grpc.api import service_pb2
    from google.protobuf.message import DecodeError

    case, clarifai.reply = example
    outcomes = clarifai.ask(case)
    try:
        whole = service_pb2.MultiOutputResponse.FromString(clarifai.reply.body)
    except DecodeError:
        return
    for outcome, output in zip(outcomes, whole.outputs, strict=False):
        if isinstance(outcome, Answer):
            right(outcome, [(concept.name, concept.value) for concept in output.data.concepts])
            assert output.status.code in clarifai_status.SUCCESSES
            assert whole.status.code in clarifai_status.OPEN


@mutated
@given(example=over_grpc(messages("google_grpc"), write_google, status_with_details()))
def test_google(google: Bad, example: tuple[Case, Reply]) -> None:
    from google.cloud import vision
    from google.protobuf.message import DecodeError

    case, google.reply = example
    outcomes = google.ask(case)
    try:
        whole = vision.BatchAnnotateImagesResponse.pb().FromString(google.reply.body)
    except DecodeError:
        return
    for outcome, part in zip(outcomes, whole.responses, strict=False):
        if isinstance(outcome, Answer):
            right(outcome, [(label.description, label.score) for label in part.label_annotations])
            assert outcome.parsed.labels or not part.error.code


# --- what was found ---


def test_a_long_error_without_spaces_is_read_in_no_time(azure: Bad) -> None:
    """The look for where to cut it off began anew with every character of the run before the last space: for 20 seconds."""
    case = Case("an endless word", [], status=500, json={"error": {"code": "x", "message": "m"}})
    body = b"-" * 70_000 + b" " + b"-" * 1_000_000
    head = f"HTTP/1.1 500 X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    azure.reply = head.encode() + body
    (outcome,) = azure.ask(case)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (ErrorKind.TRANSIENT, True)
    assert len(outcome.raw or b"") < MOST_KEPT


def test_a_long_message_is_read_in_no_time(google_rest: Bad) -> None:
    """A search for what it is about once took a minute for 100 kB, and four times that for twice as much."""
    error = {"error": {"status": "INVALID_ARGUMENT", "message": "image " * 20_000}}
    case = Case("an endless message", [], status=400, json=error)
    head = f"HTTP/1.1 400 X\r\nContent-Length: {len(case.body)}\r\nConnection: close\r\n\r\n"
    google_rest.reply = head.encode() + case.body
    (outcome,) = google_rest.ask(case)
    assert isinstance(outcome, ProviderError)
    assert outcome.kind is ErrorKind.PROTOCOL


def test_parts_of_one_message_are_read_as_one(clarifai: Bad) -> None:
    """Of a message field that stands twice, protobuf makes one message; once, only the labels of the last were read."""
    (case,) = (case for case in recorded("clarifai") if case.name == "a good answer")
    first = {
        **case.json,
        "outputs": [{**case.json["outputs"][0], "data": {"concepts": [{"name": "once", "value": 0.75}]}}],
    }
    output = {number: value for number, _, value in fields_of(write_clarifai(first))}[2]
    second = {number: value for number, _, value in fields_of(output)}[6]
    whole = [
        (n, k, v + one_field(6, BYTES, second) if n == 2 else v) for n, k, v in fields_of(write_clarifai(case.json))
    ]
    clarifai.reply = Reply(200, b"".join(one_field(*one) for one in whole))
    (outcome,) = clarifai.ask(case)
    assert isinstance(outcome, Answer)
    assert [label.name for label in outcome.parsed.labels] == [row[0] for row in case.expect[0]["labels"]] + ["once"]
