"""gRPC as the adapters use it: one request a call, each thread's own reply, and what a status says."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apibench_adapters import rpc

from apibench.emulator.wire import Reply, Request, RpcError
from apibench.query import registry
from apibench.query.contract import EncodedImage, ErrorKind, ProviderError, ProviderOptions
from apibench.query.engine import Engine, HaltReason
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, questions
from tests.servers import grpc_server

grpc = pytest.importorskip("grpc")

METHOD = "/some.Service/Method"
Answer = Callable[[Request], Reply | None]


@contextmanager
def plain_server(serve: Callable[[bytes, Any], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server of grpc's own, for any method, which sends a status without trailing metadata unless told to."""
    hits: list[bytes] = []

    def counted(body: bytes, context: Any) -> bytes:
        hits.append(body)
        return serve(body, context)

    class Every(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(counted)

    served = grpc.server(ThreadPoolExecutor(4), handlers=(Every(),))
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    try:
        yield f"http://127.0.0.1:{port}", hits
    finally:
        served.stop(None).wait()


def refused(code: str, message: str = "so it is") -> Answer:
    return lambda _: Reply(200, b"", rpc=RpcError(code, message))


def status_of(url: str, timeout: float = 5.0, channel: Any = None) -> rpc.Status:
    opened = rpc.KeepingChannel(channel or rpc.loopback_channel(url))
    with opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary(METHOD)(b"", timeout=timeout)
    return rpc.Status.of(caught.value)


# --- what a status says ---


@pytest.mark.parametrize(
    ("code", "message", "uncertain"),
    [
        ("UNAVAILABLE", "so it is", False),
        ("INTERNAL", "so it is", False),
        ("DATA_LOSS", "so it is", False),
        ("PERMISSION_DENIED", "so it is", False),
        # That it took too long, or was given up, does not say that it was not done; nor does a proxy that lost sight of it.
        ("DEADLINE_EXCEEDED", "so it is", True),
        ("CANCELLED", "so it is", True),
        ("UNKNOWN", "so it is", True),
        ("UNAVAILABLE", "upstream connect error or disconnect/reset before headers", True),
    ],
)
def test_a_status_of_the_service_is_certain_unless_it_says_that_work_was_begun(
    code: str, message: str, uncertain: bool
) -> None:
    with grpc_server(refused(code, message)) as (url, hits):
        status = status_of(url)
    assert (status.code, status.details, status.from_service, status.uncertain) == (code, message, True, uncertain)
    assert status.trailers["x-request-id"]
    assert len(hits) == 1


def test_a_host_that_cannot_be_resolved_was_sent_nothing() -> None:
    """In the words of grpcio 1.85, and of those before."""
    for details in ("errors resolving vision.example:443: [...]", "DNS resolution failed for vision.example:443: ..."):
        assert not rpc.Status("UNAVAILABLE", details, False, {}, was_down=True).uncertain
        assert rpc.Status("UNAVAILABLE", details, False, {}).uncertain, (
            "who cannot resolve is somebody behind the service"
        )
    assert rpc.Status("UNAVAILABLE", "recvmsg:Connection reset by peer", False, {}).uncertain


def test_a_call_that_is_dropped_is_not_the_services_status_and_uncertain() -> None:
    with grpc_server(lambda _: None) as (url, hits):
        status = status_of(url)
    assert (status.code, status.from_service, status.uncertain) == ("UNAVAILABLE", False, True)
    assert len(hits) == 1


def test_a_time_out_is_uncertain() -> None:
    never = threading.Event()

    def wait(_: Request) -> Reply | None:
        never.wait(2)
        return None

    with grpc_server(wait) as (url, hits):
        status = status_of(url, timeout=0.2)
        never.set()
    assert (status.code, status.from_service, status.uncertain) == ("DEADLINE_EXCEEDED", False, True)
    assert len(hits) == 1


def test_a_connection_that_breaks_in_a_call_is_uncertain() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def slam() -> None:
            connection, _ = listening.accept()
            connection.sendall(bytes.fromhex("000000040000000000"))  # the settings of HTTP/2, then nothing
            while b"some.Service" not in (data := connection.recv(65536)) and data:
                pass
            connection.close()

        thread = threading.Thread(target=slam, daemon=True)
        thread.start()
        status = status_of(f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join(5)
    assert (status.code, status.from_service, status.uncertain) == ("UNAVAILABLE", False, True)


def test_what_never_connected_was_never_sent() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    status = status_of(f"http://127.0.0.1:{port}")
    assert (status.code, status.from_service, status.uncertain) == ("UNAVAILABLE", False, False)


@pytest.mark.parametrize("name", ["clarifai", "google"])
def test_a_gateway_that_cannot_connect_was_sent_something_and_one_that_is_gone_was_not(name: str) -> None:
    """The words are the same: only the connection tells."""

    def leak(_: bytes, context: Any) -> bytes:
        details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:192.0.2.1:443: Connection refused"
        context.abort(grpc.StatusCode.UNAVAILABLE, details)
        raise AssertionError

    with plain_server(leak) as (url, hits):
        provider = registry.adapter(name).create(ProviderOptions(endpoint=url, emulated=True, timeout=5.0))

        def ask() -> tuple[bool, bool]:
            (outcome,) = provider.label([EncodedImage(b"image", "0" * 64)])
            assert isinstance(outcome, ProviderError)
            assert outcome.message.startswith("UNAVAILABLE: failed to connect to all addresses")
            return outcome.sent, outcome.uncertain

        # A connection that this call makes, and one that was there.
        assert [ask(), ask()] == [(True, True)] * 2
        assert len(hits) == 2
    assert [ask(), ask()] == [(False, False)] * 2
    provider.close()
    assert len(hits) == 2


def test_a_status_without_trailing_metadata_may_be_the_librarys() -> None:
    def abort(_: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.INTERNAL, "stream broke")
        raise AssertionError

    with plain_server(abort) as (url, hits):
        status = status_of(url)
    assert (status.code, status.from_service, status.uncertain) == ("INTERNAL", False, True)
    assert len(hits) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RESOURCE_EXHAUSTED", ErrorKind.THROTTLED),
        ("UNAVAILABLE", ErrorKind.TRANSIENT),
        ("UNAUTHENTICATED", ErrorKind.CREDENTIALS),
        ("PERMISSION_DENIED", ErrorKind.CREDENTIALS),
        ("INVALID_ARGUMENT", ErrorKind.PROTOCOL),
        ("UNIMPLEMENTED", ErrorKind.CREDENTIALS),
    ],
)
def test_a_status_is_an_error_of_a_kind_and_holds_no_secret(code: str, kind: ErrorKind) -> None:
    status = rpc.Status(code, "the key\nk3y is it", True, {})
    error = status.error(None, "k3y", retry_after=2.0)
    assert (error.kind, error.code, error.retry_after, error.uncertain) == (kind, code, 2.0, False)
    assert error.message == f"{code}: the key [removed] is it"
    assert status.error(ErrorKind.QUOTA).kind is ErrorKind.QUOTA


