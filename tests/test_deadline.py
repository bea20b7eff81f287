"""A call's deadline over HTTP, and what is known to have left: over TLS, through proxies, behind a token, by the real SDKs."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from apibench_adapters import deadline

from apibench.emulator.tls import Certificate
from apibench.query import registry
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Outcome, ProviderError, ProviderOptions
from tests.servers import http, http_server

Handle = Callable[[socket.socket], object]

SETTINGS: dict[str, dict[str, str]] = {"aws": {}, "azure": {}, "google": {"transport": "rest"}}
BODIES = {
    "aws": b'{"Labels": [{"Name": "Dog", "Confidence": 90.0}]}',
    "azure": b'{"tags": [{"name": "dog", "confidence": 0.9}]}',
    "google": b'{"responses": [{"labelAnnotations": [{"description": "Dog", "score": 0.9}]}]}',
}
BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
TIMEOUT = 0.3
LONGEST = 2.0  # seconds that a call with that timeout may take; what nothing bounds takes more here
LONG = 60  # pieces of what trickles, one each 50 ms

every_vendor = pytest.mark.parametrize("name", SETTINGS)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return Certificate.make("localhost")


@pytest.fixture(autouse=True)
def trusting(certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys that look real, so that an endpoint of https and the user's proxies are taken, and trust in our own authority."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "VISION_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "synthetic")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for scheme in ("http", "https", "all"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)
    certificate.publish(tmp_path / "ca.pem")
    for name in BUNDLES:
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))


@contextmanager
def listening(handle: Handle) -> Iterator[int]:
    """The port of a server whose connections ``handle`` gets, each in a thread of its own; that a client goes is no error."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, ValueError):
                handle(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as tcp:
        tcp.daemon_threads = True
        tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)  # else the system takes a whole upload in
        threading.Thread(target=tcp.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield tcp.server_address[1]
        finally:
            tcp.shutdown()


@contextmanager
def over_tls(
    certificate: Certificate, handle: Callable[[ssl.SSLSocket], object], *, after: float = 0.0
) -> Iterator[str]:
    """The URL of a server with TLS; each handshake begins so many seconds late."""
    context = certificate.context()

    def wrapped(connection: socket.socket) -> None:
        time.sleep(after)
        with context.wrap_socket(connection, server_side=True) as secure:
            handle(secure)

    with listening(wrapped) as port:
        yield f"https://127.0.0.1:{port}"


def read_request(connection: socket.socket) -> None:
    """Take one request off a connection, chunked or not. Raises ValueError where the client goes in the middle of it."""
    with connection.makefile("rb") as file:
        length, chunked = 0, False
        while line := file.readline().strip().lower():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
            chunked |= name == b"transfer-encoding"
        while chunked and (size := int(file.readline(), 16)):
            file.read(size + 2)
        file.readline() if chunked else file.read(length)


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def trickle(connection: socket.socket, begin: bytes) -> None:
    """A head that does not end for three seconds: no read of it ever times out."""
    connection.sendall(begin)
    for _ in range(LONG):
        time.sleep(0.05)
        connection.sendall(b"x")


def ask(
    name: str, url: str, *, data: bytes = b"image", timeout: float = TIMEOUT, **settings: str
) -> tuple[Outcome, float]:
    """One call, and the seconds it took."""
    options = ProviderOptions(endpoint=url, timeout=timeout, settings=SETTINGS[name] | settings)
    provider = registry.adapter(name).create(options)
    begun = time.monotonic()
    try:
        (outcome,) = provider.label([EncodedImage(data, "0" * 64)])
        return outcome, time.monotonic() - begun
    finally:
        provider.close()


def is_lost(outcome: Outcome, *, sent: bool) -> None:
    """An error that says whether something was sent, and so whether it may be billed."""
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.sent, outcome.uncertain) == (ErrorKind.TRANSIENT, sent, sent), outcome


# --- TLS ---


def garbage(connection: ssl.SSLSocket) -> None:
    read_request(connection)
    with socket.socket(fileno=connection.detach()) as plain:
        plain.sendall(b"\x17\x03\x03\x00\x40" + b"z" * 64)  # as application data, and not of these keys


@every_vendor
def test_what_breaks_in_tls_once_the_request_has_left_is_uncertain(name: str, certificate: Certificate) -> None:
    with over_tls(certificate, garbage) as url:
        outcome, _ = ask(name, url, timeout=3.0)
    is_lost(outcome, sent=True)
    assert "ssl" in str(outcome).lower()


