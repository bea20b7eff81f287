"""gRPC as the adapters need it: one request a call, the reply's bytes as received, and what a status says.

Imports grpc, so an adapter imports this module only when it makes a client.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc

from apibench.query.contract import ErrorKind, Exchange, ProviderError, WireKind
from apibench_adapters.common import redact

# What a status says, by its name and its number (which per-image errors carry).
KINDS = {
    "CANCELLED": ErrorKind.TRANSIENT,
    "UNKNOWN": ErrorKind.TRANSIENT,
    "DEADLINE_EXCEEDED": ErrorKind.TRANSIENT,
    "PERMISSION_DENIED": ErrorKind.CREDENTIALS,
    "RESOURCE_EXHAUSTED": ErrorKind.THROTTLED,
    "ABORTED": ErrorKind.TRANSIENT,
    "INTERNAL": ErrorKind.TRANSIENT,
    "UNAVAILABLE": ErrorKind.TRANSIENT,
    "DATA_LOSS": ErrorKind.TRANSIENT,
    "UNAUTHENTICATED": ErrorKind.CREDENTIALS,
}
# Of a whole call: no such service at this address, whatever is asked there. Of one image it says no such thing.
NOT_THERE = {"UNIMPLEMENTED": ErrorKind.CREDENTIALS}
# Whoever says so: it is not said that the work was not done.
MAYBE_DONE = frozenset({"CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED"})
# Those that the client's own library also makes when a connection breaks or a reply cannot be read.
_MADE_HERE_TOO = MAYBE_DONE | {"INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
# Never connected: nothing was sent, if the words are the library's own (see KeepingChannel).
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving")
_NOT_GRPC = ("Failed parsing HTTP/2", "http1.x server")  # who is there speaks something else
DETAILS = "grpc-status-details-bin"
# A proxy's word of a service that it lost sight of.
_OF_A_PROXY = ("upstream", "reset before headers")
_SETTLED = 0.2  # seconds after which it has been heard of a connection that a call can have used
_PATIENCE = 1.0  # seconds for the first that is heard, which is sure to come, on a machine that is busy


class Received(threading.local):
    """What the last call of this thread received: the message's bytes, None if there was none."""

    raw: bytes | None = None


