"""The seven traps that the vendors' SDKs and wires set, and where each is tested; here the one that has no better place.

1. boto3 makes an answer without labels of a malformed body: ``tests/recorded/aws.json`` ("an empty body", "labels null", ...).
2. clarifai-grpc's stub reads replies by a global of the last channel: ``test_clarifai_adapter.py`` (the stub, the global).
3. The package ``clarifai`` retries in three layers, and is not imported: ``test_clarifai_adapter.py`` (imports).
4. Azure's SDK stumbles over bodies that are no JSON, or another: ``tests/recorded/azure.json``, ``test_azure_adapter.py``.
5. Google's session sends a 401 again: ``test_google_adapter.py`` (the rest session sends once).
6. Errors of one image inside a success: ``tests/recorded/google_*.json`` and ``clarifai.json``.
7. Two writes a reply cost 40 ms a call (Nagle's algorithm meets delayed acknowledgement): below.
"""

from __future__ import annotations

import socket
import threading

from apibench.emulator.httpd import Server, _Handler
from apibench.emulator.wire import Reply


def test_a_reply_is_one_write_on_a_socket_that_does_not_wait() -> None:
    assert _Handler.disable_nagle_algorithm
    server = Server(("127.0.0.1", 0), lambda _: Reply(200, b"body", (("Content-Type", "text/plain"),)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as connection:
            for _ in range(3):  # one connection, kept
                connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                first = connection.recv(65_536)
                assert first.startswith(b"HTTP/1.1 200")
                assert first.endswith(b"\r\n\r\nbody")
    finally:
        server.stop()
        thread.join()
