"""HTTP/1.1 for the emulator: keep-alive, bounded bodies (also chunked ones), one write a reply.

The standard library's server, with what it lacks for this: its two writes a reply cost 40 ms each call (Nagle's algorithm
meets delayed acknowledgement), and it neither bounds nor de-chunks bodies, nor closes open connections when it stops.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import socketserver
import sys
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from apibench.emulator.wire import Reply, Request

MAX_BODY = 32 * 1024 * 1024  # more than any vendor takes, base64 included
MAX_DISCARDED = 256 * 1024 * 1024  # a longer body is not even read away: the connection is closed
IDLE_SECONDS = 60.0  # a connection that sends nothing for so long is closed
STOP_SECONDS = 5.0

_log = logging.getLogger(__name__)

Handle = Callable[[Request], Reply | None]


class Server(ThreadingHTTPServer):
    """Listens on construction. ``handle`` is called in a thread for each connection; None closes it without a reply."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handle: Handle) -> None:
        self.handle = handle
        self._open: dict[socket.socket, threading.Thread] = {}
        self._open_lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up: seconds, on a machine without a resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

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
        else:
            self._send(reply)

    do_GET = do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815

    def _send(self, reply: Reply) -> None:
        status = HTTPStatus(reply.status)
        if reply.cut is not None:
            self.close_connection = True
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Date: {self.date_time_string()}",
            *(f"{name}: {value}" for name, value in reply.headers),
            f"Content-Length: {len(reply.body)}",
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self.wfile.write(head + reply.body[: reply.cut])

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