class KeepingChannel(grpc.Channel):  # type: ignore[misc]  # grpcio has no types
    """A channel that keeps the bytes of each unary reply before the SDK makes a message of them.

    It marks the error of a call that had no connection, for :meth:`Status.of`. No error says so for certain, because a gateway
    may pass on its backend's "failed to connect"; the state of the connection does.

    What is below it passes bytes, so that a recorded reply can be played by an ordinary interceptor.
    """

    def __init__(self, channel: grpc.Channel, tap: Callable[[Exchange], None] = lambda _: None) -> None:
        self._channel = channel
        # At exit at the latest: once it was listened to, an open channel would not let a program end.
        weakref.finalize(self, channel.close)
        self._tap = tap
        self._mutex = threading.Lock()
        self._ended = 0  # calls that may have had a connection
        self.received = Received()

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryUnaryMultiCallable:
        def read(data: bytes) -> Any:
            self.received.raw = data
            self._tap(Exchange(WireKind.GRPC, method, 0, {}, data))
            return response_deserializer(data) if response_deserializer else data

        def ended(error: grpc.RpcError) -> None:
            status = Status.of(error)
            if status.is_the_services:
                details = status.trailers.get(DETAILS)
                rpc = (status.code, status.details, details if isinstance(details, bytes) else None)
                self._tap(Exchange(WireKind.GRPC, method, 0, {}, b"", rpc))

        return _Keeping(
            self._judged(self._channel.unary_unary(method, request_serializer, None).with_call), read, ended
        )

    def _judged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, whose error says ``was_down`` where it is sure that there was no connection."""

        def judged(*arguments: Any, **named: Any) -> Any:
            before = self._ended
            try:
                reply = call(*arguments, **named)
            except grpc.RpcError as error:
                if Status.of(error).says_unsent and self._is_down() and self._ended == before:
                    error.was_down = True
                else:
                    self._had_connection()
                raise
            self._had_connection()
            return reply

        return judged

    def _had_connection(self) -> None:
        with self._mutex:
            self._ended += 1

    def _is_down(self) -> bool:
        """Whether there is no connection, and none that came or went just now: nothing else is heard for a while.

        Asked only after such an error: a channel that is listened to all the time takes a thread, and long to close.
        """
        heard: set[grpc.ChannelConnectivity] = set()
        first = threading.Event()

        def hear(state: grpc.ChannelConnectivity) -> None:
            heard.add(state)
            first.set()

        self._channel.subscribe(hear)
        first.wait(_PATIENCE)
        time.sleep(_SETTLED)
        self._channel.unsubscribe(hear)
        return heard == {grpc.ChannelConnectivity.TRANSIENT_FAILURE}

    # Nothing below is used; a stub that is built of all of a service's methods asks for it.
    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.unary_stream(*arguments, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.stream_stream(*arguments, **named)

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool | None = False) -> None:
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> KeepingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Keeping(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A method of a stub. It reads the reply in the thread that called it, so a thread finds its own reply."""

    def __init__(
        self,
        call: Callable[..., Any],
        read: Callable[[bytes], Any],
        ended: Callable[[grpc.RpcError], None],
    ) -> None:
        self._call = call
        self._read = read
        self._ended = ended

    def __call__(self, request: Any, *arguments: Any, **named: Any) -> Any:
        return self.with_call(request, *arguments, **named)[0]

    def with_call(self, request: Any, *arguments: Any, **named: Any) -> tuple[Any, grpc.Call]:
        try:
            data, call = self._call(request, *arguments, **named)
        except grpc.RpcError as error:
            self._ended(error)
            raise
        return self._read(data), call

    def future(self, request: Any, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError("replies are kept for the calling thread, and a future has none")


def options(*, emulated: bool) -> list[tuple[str, int | str]]:
    """Channel options: no retry of the library's own, none that a service's configuration asks for, and no size limit."""
    chosen: list[tuple[str, int | str]] = [
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    # There are two ways to a proxy: that of https_proxy and its like, and GRPC_ADDRESS_HTTP_PROXY with the addresses it is for.
    no_proxy: list[tuple[str, int | str]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.address_http_proxy_enabled_addresses", ""),
    ]
    return [*chosen, *no_proxy] if emulated else chosen


def target(endpoint: str) -> str:
    """``host:port`` of a URL; 443 where it names none."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or 443}"


def loopback_channel(endpoint: str) -> grpc.Channel:
    """A channel without TLS, for an emulator on this machine."""
    return grpc.insecure_channel(target(endpoint), options=options(emulated=True))


def secure_channel(endpoint: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel with TLS, for a key that must not be overheard."""
    credentials = credentials or grpc.ssl_channel_credentials()
    return grpc.secure_channel(target(endpoint), credentials, options=options(emulated=False))


@dataclass(frozen=True)
class Status:
    """How a call ended that brought no message."""

    code: str  # "UNAVAILABLE"
    details: str
    from_service: bool  # whether the service itself said so, rather than the client's library
    trailers: dict[str, str | bytes]
    was_down: bool = False  # whether it is known that there was no connection during the call

    @classmethod
    def of(cls, error: grpc.RpcError) -> Status:
        """Read an error that a stub raised. A service's own status comes with trailing metadata, the library's own without."""
        code, trailers = error.code(), dict(error.trailing_metadata() or ())
        was_down: bool = getattr(error, "was_down", False)
        return cls(code.name if code else "UNKNOWN", error.details() or "", bool(trailers), trailers, was_down)

    @property
    def is_the_services(self) -> bool:
        """Whether it can be nobody's but the service's."""
        return self.from_service or self.code not in _MADE_HERE_TOO

    @property
    def says_unsent(self) -> bool:
        """Whether the words are those of a library that could not connect: this one's, or one's behind the service."""
        return not self.from_service and any(never in self.details for never in _NEVER_SENT)

    @property
    def sent(self) -> bool:
        """False where no connection was made."""
        return not (self.says_unsent and self.was_down)

    @property
    def uncertain(self) -> bool:
        """Whether the request may have been answered all the same."""
        if self.code not in _MADE_HERE_TOO:
            return False
        if self.from_service:
            return self.code in MAYBE_DONE or any(proxy in self.details for proxy in _OF_A_PROXY)
        return self.sent

    def error(self, kind: ErrorKind | None = None, *secrets: str, retry_after: float | None = None) -> ProviderError:
        """The typed error; ``kind`` where the adapter knows more than the code says."""
        if not self.sent and any(other in self.details for other in _NOT_GRPC):
            message = redact(f"no gRPC is spoken at this address ({self.details})", *secrets)
            return ProviderError(ErrorKind.CREDENTIALS, message, code=self.code, uncertain=False, sent=False)
        return ProviderError(
            kind or (KINDS | NOT_THERE).get(self.code, ErrorKind.PROTOCOL),
            redact(f"{self.code}: {self.details}" if self.details else self.code, *secrets),
            code=self.code,
            retry_after=retry_after,
            uncertain=self.uncertain,
            sent=self.sent,
        )
