"""The Google adapter, over both transports: labels or a typed error; the SDK never sends twice; no key gets out."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apibench_adapters import google as google_module
from apibench_adapters import rpc
from apibench_adapters.google import INFO, GoogleProvider, adapter, parse
from apibench_adapters.google_reply import outcomes
from apibench_adapters.protobuf import Message, field
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.emulator import Emulator
from apibench.emulator.wire import Reply as RpcReply
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Outcome, ProviderError, ProviderOptions, WireKind
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore, canonical, labels_to_json
from tests.emulation import Start, emulators, picture
from tests.fakes import QUICK
from tests.servers import Respond, grpc_server, http, http_server, reset

vision = pytest.importorskip("google.cloud.vision_v1")
grpc = pytest.importorskip("grpc")
responses = pytest.importorskip("responses")
json_format = pytest.importorskip("google.protobuf.json_format")
auth = pytest.importorskip("google.auth")
auth_exceptions = pytest.importorskip("google.auth.exceptions")

TRANSPORTS = ["grpc", "rest"]
both = pytest.mark.parametrize("transport", TRANSPORTS)
URL = "https://vision.googleapis.com/v1/images:annotate"
IMAGE = EncodedImage(picture(), "0" * 64)
KEY = "AIza" + "SyB-abcdefghijklmnopqrstuvwxyz_0123"
TOKEN = "ya29." + "a0AfH6SMB-xyz" * 5
# Synthetic, in the shape that the API reference documents.
GOOD: dict[str, Any] = {
    "responses": [
        {
            "labelAnnotations": [
                {"mid": "/m/01t032", "description": "Golden retriever", "score": 0.98088604, "topicality": 0.98088604},
                {"mid": "/m/0bt9lr", "description": "Dog", "score": 0.75},
                {"description": "Grass", "score": 1.0},
            ]
        }
    ]
}
LABELS = [("Golden retriever", 0.98088604, "/m/01t032"), ("Dog", 0.75, "/m/0bt9lr"), ("Grass", 1.0, None)]


def serialised(body: object) -> bytes:
    """The same response as it comes over gRPC."""
    data: bytes = vision.BatchAnnotateImagesResponse.from_json(json.dumps(body))._pb.SerializeToString()
    return data


GOOD_BYTES = {"rest": json.dumps(GOOD).encode(), "grpc": serialised(GOOD)}


@pytest.fixture(autouse=True)
def no_real_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test can find a real key, or ask a virtual machine's metadata for one."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_", "GCE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)


@pytest.fixture
def start() -> Iterator[Start]:
    with emulators("google") as started:
        yield started


@contextmanager
def answering(transport: str, body: bytes) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """A server that gives this body; and what it was sent, as text that header values are found in."""
    if transport == "grpc":
        with grpc_server(lambda _: RpcReply(200, body)) as (url, calls):
            yield url, lambda: [f"{call.headers} {call.body!r}" for call in calls]
    else:
        with http_server(http("200 OK", body)) as (url, heads):
            yield url, lambda: [head.decode() for head in heads]


def emulated(url: str, transport: str, timeout: float = 5.0, **chosen: Any) -> GoogleProvider:
    options = ProviderOptions(endpoint=url, emulated=True, timeout=timeout, settings={"transport": transport} | chosen)
    return adapter.create(options)


def of_emulator(emulator: Emulator, transport: str, **chosen: Any) -> GoogleProvider:
    return emulated(emulator.grpc_url if transport == "grpc" else emulator.url, transport, **chosen)


def real(transport: str, **options: Any) -> GoogleProvider:
    return adapter.create(ProviderOptions(settings={"transport": transport}, **options))


def images(*data: bytes) -> list[EncodedImage]:
    return [EncodedImage(each, f"{number:064d}") for number, each in enumerate(data)]


def read(outcome: Outcome) -> list[tuple[str, float, str | None]]:
    assert isinstance(outcome, Answer), outcome
    return [(label.name, label.score, label.id) for label in outcome.parsed.labels]


def failed(outcome: Outcome) -> tuple[ErrorKind, bool]:
    assert isinstance(outcome, ProviderError), outcome
    return outcome.kind, outcome.uncertain


# --- answers ---


@both
def test_labels_scores_ids_and_the_raw_body(transport: str) -> None:
    body = GOOD_BYTES[transport]
    with answering(transport, body) as (url, _):
        provider = emulated(url, transport)
        assert provider.host == "127.0.0.1"
        (outcome,) = provider.label([IMAGE])
    assert read(outcome) == LABELS
    assert isinstance(outcome, Answer)
    assert outcome.raw == body
    assert outcome.parsed.model_version is None, "the API names none"
    assert adapter.parse(outcome.raw) == outcome.parsed
    provider.close()


def test_both_transports_bring_the_same_labels_and_the_same_settings(start: Start) -> None:
    emulator = start()
    pictures = images(picture(), picture(10, 200, 3), picture(1, 2, 250))
    answers = [of_emulator(emulator, transport).label(pictures) for transport in TRANSPORTS]
    parsed = [[outcome.parsed for outcome in row if isinstance(outcome, Answer)] for row in answers]
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) == 3
    assert parsed[0][0].labels[0].name == "Golden retriever"
    assert parsed[0][0].model_version == "emulated/tiny"
    settings = [adapter.settings(ProviderOptions(settings={"transport": transport})) for transport in TRANSPORTS]
    assert settings[0] == settings[1] == {"maxResults": 10, "model": ""}, "an answer is not paid for again"


@both
def test_a_batch_is_one_request_and_each_image_has_its_own_part(start: Start, transport: str) -> None:
    """Trap 6: an image's error comes inside a 200."""
    emulator = start()
    data = [picture(15 * number, 100, 0) for number in range(16)]
    data[5] = b"not an image"
    outcomes = of_emulator(emulator, transport).label(images(*data))
    assert emulator.hits == {"answered": 1}
    assert emulator.bill_count == 15
    for number, outcome in enumerate(outcomes):
        if number == 5:
            assert isinstance(outcome, ProviderError)
            assert (outcome.kind, outcome.code, outcome.uncertain) == (ErrorKind.REJECTED, "INVALID_ARGUMENT", False)
            assert "Bad image data" in outcome.message
            continue
        assert isinstance(outcome, Answer), outcome
        scores = {label.name: label.score for label in outcome.parsed.labels}
        assert scores.get("Golden retriever", 0) == pytest.approx(15 * number / (15 * number + 100), abs=1e-4)
        assert parse(outcome.raw) == outcome.parsed, "stored alone, it reads the same"
        assert len(outcome.raw) < 2500