@pytest.mark.parametrize("path", ["clarifai", "google"])
def test_an_address_where_no_grpc_is_spoken_stops_a_run_at_once(path: str, tmp_path: Path) -> None:
    """Of anybody's: a server for HTTP/1.1 has said no word of gRPC, and nothing that is sent there can be billed."""

    class Page(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        provider = registry.adapter(path).create(ProviderOptions(endpoint=url, emulated=True, timeout=5.0))
        with ResponseStore.open(tmp_path / "s.sqlite") as store:
            report = Engine(provider, store, KEY, policy=QUICK, concurrency=1).run(questions(2))
            assert (store.calls("default"), store.uncertain(KEY)) == (0, {})
        provider.close()
        server.shutdown()
    assert (report.halted, report.sent, report.uncertain) == (HaltReason.CREDENTIALS, 0, 0)
    assert report.message.startswith("no gRPC is spoken at this address (")


# --- one hit for one call ---

RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def unavailable(_: bytes, context: Any) -> bytes:
    context.set_trailing_metadata([("grpc-retry-pushback-ms", "1")])
    context.abort(grpc.StatusCode.UNAVAILABLE, "come again at once")
    raise AssertionError


def test_unavailable_is_one_hit_even_where_a_service_configuration_or_the_server_asks_for_more() -> None:
    configured = ("grpc.service_config", json.dumps(RETRY))
    with plain_server(unavailable) as (url, hits):
        usual = grpc.insecure_channel(rpc.target(url), options=[configured, ("grpc.enable_http_proxy", 0)])
        status_of(url, channel=usual)
        assert len(hits) == 4, "the library does retry, unless told not to"
        hits.clear()
        ours = grpc.insecure_channel(rpc.target(url), options=[configured, *rpc.options(emulated=True)])
        assert status_of(url, channel=ours).uncertain is False
        assert len(hits) == 1
        hits.clear()
        status_of(url)
        assert len(hits) == 1


def test_real_and_emulated_channels_have_no_retry_and_no_configuration_of_a_resolver() -> None:
    for emulated in (True, False):
        options = dict(rpc.options(emulated=emulated))
        assert options["grpc.enable_retries"] == 0
        assert options["grpc.service_config_disable_resolution"] == 1
    assert dict(rpc.options(emulated=True))["grpc.enable_http_proxy"] == 0
    assert "grpc.enable_http_proxy" not in dict(rpc.options(emulated=False)), "a real call may need the user's proxy"


def test_proxies_are_ignored_when_emulated() -> None:
    """The environment of every test names a proxy that is not there."""
    with grpc_server(lambda _: Reply(200, b"here")) as (url, hits):
        assert status_of(url, channel=grpc.insecure_channel(rpc.target(url))).code == "UNAVAILABLE"
        assert hits == []
        with rpc.loopback_channel(url) as channel:
            assert channel.unary_unary(METHOD)(b"", timeout=5) == b"here"
    assert len(hits) == 1


def test_grpcs_other_way_to_a_proxy_is_not_taken_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", "127.0.0.1:1")
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8")
    with grpc_server(lambda _: Reply(200, b"here")) as (url, hits):
        taken = grpc.insecure_channel(rpc.target(url), options=[("grpc.enable_http_proxy", 0)])
        assert status_of(url, channel=taken).code == "UNAVAILABLE"
        assert hits == []
        with rpc.loopback_channel(url) as channel:
            assert channel.unary_unary(METHOD)(b"", timeout=5) == b"here"


def test_large_messages_pass_both_ways() -> None:
    large = bytes(9 * 1024 * 1024)
    with grpc_server(lambda request: Reply(200, request.body)) as (url, _), rpc.loopback_channel(url) as channel:
        assert channel.unary_unary(METHOD)(large, timeout=10) == large


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("https://vision.googleapis.com", "vision.googleapis.com:443"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080/x", "[::1]:8080"),
    ],
)
def test_a_target_is_a_host_and_a_port(endpoint: str, target: str) -> None:
    assert rpc.target(endpoint) == target


