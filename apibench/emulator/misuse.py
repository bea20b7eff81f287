"""Hints for clients that speak another protocol than the port they have reached, as far as they can be told anything.

A gRPC client on the HTTP port gets a gRPC status that says where gRPC is spoken; a client that expects no TLS, a page. One that
expects TLS can be told nothing; it is told of in the log. So is, by its own library, an HTTP client on the gRPC port.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

_log = logging.getLogger(__name__)

HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # how every HTTP/2 connection begins (RFC 9113, section 3.4)
TLS = b"\x16\x03"  # how every TLS connection begins
_SECONDS = 5.0
_FRAMES = 64  # more come before no call
_SETTINGS, _HEADERS = 4, 1
_END_STREAM, _END_HEADERS = 1, 4


def peek(connection: Any, seconds: float) -> bytes:
    """The first bytes that a client sends, at most 24, without taking them. Empty where it has gone."""
    connection.settimeout(seconds)
    # Of the socket itself: with TLS, what is wanted are the bytes before the handshake.
    return socket.socket.recv(connection, len(HTTP2), socket.MSG_PEEK)


def answer(first: bytes, connection: Any, *, secure: bool, grpc_at: str | None) -> bool:
    """Whether the client speaks something else, and has been told so. ``grpc_at``: where gRPC is spoken, if it is."""
    plain = first[: len(TLS)] != TLS
    if secure and plain:
        _say(connection, _page("this port speaks TLS: use https, and the CA that was written at start"))
    elif not secure and not plain:
        _log.warning("a client spoke TLS to a port that does not: use http, or start the emulator with TLS")
    elif not secure and first.startswith(HTTP2[: max(len(first), 4)]):
        where = f"gRPC is on {grpc_at}" if grpc_at else "no emulated provider speaks gRPC"
        _refuse_call(connection, f"this is the emulator's port for HTTP/1.1; {where}")
    else:
        return False
    return True


def _page(text: str) -> bytes:
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def _say(connection: Any, data: bytes) -> None:
    socket.socket.sendall(connection, data)
    # Else what it has sent, and nobody read, resets the connection before it has read this.
    socket.socket.shutdown(connection, socket.SHUT_WR)
    connection.settimeout(1.0)
    while socket.socket.recv(connection, 1 << 16):
        pass


def _refuse_call(connection: Any, text: str) -> None:
    """As much of HTTP/2 as it takes to end a first call with UNIMPLEMENTED and a text (the protocol: gRPC over HTTP2)."""
    connection.settimeout(_SECONDS)
    with connection.makefile("rb") as received:
        received.read(len(HTTP2))
        connection.sendall(_frame(_SETTINGS, 0, 0, b""))
        for _ in range(_FRAMES):
            head = received.read(9)
            if len(head) < 9:
                return
            length, kind, stream = int.from_bytes(head[:3], "big"), head[3], int.from_bytes(head[5:], "big")
            received.read(length)
            if kind == _SETTINGS and not head[4]:
                connection.sendall(_frame(_SETTINGS, 1, 0, b""))
            if kind == _HEADERS:
                status = {
                    ":status": "200",
                    "content-type": "application/grpc",
                    "grpc-status": "12",
                    "grpc-message": text,
                }
                fields = b"".join(b"\x00" + _text(name) + _text(value) for name, value in status.items())
                _say(connection, _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, fields))
                return


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A literal of HPACK (RFC 7541, section 5.2): not compressed, its length in a prefix of seven bits."""
    data = text.encode("ascii", "replace")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, octets = len(data) - 127, [127]
    while rest >= 128:
        octets.append(rest % 128 + 128)
        rest //= 128
    return bytes([*octets, rest]) + data
