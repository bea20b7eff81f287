"""Servers on loopback that count what they are asked and answer as a test says: the SDKs' other end."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apibench.emulator.wire import Reply, Request

Respond = Callable[[socket.socket], object]


def http(status: str, body: bytes, extra: str = "", content_type: str = "application/json") -> Respond:
    """A whole reply; ``extra`` are more header lines, each with its line end."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return lambda connection: connection.sendall(head.encode() + body)


def reset(connection: socket.socket) -> None:
    """End the connection by a reset instead of a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


@contextmanager
def http_server(respond: Respond) -> Iterator[tuple[str, list[bytes]]]:
    """Its URL, and the requests so far (head and body as sent, chunks and all). Each is answered by ``respond``, then closed."""
    hits: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            lengths = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            body = self.rfile.read(int(lengths[0].split(b":")[1])) if lengths else self._chunks()
            hits.append(head + b"\r\n" + body)
            respond(self.request)

        def _chunks(self) -> bytes:
            data = b"\r\n"
            while not data.endswith(b"\r\n0\r\n\r\n"):
                line = self.rfile.readline()
                if not line:
                    break
                data += line
            return data[2:]

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as tcp:
        tcp.daemon_threads = True
        threading.Thread(target=tcp.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{tcp.server_address[1]}", hits
        finally:
            tcp.shutdown()


@contextmanager
def grpc_server(answer: Callable[[Request], Reply | None]) -> Iterator[tuple[str, list[Request]]]:
    """Its URL, and the calls so far. Each is answered by ``answer``; None drops it."""
    from apibench.emulator.rpcd import RpcServer

    hits: list[Request] = []

    def handle(request: Request) -> Reply | None:
        hits.append(request)
        return answer(request)

    served = RpcServer(("127.0.0.1", 0), handle)
    served.start()
    try:
        yield f"http://127.0.0.1:{served.port}", hits
    finally:
        served.stop()