# --- the reply as received ---


def test_a_reply_is_kept_also_where_the_sdk_cannot_read_it() -> None:
    def unread(_: bytes) -> Any:
        raise ValueError("no message")

    with (
        grpc_server(lambda _: Reply(200, b"\xff\xfe")) as (url, _),
        rpc.KeepingChannel(rpc.loopback_channel(url)) as channel,
    ):
        assert channel.received.raw is None
        with pytest.raises(ValueError, match="no message"):
            channel.unary_unary(METHOD, None, unread)(b"", timeout=5)
        assert channel.received.raw == b"\xff\xfe"
        channel.received.raw = None
        message, call = channel.unary_unary(METHOD, None, bytes.hex).with_call(b"", timeout=5)
        assert (message, channel.received.raw) == ("fffe", b"\xff\xfe")
        assert call.code() is grpc.StatusCode.OK
        with pytest.raises(NotImplementedError):
            channel.unary_unary(METHOD).future(b"")


def test_a_status_leaves_no_reply_behind() -> None:
    with grpc_server(refused("INTERNAL")) as (url, _), rpc.KeepingChannel(rpc.loopback_channel(url)) as channel:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(METHOD)(b"", timeout=5)
        assert channel.received.raw is None


def test_each_thread_has_its_own_reply() -> None:
    together = threading.Barrier(8, timeout=10)
    with (
        grpc_server(lambda request: Reply(200, b"reply to " + request.body)) as (url, hits),
        rpc.KeepingChannel(rpc.loopback_channel(url)) as channel,
    ):
        # Below an interceptor too, as the SDKs put theirs on top.
        method = grpc.intercept_channel(channel, Passing()).unary_unary(METHOD)

        def work(worker: int) -> None:
            assert channel.received.raw is None
            together.wait()
            for turn in range(20):
                mine = b"%d/%d" % (worker, turn)
                assert method(mine, timeout=5) == b"reply to " + mine
                assert channel.received.raw == b"reply to " + mine

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    assert len(hits) == 160


def test_a_reply_that_is_still_being_read_is_not_replaced_by_another_threads() -> None:
    first_is_here, second_is_done = threading.Event(), threading.Event()

    def slowly(data: bytes) -> bytes:
        first_is_here.set()
        assert second_is_done.wait(10)
        return data

    with (
        grpc_server(lambda request: Reply(200, request.body)) as (url, _),
        rpc.KeepingChannel(rpc.loopback_channel(url)) as channel,
        ThreadPoolExecutor(1) as pool,
    ):

        def first() -> bytes | None:
            channel.unary_unary(METHOD, None, slowly)(b"first", timeout=10)
            return channel.received.raw

        reading = pool.submit(first)
        assert first_is_here.wait(10)
        channel.unary_unary(METHOD)(b"second", timeout=10)
        second_is_done.set()
        assert reading.result(10) == b"first"
        assert channel.received.raw == b"second"


class Passing(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)
