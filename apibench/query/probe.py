"""Who is at an address? Asked of an emulator that already runs, before a client is pointed at it."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from apibench.errors import ApibenchError
from apibench.query.contract import WireKind
from apibench.query.redact import redact

SECONDS = 5.0
# No emulated API is called like this, so it is neither counted nor billed; whoever speaks HTTP/1.1 answers it all the same.
_QUESTION = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_NAMES = {WireKind.HTTP: "HTTP", WireKind.GRPC: "gRPC"}


def check_loopback(host: str, provider: str, *, replayed: bool = False) -> None:
    """Raises ApibenchError where a host is not this machine: what is emulated, or ``replayed`` from a recording, goes nowhere
    else, whatever an adapter does.
    """
    try:
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    calls, there = ("replayed", "a recording") if replayed else ("emulated", "an emulator")
    raise ApibenchError(
        f"{provider}: {calls} calls go to {there} on this machine, and not to {redact(host) or 'no host at all'}"
    )


def check_emulator(endpoint: str, wire: WireKind, provider: str) -> None:
    """Raises ApibenchError where nobody is at ``endpoint`` (a URL on loopback), or one who speaks another wire's protocol."""
    found = _spoken(endpoint)
    if found in (None, wire):
        return
    hint = "; --setting transport=rest asks over HTTP" if provider == "google" and wire is WireKind.GRPC else ""
    raise ApibenchError(
        f"--endpoint {endpoint}: {_NAMES[found]} is spoken there, and {provider} is asked over {_NAMES[wire]}; "
        f"`apibench emulate` says at its start which port is which{hint}"
    )


def _spoken(endpoint: str) -> WireKind | None:
    """What is spoken there, None where it cannot be told: with TLS, or by one who says nothing."""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        connection = socket.create_connection((parts.hostname or "", port), SECONDS)
    except OSError as error:
        why = error.strerror or error
        raise ApibenchError(
            f"--endpoint {endpoint}: no emulator is there ({why}); start `apibench emulate`, or leave --endpoint out"
        ) from None
    with connection:
        if parts.scheme == "https":
            return None
        try:
            connection.sendall(_QUESTION)
            first = connection.recv(8)
        except OSError:
            return None
    if first.startswith(b"HTTP/1."):
        return WireKind.HTTP
    # An HTTP/2 connection begins with a frame of settings: three bytes of length, and type 4 (RFC 9113, section 6.5).
    return WireKind.GRPC if first[3:4] == b"\x04" else None
