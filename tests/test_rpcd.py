"""The emulator's gRPC server: bytes in, bytes out, a service's own statuses told from a broken connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

grpc = pytest.importorskip("grpc")

from apibench_adapters.rpc import KeepingChannel, Status, loopback_channel  # noqa: E402

from apibench.emulator.rpcd import RpcServer  # noqa: E402
from apibench.emulator.wire import Reply, Request, RpcError  # noqa: E402
from apibench.errors import ApibenchError  # noqa: E402


def handle(request: Request) -> Reply | None:
    match request.path:
        case "/x.Y/Echo":
            assert request.headers["x-word"] == "hello"
            return Reply(200, request.body)
        case "/x.Y/Cut":
            return Reply(200, request.body, cut=2)
        case "/x.Y/Drop":
            return None
        case "/x.Y/Fail":
            return Reply(0, b"", rpc=RpcError("RESOURCE_EXHAUSTED", "slow down", b"details"))
        case _:
            return Reply(404, b"")


@pytest.fixture
def server() -> Iterator[RpcServer]:
    made = RpcServer(("127.0.0.1", 0), handle)
    made.start()
    yield made
    made.stop()


def call(server: RpcServer, method: str) -> bytes:
    with KeepingChannel(loopback_channel(f"http://127.0.0.1:{server.port}")) as channel:
        reply = channel.unary_unary(f"/x.Y/{method}")(b"body", timeout=5, metadata=(("x-word", "hello"),))
    assert isinstance(reply, bytes)
    return reply


def status(server: RpcServer, method: str) -> Status:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, method)
    return Status.of(caught.value)


def test_messages_pass_as_bytes(server: RpcServer) -> None:
    assert call(server, "Echo") == b"body"
    assert call(server, "Cut") == b"bo"


def test_a_services_own_status_comes_with_trailers_and_a_dropped_call_without(server: RpcServer) -> None:
    failed = status(server, "Fail")
    assert (failed.code, failed.details, failed.from_service) == ("RESOURCE_EXHAUSTED", "slow down", True)
    assert failed.trailers["grpc-status-details-bin"] == b"details"
    dropped = status(server, "Drop")
    assert (dropped.code, dropped.from_service, dropped.uncertain) == ("UNAVAILABLE", False, True)
    assert status(server, "Nothing").code == "UNIMPLEMENTED"


def test_a_port_in_use_is_named_and_never_shared(server: RpcServer) -> None:
    with pytest.raises(ApibenchError, match=f"port {server.port} "):
        RpcServer(("127.0.0.1", server.port), handle)


def test_after_stopping_nothing_was_sent(server: RpcServer) -> None:
    server.stop()
    gone = status(server, "Echo")
    assert (gone.code, gone.uncertain) == ("UNAVAILABLE", False)
