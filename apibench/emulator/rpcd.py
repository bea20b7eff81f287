"""gRPC for the emulator: every call, of whatever service, is handed on as a :class:`~apibench.emulator.wire.Request`.

Messages pass as bytes: a wire reads and writes them. Imports grpc, so it is imported only where a wire needs it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

import grpc

from apibench.emulator.wire import Reply, Request, RpcError
from apibench.errors import ApibenchError

WORKERS = 512  # calls at a time, threads made as they are needed; a hanging one holds one of them
MAX_MESSAGE = 256 * 1024 * 1024
STOP_SECONDS = 5.0
DETAILS = "grpc-status-details-bin"

_log = logging.getLogger(__name__)

Handle = Callable[[Request], Reply | None]


class RpcServer:
    """Listens on construction, answers after :meth:`start`. ``handle`` is called in a thread a call; None drops the call.

    ``certificate``: PEM of the server's private key and of its certificate, for TLS. Raises ApibenchError where the port cannot
    be had.
    """

    def __init__(
        self, address: tuple[str, int], handle: Handle, certificate: tuple[bytes, bytes] | None = None
    ) -> None:
        host, port = address
        self._server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="emulator-grpc"),
            handlers=(_AnyService(handle),),
            options=[
                ("grpc.so_reuseport", 0),  # else two emulators could share a port, and each get some of the calls
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", -1),
            ],
        )
        where = f"{f'[{host}]' if ':' in host else host}:{port}"
        try:
            if certificate is None:
                self.port = int(self._server.add_insecure_port(where))
            else:
                self.port = int(self._server.add_secure_port(where, grpc.ssl_server_credentials([certificate])))
        except RuntimeError as error:
            # The library does not say why.
            message = f"port {port} on {host} cannot be had for gRPC (in use, most likely); choose another, or 0 for a free one"
            raise ApibenchError(message) from error

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Stop listening and cut open calls."""
        self._server.stop(grace=None).wait(STOP_SECONDS)


class _AnyService(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Takes every unary method, and leaves it to the wires whether there is such a one."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        # No serialisers: bytes in, bytes out.
        return grpc.unary_unary_rpc_method_handler(partial(self._serve, details))

    def _serve(self, details: grpc.HandlerCallDetails, body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}
        request = Request("POST", details.method, headers, body, str(uuid.uuid4()))
        reply = self._handle(request)
        if reply is None:
            _drop(context, "Socket closed")
        if reply.reset:
            _drop(context, "recvmsg:Connection reset by peer")
        if reply.rpc is not None:
            _abort(context, request, reply.rpc)
        if reply.status == 404:
            _abort(context, request, RpcError("UNIMPLEMENTED", _unknown(details.method, reply)))
        if reply.slow:
            _linger(context, reply.slow)
        return reply.body if reply.cut is None else reply.body[: reply.cut]


def _unknown(method: str, reply: Reply) -> str:
    hint = reply.body.decode("utf-8", "replace")
    return f"unknown method {method}" + (f": {hint}" if hint else "")


def _linger(context: grpc.ServicerContext, seconds: float) -> None:
    """Send the headers, and let the message wait, as long as there is someone to get it."""
    context.send_initial_metadata(())
    until = time.monotonic() + seconds
    while context.is_active() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


def _drop(context: grpc.ServicerContext, message: str) -> NoReturn:
    """End a call as a client sees a connection that broke: this status, and no trailing metadata."""
    context.abort(grpc.StatusCode.UNAVAILABLE, message)
    raise AssertionError("abort does not return")


def _abort(context: grpc.ServicerContext, request: Request, error: RpcError) -> NoReturn:
    """End a call with a status of the service's own, which comes with trailing metadata."""
    trailers: list[tuple[str, str | bytes]] = [("x-request-id", request.id)]
    if error.details is not None:
        trailers.append((DETAILS, error.details))
    context.set_trailing_metadata(trailers)
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError("abort does not return")
