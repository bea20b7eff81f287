"""The wrong port, the wrong protocol, and rubbish: a clear word where one can be said, and never a traceback or a hang."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apibench.emulator import Answerer, Emulator
from apibench.emulator.misuse import HTTP2, _text

grpc = pytest.importorskip("grpc")
pytest.importorskip("clarifai_grpc")
pytest.importorskip("google.cloud.vision_v1")

from apibench_adapters.rpc import loopback_channel  # noqa: E402

VISION = "/google.cloud.vision.v1.ImageAnnotator/BatchAnnotateImages"
CLARIFAI = "/clarifai.api.V2/PostModelOutputs"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(answerer=Answerer.random(), providers=["aws", "azure", "clarifai", "google"]) as running:
        yield running


def exchange(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        with contextlib.suppress(OSError):  # it closed while rubbish was on its way
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                received += piece
        return received


# --- the wrong protocol ---


def test_a_grpc_client_on_the_http_port_is_told_where_grpc_is(emulator: Emulator) -> None:
    with loopback_channel(emulator.url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(CLARIFAI)(b"x" * 100_000, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == f"this is the emulator's port for HTTP/1.1; gRPC is on {emulator.grpc_url}"


def test_a_grpc_client_where_nobody_speaks_it_is_told_so() -> None:
    with (
        Emulator(answerer=Answerer.random(), providers=["aws"]) as alone,
        loopback_channel(alone.url) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(CLARIFAI)(b"", timeout=10)
    assert "no emulated provider speaks gRPC" in caught.value.details()


def test_half_an_http2_connection_is_let_go(emulator: Emulator) -> None:
    assert b"HTTP/1.1 200" not in exchange(emulator.port, HTTP2)
    exchange(emulator.port, HTTP2 + b"\xff\xff\xff\x01" + bytes(5))
    assert ask(emulator, "/")[0] == 404


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 300, 20_000])
def test_lengths_of_hpack(length: int) -> None:
    """Read as RFC 7541, section 5.1, says."""
    data = _text("x" * length)
    value, read, shift = data[0] & 127, 1, 0
    if value == 127:
        while True:
            value += (data[read] & 127) << shift
            shift += 7
            read += 1
            if data[read - 1] < 128:
                break
    assert (value, len(data) - read) == (length, length)


def test_an_unknown_path_is_told_what_there_is(emulator: Emulator) -> None:
    status, body = ask(emulator, "/v2/users/clarifai/apps/main/models/general-image-recognition/outputs")
    assert status == 404
    said = json.loads(body)["emulated"]
    assert f"Clarifai: {CLARIFAI} (grpc)" in said
    assert "Azure Image Analysis 4.0: POST /computervision/imageanalysis:analyze (http)" in said
    with loopback_channel(emulator.grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/other.Service/Call")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert CLARIFAI in caught.value.details()


def test_tls_where_there_is_none_is_told_of_in_the_log(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    with (
        socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    assert [record.message for record in caplog.records] == [
        "a client spoke TLS to a port that does not: use http, or start the emulator with TLS"
    ]


def test_plain_http_where_there_is_tls_is_told_so(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with Emulator(answerer=Answerer.random(), providers=["aws"], tls=tmp_path / "ca.pem") as secure:
        status, body = ask(secure, "/", b"x" * 100_000)
    assert (status, body.startswith(b"this port speaks TLS: use https")) == (400, True)


# --- rubbish ---


def ask(emulator: Emulator, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    try:
        connection.request("POST", path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


# Each HTTP wire: a path, and the headers without which it would only be looked at for its key.
HTTP = {
    "aws": (
        "/",
        {
            "X-Amz-Target": "RekognitionService.DetectLabels",
            "Authorization": "AWS4-HMAC-SHA256 Credential=K/20260101/r/rekognition/aws4_request, SignedHeaders=host, "
            "Signature=a",
        },
    ),
    "azure 3.2": (
        "/vision/v3.2/tag",
        {"Ocp-Apim-Subscription-Key": "K", "Content-Type": "application/octet-stream"},
    ),
    "azure 4.0": (
        "/computervision/imageanalysis:analyze?api-version=2023-10-01&features=tags",
        {"Ocp-Apim-Subscription-Key": "K", "Content-Type": "application/octet-stream"},
    ),
    "google": ("/v1/images:annotate", {"X-Goog-Api-Key": "K"}),
}
GRPC = [CLARIFAI, VISION]

KEYS = st.sampled_from(
    ["Image", "Bytes", "S3Object", "MaxLabels", "MinConfidence", "Features", "Settings", "requests", "image", "content",
     "source", "imageUri", "features", "type", "maxResults", "model"]
)  # fmt: skip
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
bodies = st.one_of(st.binary(max_size=300), json_values.map(lambda value: json.dumps(value).encode()))
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Nothing was logged: what goes wrong inside is, with its traceback."""

    def check() -> None:
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    return check