@every_vendor
def test_whom_we_do_not_trust_was_sent_nothing(
    name: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Certificate.make("localhost").publish(tmp_path / "other.pem")
    for variable in BUNDLES:
        monkeypatch.setenv(variable, str(tmp_path / "other.pem"))
    with over_tls(certificate, garbage) as url:
        outcome, _ = ask(name, url, timeout=3.0)
    is_lost(outcome, sent=False)
    assert "CERTIFICATE_VERIFY_FAILED" in str(outcome)


@every_vendor
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["goodbye", "no TLS"])
def test_a_handshake_that_breaks_off_was_sent_nothing(name: str, said: bytes) -> None:
    def no_tls(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(said)

    with listening(no_tls) as port:
        outcome, _ = ask(name, f"https://127.0.0.1:{port}", timeout=3.0)
    is_lost(outcome, sent=False)


@every_vendor
def test_a_receiver_that_takes_its_time_does_not_outlast_the_timeout(
    name: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes something of the upload all the while: each block of Azure's in 0.2 seconds, and all of them in nearly three."""
    connect = socket.socket.connect

    def connected(self: socket.socket, address: object) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131_072)  # else the system takes most of it at once
        connect(self, address)  # type: ignore[arg-type]

    def slow(connection: ssl.SSLSocket) -> None:
        while all(connection.recv(16_384) for _ in range(8)):
            time.sleep(0.02)

    monkeypatch.setattr(socket.socket, "connect", connected)
    with over_tls(certificate, slow) as url:
        outcome, took = ask(name, url, data=bytes(18_000_000 if name == "azure" else 3_000_000))
    is_lost(outcome, sent=True)
    assert took < LONGEST


def test_a_connection_that_was_slow_to_make_takes_nothing_of_the_time(certificate: Certificate) -> None:
    """Handshake and reply are each in time, and not together."""

    def late(connection: ssl.SSLSocket) -> None:
        read_request(connection)
        time.sleep(0.55)
        http("200 OK", BODIES["aws"])(connection)

    with over_tls(certificate, late, after=0.55) as url:
        outcome, took = ask("aws", url, timeout=1.0)
    assert isinstance(outcome, Answer), outcome
    assert took > 1.0


# --- proxies ---


def silent(connection: socket.socket) -> None:
    until_closed(connection)


def trickling(connection: socket.socket) -> None:
    connection.recv(65_536)
    trickle(connection, b"HTTP/1.1 200 Connection established\r\nX: ")


@every_vendor
@pytest.mark.parametrize("proxy", [silent, trickling])
def test_a_proxy_that_makes_no_connection_was_told_nothing_of_the_request(
    name: str, proxy: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        outcome, took = ask(name, "https://127.0.0.1:9")
    is_lost(outcome, sent=False)
    assert took < LONGEST


@every_vendor
def test_what_trickles_in_through_a_proxy_does_not_outlast_the_timeout(
    name: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy and the host behind it are one server here."""
    context = certificate.context()

    def tunnel(connection: socket.socket) -> None:
        assert connection.recv(65_536).startswith(b"CONNECT ")
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(connection, server_side=True) as secure:
            read_request(secure)
            trickle(secure, b"HTTP/1.1 200 OK\r\nX: ")

    with listening(tunnel) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        outcome, took = ask(name, "https://127.0.0.1:9")
    is_lost(outcome, sent=True)
    assert took < LONGEST


# --- tokens ---


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """To call with where the tokens of a user of gcloud come from."""
    import google.oauth2.credentials

    user = {"type": "authorized_user", "client_id": "a", "client_secret": "synthetic", "refresh_token": "synthetic"}
    (tmp_path / "user.json").write_text(json.dumps(user))
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    return lambda url: monkeypatch.setattr(google.oauth2.credentials, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{url}/token")


def test_a_token_that_trickles_in_is_waited_for_as_long_as_an_answer(signed_in: Callable[[str], None]) -> None:
    with http_server(lambda connection: trickle(connection, b"HTTP/1.1 200 OK\r\nX: ")) as (url, hits):
        signed_in(url)
        outcome, took = ask("google", "https://127.0.0.1:9")
    is_lost(outcome, sent=False)
    assert len(hits) == 1
    assert took < LONGEST


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        ("400 Bad Request", "invalid_grant", ErrorKind.CREDENTIALS),
        ("401 Unauthorized", "invalid_client", ErrorKind.CREDENTIALS),
    ],
)
def test_a_token_that_is_refused_is_told_and_nothing_was_sent(
    status: str, said: str, kind: ErrorKind, signed_in: Callable[[str], None]
) -> None:
    with http_server(http(status, json.dumps({"error": said}).encode())) as (url, hits):
        signed_in(url)
        outcome, took = ask("google", "https://127.0.0.1:9", timeout=3.0)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.sent, outcome.uncertain, len(hits)) == (kind, False, False, 1)
    assert said in outcome.message
    assert took < LONGEST


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_a_token_server_that_cannot_now_is_asked_once_a_call(transport: str, signed_in: Callable[[str], None]) -> None:
    """google.auth would sleep between three questions, for longer than a call may take; when to ask again, the engine says."""
    with http_server(http("503 Service Unavailable", b"{}")) as (url, hits):
        signed_in(url)
        outcome, took = ask("google", "https://127.0.0.1:9", timeout=3.0, transport=transport)
    is_lost(outcome, sent=False)
    assert "503" in str(outcome)
    assert len(hits) == 1
    assert took < 0.7


def test_a_token_server_that_is_not_there_was_sent_nothing(signed_in: Callable[[str], None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        signed_in(f"http://127.0.0.1:{free.getsockname()[1]}")
        outcome, took = ask("google", "https://127.0.0.1:9", timeout=3.0)
    is_lost(outcome, sent=False)
    assert took < LONGEST


# --- the clock ---


@pytest.mark.parametrize("name", ["aws", "azure", "clarifai", "google"])
def test_a_timeout_of_more_than_a_day_is_refused(name: str) -> None:
    """What is beyond the clock of a socket, or gRPC's, fails at once, and as if a request had been lost."""
    adapter = registry.adapter(name)
    with pytest.raises(ValueError, match=r"^timeout: 10000000000\.0 is not a number from 0 to 86400$"):
        adapter.settings(ProviderOptions(timeout=1e10))
    assert adapter.settings(ProviderOptions(timeout=86_400.0))


def test_a_deadline_ends_with_its_call() -> None:
    """What is asked over the same connections after it, within none, has no deadline and is in no hurry."""

    def late(connection: socket.socket) -> None:
        time.sleep(0.3)
        http("200 OK", b"{}")(connection)

    with http_server(late) as (url, hits), requests.Session() as session:
        session.trust_env = False
        deadline.bound_session(session)
        with deadline.within(0.05):
            pass
        assert session.post(url, b"x").status_code == 200
    assert len(hits) == 1
