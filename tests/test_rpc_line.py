"""Whether a gRPC channel was connected during a call that failed: what is heard of it, and of the calls beside it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from apibench_adapters import rpc

grpc = pytest.importorskip("grpc")

IDLE, CONNECTING, READY, DOWN = (
    grpc.ChannelConnectivity[state] for state in ("IDLE", "CONNECTING", "READY", "TRANSIENT_FAILURE")
)


class Unsent(grpc.RpcError):  # type: ignore[misc]  # grpcio has no types
    """In the words of the library."""

    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses"

    def trailing_metadata(self) -> None:
        return None


class Line:
    """A channel that says of its connection what it is told to, some of it late, and whose calls end in ``end``."""

    def __init__(self, now: list[Any], later: list[Any], end: Callable[[bytes], bytes]) -> None:
        self.now, self.later, self.end = now, later, end

    def unary_unary(self, *_: Any) -> Any:
        return SimpleNamespace(with_call=lambda request: (self.end(request), None))

    def subscribe(self, callback: Callable[[Any], None], *_: Any) -> None:
        for state in self.now:
            callback(state)
        for state in self.later:
            threading.Timer(0.03, callback, [state]).start()

    def unsubscribe(self, _: Any) -> None: ...

    def close(self) -> None: ...


def refused(_: bytes) -> bytes:
    raise Unsent


def status(channel: rpc.KeepingChannel) -> rpc.Status:
    with pytest.raises(Unsent) as caught:
        channel.unary_unary("/some.Service/Method")(b"image")
    return rpc.Status.of(caught.value)


@pytest.mark.parametrize(
    ("now", "later", "sent"),
    [
        ([DOWN], [], False),
        ([READY], [], True),
        ([IDLE], [], True),
        ([CONNECTING], [], True),
        ([DOWN], [READY], True),  # it may have been there before it was heard of
        ([READY], [DOWN], True),
        ([IDLE], [DOWN], True),
        ([], [], True),
    ],
)
def test_nothing_was_sent_only_if_nothing_but_a_failure_is_heard_of_the_connection(
    now: list[Any], later: list[Any], sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_PATIENCE", 0.1)
    found = status(rpc.KeepingChannel(Line(now, later, refused)))
    assert (found.sent, found.uncertain) == (sent, sent)


def test_the_first_that_is_heard_may_be_long_in_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_SETTLED", 0.001)
    assert not status(rpc.KeepingChannel(Line([], [DOWN], refused))).sent


def test_a_call_beside_it_that_was_answered_tells_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_SETTLED", 0.01)
    line = Line([DOWN], [], refused)
    channel = rpc.KeepingChannel(line)
    other = channel.unary_unary("/some.Service/Other")

    def end(request: bytes) -> bytes:
        if request == b"beside":
            return b"reply"
        assert other(b"beside") == b"reply"
        raise Unsent

    line.end = end
    assert status(channel).sent
    line.end = refused
    assert not status(channel).sent, "that was before this one"


LEFT_OPEN = """
import sys, grpc
from apibench_adapters import rpc
channel = rpc.KeepingChannel(grpc.insecure_channel(sys.argv[1], rpc.options(emulated=True)))
try:
    channel.unary_unary("/some.Service/Method")(b"image", timeout=5)
except grpc.RpcError as error:
    print(rpc.Status.of(error).sent)
"""


def test_a_channel_that_nobody_closed_lets_a_program_end() -> None:
    with socket.socket() as nobody:  # bound, and not listening: its connections are refused
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        command = [sys.executable, "-c", LEFT_OPEN, target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