@pytest.mark.parametrize("wire", HTTP)
@given(body=bodies)
@some
def test_a_rubbish_body_is_refused(emulator: Emulator, quiet: Callable[[], None], wire: str, body: bytes) -> None:
    path, headers = HTTP[wire]
    status, reply = ask(emulator, path, body, headers)
    # To Google an object without images is a batch of none, and an image is refused inside a success.
    assert 400 <= status < 500 or (wire == "google" and status == 200)
    assert b"labelAnnotations" not in json.dumps(json.loads(reply)).encode()
    assert b"Traceback" not in reply
    quiet()


@pytest.mark.parametrize("wire", HTTP)
@given(added=st.dictionaries(words.filter(str.isalnum), words, max_size=3), query=words, key=words)
@some
def test_rubbish_headers_and_queries_are_refused(
    emulator: Emulator, quiet: Callable[[], None], wire: str, added: dict[str, str], query: str, key: str
) -> None:
    path, headers = HTTP[wire]
    spoilt = {
        name: key if name in ("Authorization", "Ocp-Apim-Subscription-Key") else value
        for name, value in headers.items()
    }
    status, reply = ask(emulator, f"{path}{'&' if '?' in path else '?'}{query}", b"\x00", spoilt | added)
    assert 400 <= status < 500
    assert b"Traceback" not in reply
    quiet()


@pytest.mark.parametrize("method", GRPC)
@given(body=st.binary(max_size=300), name=words.filter(str.isalnum), value=words)
@some
def test_rubbish_calls_are_refused(
    emulator: Emulator, quiet: Callable[[], None], method: str, body: bytes, name: str, value: str
) -> None:
    known = ("authorization", "Key K") if method == CLARIFAI else ("x-goog-api-key", "K")
    with loopback_channel(emulator.grpc_url) as channel:
        metadata = (known, ("x-" + name.lower(), value))
        error = channel.unary_unary(method).future(body, timeout=10, metadata=metadata).exception()
    assert error is None or error.code().name in ("INVALID_ARGUMENT", "INTERNAL")
    assert error is None or "Traceback" not in error.details()
    quiet()


begun = st.tuples(st.sampled_from([HTTP2, b"POST / HTTP/1.1\r\n", b"\x16\x03\x01"]), st.binary(max_size=100))


@given(sent=st.binary(max_size=200) | begun.map(b"".join))
@some
@pytest.mark.parametrize("port", ["port", "grpc_port"])
def test_rubbish_instead_of_a_protocol_ends_the_connection(emulator: Emulator, port: str, sent: bytes) -> None:
    assert b"Traceback" not in exchange(getattr(emulator, port), sent)


def test_after_all_of_it_the_emulator_still_answers(emulator: Emulator) -> None:
    path, headers = HTTP["azure 3.2"]
    from tests.emulation import picture

    assert ask(emulator, path, picture(), headers)[0] == 200
