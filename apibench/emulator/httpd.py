"""HTTP/1.1 for the emulator: keep-alive, bounded bodies (also chunked ones), one write a reply.

The standard library's server, with what it lacks for this: its two writes a reply cost 40 ms each call (Nagle's algorithm
meets delayed acknowledgement), and it neither bounds nor de-chunks bodies, nor closes open connections when it stops.
With a context it speaks TLS; whoever does not is told so (:mod:`~apibench.emulator.misuse`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from apibench.emulator import misuse
from apibench.emulator.wire import Reply, Request

MAX_BODY = 32 * 1024 * 1024  # more than any vendor takes, base64 included
MAX_DISCARDED = 256 * 1024 * 1024  # a longer body is not even read away: the connection is closed
IDLE_SECONDS = 60.0  # a connection that sends nothing for so long is closed
STOP_SECONDS = 5.0
PIECE_SECONDS = 0.05  # between two pieces of a slow body

_log = logging.getLogger(__name__)

Handle = Callable[[Request], Reply | None]


class Server(ThreadingHTTPServer):
    """Listens on construction. ``handle`` is called in a thread for each connection; None closes it without a reply.

    ``context``: for TLS. ``grpc_at``: where gRPC is spoken, for those who look for it here; may be set later.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], handle: Handle, context: ssl.SSLContext | None = None) -> None:
        self.handle = handle
        self.context = context
        self.grpc_at: str | None = None
        self._open: dict[socket.socket, threading.Thread] = {}
        self._open_lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up: seconds, on a machine without a resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context is not None:  # the handshake is the connection's thread's: nobody else may wait for it
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        first = misuse.peek(request, IDLE_SECONDS)
        if misuse.answer(first, request, secure=self.context is not None, grpc_at=self.grpc_at):
            return
        if self.context is not None and first:
            request.do_handshake()
        super().finish_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.pop(request, None)

    def stop(self) -> None:
        """Stop listening, cut open connections, and wait for what is being computed."""
        self.shutdown()
        with self._open_lock:
            connections = dict(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join(STOP_SECONDS)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that hangs up is no error here; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("a connection failed")


def _phrase(status: int) -> str:
    """A status in words; of a vendor's own (520, for one), which no standard knows, nothing is known."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class _BadRequestError(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS

    def do_POST(self) -> None:
        try:
            body = self._body()
        except _BadRequestError as error:
            self.close_connection = True
            self._send(Reply(error.status, f"{error.status.phrase}\n".encode(), (("Content-Type", "text/plain"),)))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body, str(uuid.uuid4()))
        reply = cast(Server, self.server).handle(request)
        if reply is None:
            self.close_connection = True
        elif reply.reset:
            self._reset()
        else:
            self._send(reply)

    do_GET = do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815

    def _send(self, reply: Reply) -> None:
        if reply.cut is not None:
            self.close_connection = True
        lines = [
            f"HTTP/1.1 {reply.status} {_phrase(reply.status)}",
            f"Date: {self.date_time_string()}",
            *(f"{name}: {value}" for name, value in reply.headers),
            f"Content-Length: {len(reply.body)}",
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        if reply.slow:
            self._trickle(head, reply.body, reply.slow)
        else:
            self.wfile.write(head + reply.body[: reply.cut])

    def _trickle(self, head: bytes, body: bytes, seconds: float) -> None:
        """The headers at once, the body in pieces, the last one after so many seconds."""
        self.wfile.write(head)
        count = max(1, min(len(body), int(seconds / PIECE_SECONDS)))
        for number in range(count):
            time.sleep(seconds / count)
            self.wfile.write(body[len(body) * number // count : len(body) * (number + 1) // count])

    def _reset(self) -> None:
        """Close the connection as a crash does: with RST, and without the FIN that an orderly end begins with."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # its files share it, and would keep it open

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        coding = self.headers.get("Transfer-Encoding")
        if coding is not None:
            if coding.strip().lower() != "chunked" or lengths:
                raise _BadRequestError(HTTPStatus.BAD_REQUEST)
            return self._chunks()
        if not lengths:
            return b""
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,15}", lengths[0].strip()):
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)
        length = int(lengths[0])
        if length > MAX_BODY:
            self._discard(length)
            raise _BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._exactly(length)

    def _chunks(self) -> bytes:
        """A chunked body (RFC 9112, section 7.1); trailers are read and dropped."""
        body = bytearray()
        while True:
            size = re.match(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]*)?\r?\n$", self._line())
            if size is None:
                raise _BadRequestError(HTTPStatus.BAD_REQUEST)
            length = int(size[1], 16)
            if length == 0:
                while self._line().strip():
                    pass
                return bytes(body)
            if len(body) + length > MAX_BODY:
                raise _BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            body += self._exactly(length)
            if self._line().strip():
                raise _BadRequestError(HTTPStatus.BAD_REQUEST)

    def _line(self) -> bytes:
        line = self.rfile.readline(8192)
        if not line.endswith(b"\n"):
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)
        return line

    def _exactly(self, length: int) -> bytes:
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionAbortedError("the client hung up within its request")
        return data

    def _discard(self, length: int) -> None:
        """Read a body away, so that a client still sending gets to see the refusal."""
        while 0 < length <= MAX_DISCARDED:
            read = len(self.rfile.read(min(length, 1 << 16)))
            if not read:
                return
            length -= read

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)