@both
def test_a_whole_batch_comes_back_with_as_many_outcomes_whatever_happens(transport: str) -> None:
    """Trap 6: ``label_detection`` would take the first of no responses."""
    for count in (0, 1, 3):
        body = {"responses": GOOD["responses"] * count}
        raw = serialised(body) if transport == "grpc" else json.dumps(body).encode()
        with answering(transport, raw) as (url, _):
            outcomes = emulated(url, transport).label(images(b"a", b"b"))
        assert [failed(outcome) for outcome in outcomes] == [(ErrorKind.PROTOCOL, True)] * 2, count


def test_labels_that_come_with_an_error_are_an_answer() -> None:
    """ "filled-in image annotations are guaranteed to be correct, even when error is set" """
    body = {"responses": [GOOD["responses"][0] | {"error": {"code": 13, "message": "of another feature"}}]}
    for raw in (json.dumps(body).encode(), serialised(body)):
        (outcome,) = outcomes(raw, 1)
        assert read(outcome) == LABELS
        assert parse(raw).labels


@both
def test_threads_get_their_own_answers(start: Start, transport: str) -> None:
    emulator = start()
    provider = of_emulator(emulator, transport)
    together = threading.Barrier(8, timeout=10)

    def work(worker: int) -> None:
        together.wait()
        for turn in range(4):
            red = 25 * worker + turn
            (outcome,) = provider.label(images(picture(red, 100, 0)))
            assert isinstance(outcome, Answer), outcome
            scores = {label.name: label.score for label in outcome.parsed.labels}
            assert scores.get("Golden retriever", 0) == pytest.approx(red / (red + 100), abs=1e-4)
            assert parse(outcome.raw) == outcome.parsed

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert emulator.hits == {"answered": 32}


def test_a_body_that_is_still_being_read_is_not_replaced_by_another_threads(start: Start) -> None:
    provider = of_emulator(start(), "rest")
    first_is_here, second_is_done = threading.Event(), threading.Event()

    def wait(*_: object, **__: object) -> None:
        if not first_is_here.is_set():
            first_is_here.set()
            assert second_is_done.wait(10)

    provider._connection._client.transport._session.hooks["response"].append(wait)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(provider.label, images(picture(250, 0, 0)))
        assert first_is_here.wait(10)
        second = read(provider.label(images(picture(0, 0, 250)))[0])
        second_is_done.set()
        first = read(reading.result(10)[0])
    assert (first[0][0], second[0][0]) == ("Golden retriever", "Pizza")


