"""An overall deadline for calls over HTTP: what a read timeout does not give, because it begins anew with every byte.

A reply that trickles, headers or body, would keep a call going for as long as the server likes; so every read and write of a
connection gets the time that is left of the call, and at its end is the time-out that it always was. urllib3, which all the
vendors' SDKs over HTTP stand on, lets a pool's connections be of a class of one's own; there is no thread and no timer.

The same connections know what no error says for certain: whether anything of the request has left (:func:`has_left`).
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from apibench.query.contract import ErrorKind, ProviderError

if TYPE_CHECKING:
    import requests


class _Clock(threading.local):
    """Of the call that this thread makes; none where ``until`` is None."""

    seconds: float = 0.0
    until: float | None = None  # on the monotonic clock
    left: bool | None = None  # see has_left


_clock = _Clock()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What this thread asks over bounded connections has so many seconds to be sent and answered, to the last byte.

    A connection that has to be made first takes none of them: it has its own timeout, and nothing is billed before it is there.
    """
    _clock.seconds, _clock.until, _clock.left = seconds, time.monotonic() + seconds, None
    try:
        yield
    finally:
        _clock.until = None


def has_left() -> bool | None:
    """Whether any byte of this thread's last request has left; None where no bounded connection was asked for that.

    What a proxy is told to get a connection, and what TLS says before there is one, is nothing of the request.
    """
    return _clock.left


def bound(pools: MutableMapping[str, Any]) -> None:
    """Give the connections of these pools (urllib3's classes, by scheme) the deadline. Connections made before keep theirs."""
    for scheme, pool in tuple(pools.items()):
        pools[scheme] = _bounded(pool)


def bound_session(session: requests.Session) -> None:
    """The same for a session of requests, its proxies included."""
    for adapter in session.adapters.values():
        manager = adapter.poolmanager  # type: ignore[attr-defined]
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme}  # a copy: the original is all of urllib3's
        bound(manager.pool_classes_by_scheme)
        adapter.proxy_manager_for = _bounding(adapter.proxy_manager_for)  # type: ignore[attr-defined]


def bound_boto(client: Any) -> None:
    """The same for a client of boto3. Its session is a private member, and there is no public way to it."""
    pools = getattr(getattr(client._endpoint, "http_session", None), "_pool_classes_by_scheme", None)
    if pools is None:
        message = (
            "this botocore is made otherwise than it was, and its calls cannot be given a deadline; install another"
        )
        raise ProviderError(ErrorKind.PROTOCOL, message)
    bound(pools)


def _bounding(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, **named: Any) -> Any:
        manager = make(*arguments, **named)
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme}
        bound(manager.pool_classes_by_scheme)
        return manager

    return made


@cache
def _bounded(pool: Any) -> Any:
    """A pool class like this one, and called like it in messages, whose connections heed the deadline."""
    if issubclass(pool.ConnectionCls, _Connection):
        return pool
    connection = type(pool.ConnectionCls.__name__, (_Connection, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _allow(sock: Any) -> None:
    """Let a socket's next operation take what is left. Raises TimeoutError where nothing is."""
    if _clock.until is None:
        return
    left = _clock.until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    sock.settimeout(left)


class _Reads(io.RawIOBase):
    """What a reply is read from: a socket's own file, with the time for each read looked up before it."""

    def __init__(self, sock: Any, file: Any) -> None:
        self._sock = sock
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _allow(self._sock)
        count: int | None = self._file.readinto(buffer)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = io.BufferedReader(_Reads(sock, self.fp.detach()))


class _Connection:
    """What is mixed into urllib3's connections: of whatever SDK, with TLS or without."""

    response_class = _Response
    sock: Any
    _connecting = False

    def connect(self) -> None:
        _clock.left, self._connecting = False, True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._connecting = False
        if _clock.until is not None:
            _clock.until = time.monotonic() + _clock.seconds

    def send(self, data: Any) -> Any:
        if self.sock is None and not self._connecting:
            self.connect()
        if self.sock is not None:
            _allow(self.sock)
        if not self._connecting:
            _clock.left = True  # before it goes: some of it may, and then the connection break
        return super().send(data)  # type: ignore[misc]