# --- one hit for one call, whatever happens ---


FAULTS = [
    ("throttle", ErrorKind.THROTTLED, False),
    ("provisioned", ErrorKind.THROTTLED, False),
    ("429", ErrorKind.THROTTLED, False),
    ("500", ErrorKind.TRANSIENT, False),
    ("503", ErrorKind.TRANSIENT, False),
    ("drop", ErrorKind.TRANSIENT, True),
    ("drop-after", ErrorKind.TRANSIENT, True),
    ("hang:0.4", ErrorKind.TRANSIENT, True),
    ("malformed", ErrorKind.PROTOCOL, True),
    ("empty", ErrorKind.PROTOCOL, True),
    ("html", ErrorKind.PROTOCOL, True),
]


@both
@pytest.mark.parametrize(("fault", "kind", "uncertain"), FAULTS, ids=[row[0] for row in FAULTS])
def test_the_sdk_sends_once_whatever_comes_back(
    start: Start, transport: str, fault: str, kind: ErrorKind, uncertain: bool
) -> None:
    """A 503 would be retried for ten minutes by default."""
    emulator = start(faults=[fault])
    (outcome,) = of_emulator(emulator, transport, timeout=0.25 if "hang" in fault else 5.0).label([IMAGE])
    assert failed(outcome) == (kind, uncertain)
    assert emulator.hits.total() == 1
    if fault == "429":
        assert isinstance(outcome, ProviderError)
        assert outcome.retry_after == 1.0


@both
@pytest.mark.parametrize("fault", ["503", "drop", "empty"])
def test_an_answer_is_never_taken_for_that_of_the_next_image(start: Start, transport: str, fault: str) -> None:
    provider = of_emulator(start(faults=["ok", fault]), transport)
    assert isinstance(provider.label(images(picture()))[0], Answer)
    assert isinstance(provider.label(images(picture(0, 250, 0)))[0], ProviderError)


def test_a_truncated_answer_is_not_one(start: Start) -> None:
    for transport, kind in (("rest", ErrorKind.TRANSIENT), ("grpc", ErrorKind.PROTOCOL)):
        emulator = start(faults=["truncated"])
        (outcome,) = of_emulator(emulator, transport).label([IMAGE])
        assert failed(outcome) == (kind, True)
        assert emulator.hits.total() == 1


UNAUTHENTICATED = (
    b'{"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "Request had invalid credentials."}}'
)
HTTP_FAULTS: list[tuple[str, Respond, ErrorKind, bool]] = [
    ("401", http("401 Unauthorized", UNAUTHENTICATED), ErrorKind.CREDENTIALS, False),
    ("401 without a body", http("401 Unauthorized", b""), ErrorKind.CREDENTIALS, False),
    ("reset", reset, ErrorKind.TRANSIENT, True),
    (
        "half a body",
        lambda c: c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"res'),
        ErrorKind.TRANSIENT,
        True,
    ),
    ("no http", lambda c: c.sendall(b"220 mail.example ESMTP\r\n"), ErrorKind.TRANSIENT, True),
    ("gateway", http("502 Bad Gateway", b"<html>Bad gateway</html>"), ErrorKind.TRANSIENT, True),
    ("another success", http("204 No Content", b""), ErrorKind.PROTOCOL, True),
    ("too large", http("413 Request Entity Too Large", b"<html>413</html>"), ErrorKind.REJECTED, False),
]


@pytest.mark.parametrize(("reply", "kind", "uncertain"), [f[1:] for f in HTTP_FAULTS], ids=[f[0] for f in HTTP_FAULTS])
def test_the_rest_session_sends_once(reply: Respond, kind: ErrorKind, uncertain: bool) -> None:
    """Trap 5: it sends a 401 again twice, even with ``retry=None``, and with anonymous credentials raises InvalidOperation."""
    with http_server(reply) as (url, hits):
        (outcome,) = emulated(url, "rest").label([IMAGE])
        assert failed(outcome) == (kind, uncertain)
        assert len(hits) == 1


def test_a_redirect_is_not_followed() -> None:
    """It would take the image, and the key, elsewhere."""
    with http_server(http("200 OK", GOOD_BYTES["rest"])) as (elsewhere, followed):
        for status in ("302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            moved = (
                f"HTTP/1.1 {status}\r\nLocation: {elsewhere}/v1/images:annotate\r\nContent-Length: 0\r\n\r\n".encode()
            )

            def reply(connection: socket.socket, moved: bytes = moved) -> None:
                connection.sendall(moved)

            with http_server(reply) as (url, hits):
                (outcome,) = emulated(url, "rest").label([IMAGE])
            assert failed(outcome) == (ErrorKind.PROTOCOL, False)
            assert len(hits) == 1
        assert followed == []


def test_a_request_that_is_too_large_is_no_images_fault_in_a_batch() -> None:
    with http_server(http("413 Request Entity Too Large", b"")) as (url, _):
        outcomes = emulated(url, "rest").label(images(b"a", b"b"))
    assert [failed(outcome) for outcome in outcomes] == [(ErrorKind.PROTOCOL, False)] * 2


@both
def test_a_refused_connection_is_transient_and_certain(transport: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (outcome,) = emulated(f"http://127.0.0.1:{port}", transport).label([IMAGE])
    assert failed(outcome) == (ErrorKind.TRANSIENT, False)


def test_the_session_is_looked_for_where_it_is() -> None:
    """It is private: an SDK made otherwise is an error, and not one that silently sends again."""
    from apibench_adapters.google_rest import _session

    with pytest.raises(ProviderError, match="transport=grpc"):
        _session(object())


def test_the_pool_has_a_connection_for_each_thread_and_does_not_retry() -> None:
    options = ProviderOptions(
        endpoint="http://127.0.0.1:9", emulated=True, concurrency=7, settings={"transport": "rest"}
    )
    session = adapter.create(options)._connection._client.transport._session  # type: ignore[attr-defined]
    for url in ("http://127.0.0.1:9", "https://vision.googleapis.com"):
        pool = session.get_adapter(url)
        assert (pool._pool_maxsize, pool.max_retries.total) == (7, 0)


# --- emulated ---

USERS = {
    "GOOGLE_API_USE_MTLS_ENDPOINT": "sometimes",
    "GOOGLE_API_USE_CLIENT_CERTIFICATE": "perhaps",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "example.com",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json",
    "GOOGLE_CLOUD_QUOTA_PROJECT": "my-project",
}


@both
def test_emulated_uses_a_fake_key_and_nothing_of_the_environment(
    transport: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login someone password s3cr3t-of-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    for name, value in USERS.items():
        monkeypatch.setenv(name, value)
    with answering(transport, GOOD_BYTES[transport]) as (url, sent):
        provider = emulated(url, transport)
        (outcome,) = provider.label([IMAGE])
        assert isinstance(outcome, Answer), outcome
        (head,) = sent()
    assert "EMULATED" in head
    for secret in (KEY, "my-project", "uthorization", "s3cr3t"):
        assert secret not in head
    assert {name: os.environ[name] for name in USERS} == USERS, "left as it was"
    assert "GOOGLE_API_KEY" in os.environ


@both
@pytest.mark.parametrize("endpoint", [None, "http://vision.example", "http://10.0.0.1", "http://127.0.0.1.example"])
def test_emulated_calls_never_leave_the_machine(transport: str, endpoint: str | None) -> None:
    options = ProviderOptions(endpoint=endpoint, emulated=True, settings={"transport": transport})
    assert "emulator" in refusal(lambda: adapter.create(options)).message


# --- settings ---


def test_the_settings_are_sent() -> None:
    with grpc_server(lambda _: RpcReply(200, GOOD_BYTES["grpc"])) as (url, calls):
        provider = emulated(url, "grpc", maxResults=3, model="builtin/latest")
        provider.label([IMAGE])
        assert provider.settings == {"maxResults": 3, "model": "builtin/latest"}
        sent = vision.BatchAnnotateImagesRequest.deserialize(calls[0].body)
    (request,) = sent.requests
    (feature,) = request.features
    assert request.image.content == IMAGE.data
    assert (feature.type_, feature.max_results, feature.model) == (4, 3, "builtin/latest")


@pytest.mark.parametrize(
    "wrong",
    [
        {"maxResult": 3},
        {"maxResults": 0},
        {"maxResults": 51},
        {"maxResults": "x"},
        {"maxResults": True},
        {"model": "builtin/weekly"},
        {"model": 3},
        {"transport": "soap"},
        {"transport": 1},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adapter.settings(ProviderOptions(settings=wrong))


def test_the_transport_decides_the_wire() -> None:
    assert adapter.wire(ProviderOptions()) is WireKind.GRPC, "the SDK's own choice"
    assert adapter.wire(ProviderOptions(settings={"transport": "rest"})) is WireKind.HTTP
    with pytest.raises(ValueError, match="transport"):
        adapter.wire(ProviderOptions(settings={"transport": "soap"}))


# --- hosts ---


@both
def test_the_host_is_the_one_the_sdk_resolved(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    def live(host: str) -> bool:
        return any(re.fullmatch(pattern, host) for pattern in INFO.hosts)

    assert real(transport).host == "vision.googleapis.com"
    assert real(transport, endpoint="https://eu-vision.googleapis.com").host == "eu-vision.googleapis.com"
    assert adapter.endpoint(ProviderOptions()) is None
    monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", "always")
    assert real(transport).host == "vision.mtls.googleapis.com"
    monkeypatch.delenv("GOOGLE_API_USE_MTLS_ENDPOINT")
    for host in (
        "vision.googleapis.com",
        "us-vision.googleapis.com",
        "eu-vision.googleapis.com",
        "vision.mtls.googleapis.com",
    ):
        assert live(host)
    monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "example.com")
    assert adapter.endpoint(ProviderOptions()) == f"https://{real(transport).host}" == "https://vision.example.com"
    for host in (
        "vision.example.com",
        "vision.googleapis.com.example",
        "xvision.googleapis.com",
        "evil-vision.googleapis.com",
    ):
        assert not live(host)


@both
def test_a_wrong_variable_of_googles_is_one_line(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", "sometimes")
    message = refusal(lambda: real(transport)).message
    assert "GOOGLE_API_USE_MTLS_ENDPOINT" in message
    assert "\n" not in message


# --- credentials ---


def refusal(make: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        make()
    assert caught.value.kind is ErrorKind.CREDENTIALS
    return caught.value


def played(transport: str, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Real credentials' calls go to a test's gRPC server, in place of TLS to Google's."""
    assert transport == "grpc"
    monkeypatch.setattr(rpc, "secure_channel", lambda *_: rpc.loopback_channel(url))


def test_a_real_key_goes_in_a_header_over_http() -> None:
    with responses.RequestsMock() as mock:
        mock.post(URL, body=GOOD_BYTES["rest"])
        (outcome,) = real("rest").label([IMAGE])
        assert isinstance(outcome, Answer), outcome
        (call,) = mock.calls
    assert call.request.headers["x-goog-api-key"] == KEY
    assert "Authorization" not in call.request.headers
    assert KEY not in call.request.url
    assert json.loads(call.request.body)["requests"][0]["features"] == [{"type": 4, "maxResults": 10}]


def test_a_password_in_the_users_netrc_stays_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """requests would put it in the Authorization header: beside a key, and in a token's place."""
    (tmp_path / "netrc").write_text("default login someone password s3cr3t\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with responses.RequestsMock() as mock:
        mock.post(URL, json=GOOD)
        provider = real("rest")
        (outcome,) = provider.label([IMAGE])
        provider.close()
        assert isinstance(outcome, Answer), outcome
        assert "Authorization" not in mock.calls[0].request.headers


def test_a_real_key_goes_in_metadata_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    with grpc_server(lambda _: RpcReply(200, GOOD_BYTES["grpc"])) as (url, calls):
        played("grpc", monkeypatch, url)
        (outcome,) = real("grpc").label([IMAGE])
    assert isinstance(outcome, Answer), outcome
    assert calls[0].headers["x-goog-api-key"] == KEY
    assert "authorization" not in calls[0].headers


def of_default(monkeypatch: pytest.MonkeyPatch, credentials: object) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.setattr("google.auth.default", lambda **_: (credentials, None))


def test_default_credentials_send_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = pytest.importorskip("google.oauth2.credentials")
    of_default(monkeypatch, credentials.Credentials(TOKEN, quota_project_id="mine"))
    with responses.RequestsMock() as mock:
        mock.post(URL, body=GOOD_BYTES["rest"])
        assert isinstance(real("rest").label([IMAGE])[0], Answer)
        headers = [mock.calls[0].request.headers]
    with grpc_server(lambda _: RpcReply(200, GOOD_BYTES["grpc"])) as (url, calls):
        played("grpc", monkeypatch, url)
        assert isinstance(real("grpc").label([IMAGE])[0], Answer)
        headers.append(calls[0].headers)
    for sent in headers:
        assert sent["authorization"] == f"Bearer {TOKEN}"
        assert sent["x-goog-user-project"] == "mine"
        assert sent["x-goog-api-client"].count("gl-python") == 1


@both
def test_a_token_that_cannot_be_had_is_told_and_nothing_is_sent(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymous = pytest.importorskip("google.auth.credentials").AnonymousCredentials

    class Broken(anonymous):  # type: ignore[misc]
        error: Exception

        def before_request(self, *_: object, **__: object) -> None:
            raise self.error

    credentials = Broken()
    of_default(monkeypatch, credentials)
    with grpc_server(lambda _: None) as (url, calls), responses.RequestsMock() as mock:
        if transport == "grpc":
            played("grpc", monkeypatch, url)
        provider = real(transport)
        for error, kind in (
            (auth_exceptions.RefreshError("invalid_grant: Token has been expired or revoked."), ErrorKind.CREDENTIALS),
            (auth_exceptions.RefreshError("the token's host is busy", retryable=True), ErrorKind.TRANSIENT),
            (auth_exceptions.TransportError("oauth2.googleapis.com is not reached"), ErrorKind.TRANSIENT),
        ):
            credentials.error = error
            (outcome,) = provider.label([IMAGE])
            assert failed(outcome) == (kind, False)
        assert len(calls) == len(mock.calls) == 0


def test_no_credentials_is_one_line_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "  ")
    error = refusal(lambda: adapter.create(ProviderOptions()))
    assert "GOOGLE_API_KEY" in error.message
    assert "gcloud auth application-default login" in error.message
    assert "\n" not in error.message


def test_a_credentials_file_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert "key.json" in refusal(lambda: adapter.create(ProviderOptions())).message
    for content in ("{", "{}", "[]", '{"type": "service_account"}', '{"type": "authorized_user"}'):
        (tmp_path / "key.json").write_text(content)
        assert "\n" not in refusal(lambda: adapter.create(ProviderOptions())).message


@pytest.mark.parametrize("key", [f"{KEY} {KEY}", f"{KEY}\nX-Other: 1", "schlüssel"])
def test_what_is_no_key_is_not_told_to_the_world(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", key)
    error = refusal(lambda: adapter.create(ProviderOptions()))
    assert "GOOGLE_API_KEY" in error.message
    assert KEY not in error.message


@both
def test_a_key_is_copied_with_its_line_end(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", f" {KEY}\r\n")
    assert real(transport)._connection._credentials.token == KEY  # type: ignore[attr-defined]


@both
def test_real_keys_do_not_go_over_plain_http(transport: str) -> None:
    assert "https" in refusal(lambda: real(transport, endpoint="http://127.0.0.1:9")).message
    assert "https" in refusal(lambda: real(transport, endpoint="ftp://127.0.0.1:9")).message


# --- secrets ---

ECHO = {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": f"key {KEY} and token {TOKEN} may not"}}


def test_no_key_ends_up_in_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through the engine into the store: an answer, an error that repeats the key, and a reply that is not readable."""
    provider = real("rest")
    busy = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": f"slow down, {KEY} {TOKEN}"}}
    key = Key("default", "google", "live", canonical(provider.settings))
    with ResponseStore.open(tmp_path / "s.sqlite") as store, responses.RequestsMock() as mock:
        mock.post(URL, json=busy, status=429)
        mock.post(URL, body=f"<html>{KEY}")
        mock.post(URL, body=GOOD_BYTES["rest"])
        report = Engine(provider, store, key, policy=QUICK).run([Question(IMAGE.sha256, "x", lambda: IMAGE.data)])
        assert (report.answered, report.sent, report.uncertain) == (1, 3, 1)
        ((raw, labels),) = store._connection.execute("SELECT raw, labels FROM responses").fetchall()
        assert raw == GOOD_BYTES["rest"]
        assert labels == labels_to_json(parse(raw).labels), "what is stored can be read again from what was paid for"
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"RESOURCE_EXHAUSTED" in held
    for secret in (KEY, TOKEN):
        assert secret.encode() not in held


def test_an_error_that_repeats_a_key_is_kept_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short = "k3y-unlike-any"  # nothing but its being the key gives it away
    monkeypatch.setenv("GOOGLE_API_KEY", short)
    with responses.RequestsMock() as mock:
        mock.post(URL, json={"error": ECHO["error"] | {"message": f"{short} is not it"}}, status=403)
        (outcome,) = real("rest").label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert outcome.kind is ErrorKind.CREDENTIALS
    assert outcome.raw is not None
    for found in (outcome.message, outcome.raw.decode(), repr(outcome), str(outcome.code)):
        assert short not in found


def test_no_key_is_logged_even_by_the_sdk(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG the SDK logs a call's metadata; the key is added below that."""
    with caplog.at_level(logging.DEBUG):
        for transport in TRANSPORTS:
            with answering(transport, GOOD_BYTES[transport]) as (url, sent):
                emulated(url, transport).label([IMAGE])
                assert "EMULATED" in sent()[0]
    logged = [record for record in caplog.records if record.name.startswith("google")]
    assert logged, "the SDK does log"
    assert not any("EMULATED" in str(record.__dict__) for record in logged)


# --- whatever comes ---

names = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable())
some_labels = st.lists(
    st.fixed_dictionaries(
        {"description": names, "score": st.integers(0, 2**24).map(lambda n: n / 2**24)},
        optional={"mid": names, "topicality": st.just(0.5), "locale": st.just("en")},
    ),
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(
    some_labels,
    st.sampled_from(["", "gs://somewhere", "emulated/tiny"]),
    st.sampled_from(["", " ", "\n", "\r\n", "\t", "\n\n  "]),
    st.sampled_from([None, 2]),
)
def test_the_two_forms_are_told_apart_and_read_the_same(found: Any, uri: str, space: str, indent: int | None) -> None:
    """White space before JSON makes bytes that could begin a message: a line end is the tag of its first field."""
    message = vision.BatchAnnotateImagesResponse.from_json(
        json.dumps({"responses": [{"labelAnnotations": found, "context": {"uri": uri}}]})
    )._pb
    of_bytes = parse(message.SerializeToString())
    for ascii_only in (True, False):
        text = space + json_format.MessageToJson(message, indent=indent, ensure_ascii=ascii_only)
        assert parse(text.encode()) == of_bytes
    assert [label.name for label in of_bytes.labels] == [label["description"] for label in found]
    assert of_bytes.model_version == ("emulated/tiny" if uri.startswith("emulated/") else None)


def test_a_message_that_looks_like_json_is_one() -> None:
    """A first part of 123 bytes: a line end, a brace, a quotation mark."""
    labels = [{"description": "D" * 100, "score": 0.5}, {"description": "x" * 5, "score": 0.25}]
    raw = serialised({"responses": [{"labelAnnotations": labels}]})
    assert raw.startswith(b'\n{"'), raw
    assert [label.score for label in parse(raw).labels] == [0.5, 0.25]


def test_json_that_looks_like_a_message_is_none() -> None:
    """A line end, then JSON whose every byte could be of a message's fields, but for those within its labels."""
    start = b'\n{"responses":[{"labelAnnotations":[{"score":0.5,"description":"'
    name = b"x" * (2 + 116 - len(start)) + b"=abcd(("  # what is left of 123 bytes: a fixed-width number, a varint
    raw = start + name + b'",' + b'"mid":"/m/1"}]}]}'.ljust(44)  # a field of 44 bytes
    assert len(Message(raw).serialised(1)) == 1, "it could be"
    (label,) = parse(raw).labels
    assert (label.name, label.score, label.id) == (name.decode(), 0.5, "/m/1")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 6), st.sampled_from(TRANSPORTS))
def test_no_mutated_response_escapes_as_anything_but_labels_or_a_protocol_error(
    at: int, junk: bytes, drop: int, form: str
) -> None:
    data = bytearray(GOOD_BYTES[form])
    at %= len(data)
    data[at : at + drop] = junk
    try:
        parsed = parse(bytes(data))
    except ProviderError as error:
        assert error.kind is ErrorKind.PROTOCOL  # noqa: PT017
        assert error.uncertain  # noqa: PT017
    else:
        assert all(0.0 <= label.score <= 1.0 for label in parsed.labels)


def test_no_mutated_reply_makes_the_adapter_raise_over_http() -> None:
    provider, said = emulated("http://127.0.0.1:9", "rest"), [(200, b"")]
    bodies = [
        GOOD_BYTES["rest"],
        json.dumps(ECHO).encode(),
        b'{"error": {"code": 3}, "responses": [{"error": {"code": 3}}]}',
    ]

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(bodies),
        st.sampled_from([200, 204, 302, 400, 401, 429, 500]),
        st.integers(0, 999),
        st.binary(max_size=4),
    )
    def mutate(body: bytes, status: int, at: int, junk: bytes) -> None:
        at %= len(body)
        said[0] = (status, body[:at] + junk + body[at + 1 :])
        (outcome,) = provider.label([IMAGE])
        if isinstance(outcome, Answer):
            assert status == 200
            assert (outcome.raw, parse(outcome.raw)) == (said[0][1], outcome.parsed)
        else:
            assert isinstance(outcome, ProviderError)

    with responses.RequestsMock() as mock:
        mock.add_callback("POST", "http://127.0.0.1:9/v1/images:annotate", lambda _: (said[0][0], {}, said[0][1]))
        mutate()


def test_no_mutated_reply_makes_the_adapter_raise_over_grpc() -> None:
    said = [b""]
    with grpc_server(lambda _: RpcReply(200, said[0])) as (url, _):
        provider = emulated(url, "grpc")

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, 999), st.binary(max_size=4), st.integers(0, 4))
        def mutate(at: int, junk: bytes, drop: int) -> None:
            body = GOOD_BYTES["grpc"]
            at %= len(body)
            said[0] = body[:at] + junk + body[at + drop :]
            (outcome,) = provider.label([IMAGE])
            if isinstance(outcome, Answer):
                assert (outcome.raw, parse(outcome.raw)) == (said[0], outcome.parsed)
            else:
                assert isinstance(outcome, ProviderError)

        mutate()


def test_one_image_that_cannot_be_read_leaves_the_others_of_its_batch() -> None:
    bad = {"labelAnnotations": [{"description": "Dog", "score": 7}]}
    body = {"responses": [*GOOD["responses"], bad, *GOOD["responses"]]}
    for raw in (json.dumps(body).encode(), serialised(body)):
        first, second, third = outcomes(raw, 3)
        assert read(first) == read(third) == LABELS
        assert failed(second) == (ErrorKind.PROTOCOL, True)


def test_a_status_whose_details_cannot_be_read_is_still_what_it_is() -> None:
    """The SDK stumbles over them, and raises something else."""
    from apibench.emulator.wire import RpcError

    for details in (b"\xff\xff", field(1, b"\x08"), b"\x08\x03"):  # junk, and a status that is another one
        reply = RpcReply(200, b"", rpc=RpcError("RESOURCE_EXHAUSTED", "slow down", details))
        with grpc_server(lambda _, reply=reply: reply) as (url, hits):  # type: ignore[misc]
            (outcome,) = emulated(url, "grpc").label([IMAGE])
        assert failed(outcome) == (ErrorKind.THROTTLED, False)
        assert len(hits) == 1


def test_reading_needs_no_sdk() -> None:
    code = f"""
        import sys
        sys.modules |= dict.fromkeys(("google", "google.auth", "grpc", "requests"))
        from apibench_adapters.google import adapter
        from apibench.query.contract import ProviderOptions
        for raw in ({GOOD_BYTES["rest"]!r}, {GOOD_BYTES["grpc"]!r}):
            assert len(adapter.parse(raw).labels) == 3
        adapter.settings(ProviderOptions()), adapter.endpoint(ProviderOptions()), adapter.wire(ProviderOptions())
    """
    import textwrap

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True, capture_output=True)


def test_scopes_and_numbers_are_the_sdks() -> None:
    """What is written down here, so that no SDK is needed for it, is what the SDK says."""
    from apibench_adapters import google_reply
    from google.cloud.vision_v1.services.image_annotator.transports import ImageAnnotatorGrpcTransport

    assert ImageAnnotatorGrpcTransport.AUTH_SCOPES == google_module.SCOPES
    assert vision.Feature.Type.LABEL_DETECTION == google_module.LABEL_DETECTION
    assert {code.value[0]: code.name for code in grpc.StatusCode} == dict(enumerate(google_reply.CODES))
    fields = vision.AnnotateImageResponse.pb(vision.AnnotateImageResponse()).DESCRIPTOR.fields_by_name
    numbers = [fields[name].number for name in ("label_annotations", "error", "context")]
    assert numbers == [google_reply.LABELS, google_reply.ERROR, google_reply.CONTEXT]
