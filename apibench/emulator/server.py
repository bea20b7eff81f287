"""The emulator: its life, and that of a request (rate limit, fault, wire, bill, reply)."""

from __future__ import annotations

import errno
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from apibench import defaults
from apibench.emulator import vendors
from apibench.emulator.answerer import Answerer
from apibench.emulator.bill import Bill
from apibench.emulator.faults import Fault, FaultKind, Faults, RateLimit
from apibench.emulator.httpd import Handle, Server
from apibench.emulator.wire import Reply, Request, Wire
from apibench.errors import ApibenchError
from apibench.query.contract import WireKind

if TYPE_CHECKING:
    from apibench.emulator.rpcd import RpcServer

_log = logging.getLogger(__name__)

_KIND_NAMES = {WireKind.HTTP: "HTTP", WireKind.GRPC: "gRPC"}
_SPOILT = {
    FaultKind.MALFORMED: Reply(200, b'{"Labels":[{"Name":"Ret', (("Content-Type", "application/json"),)),
    FaultKind.EMPTY: Reply(200, b"", (("Content-Type", "application/json"),)),
    FaultKind.HTML: Reply(200, b"<html><body><h1>It works!</h1></body></html>\n", (("Content-Type", "text/html"),)),
}


class Emulator:
    """Vendors' APIs on loopback. A context manager: entering it loads the networks and listens, leaving it stops.

    ``target``: the network that answers, or one for each provider (``{"aws": ...}``). ``providers``: whom to speak for; all
    whose packages are installed, unless said. ``port`` and ``grpc_port``: 0 takes a free one; a port is only opened if one of
    the providers speaks that protocol. ``bill``: a file that each answered image adds a JSON line to. ``faults``: a
    :class:`Faults`, or a script such as ``["throttle", "drop", "ok"]``, one entry a request, whatever the provider.
    ``latency``: seconds before each reply. ``rate_limit``: requests a second to one provider, above which it throttles (checked
    first, so a throttled request uses up no fault). ``accepted_keys``: keys (for AWS: key ids) that are known, None for any.
    ``answerer`` replaces the network. Raises ApibenchError for an unknown provider or target, a port in use, or a bill that
    cannot be written.
    """

    def __init__(
        self,
        target: str | Mapping[str, str] = defaults.TARGET,
        *,
        providers: Collection[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        grpc_port: int = 0,
        bill: Path | None = None,
        faults: Faults | Sequence[str] | None = None,
        latency: float = 0.0,
        rate_limit: float | None = None,
        accepted_keys: Collection[str] | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        self.providers = tuple(vendors.available() if providers is None else providers)
        vendors.check(self.providers)
        self._host, self._port, self._grpc_port = host, port, grpc_port
        self._target = target
        self._bill_path = bill
        self._faults = faults if isinstance(faults, Faults) else Faults(faults or ())
        self._latency = latency
        self._limits = {} if rate_limit is None else {name: RateLimit(rate_limit) for name in self.providers}
        self._accepted_keys = accepted_keys
        self._wires: tuple[Wire, ...] = ()
        self._given = answerer
        self._answerers: dict[str, Answerer] = {}
        self._bill: Bill | None = None
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._started = False
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._rpc_server: RpcServer | None = None

    # --- life ---

    def start(self) -> Emulator:
        """Load the networks, open the bill, listen. Every answer from here on takes about the same time."""
        if self._started:
            return self
        self._wires = vendors.wires(self.providers, self._accepted_keys)
        kinds = {wire.kind for wire in self._wires}
        try:
            # First: a port in use is found before a network is loaded.
            if WireKind.HTTP in kinds:
                self._server = _listen((self._host, self._port), partial(self._handle, WireKind.HTTP))
            if WireKind.GRPC in kinds:
                from apibench.emulator.rpcd import RpcServer

                self._rpc_server = RpcServer((self._host, self._grpc_port), partial(self._handle, WireKind.GRPC))
            self._answerers = self._load()
            self._bill = Bill(self._bill_path)
        except BaseException:
            self.close()
            raise
        self._stopping.clear()
        self._started = True
        if self._server is not None:
            self._thread = threading.Thread(
                target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="apibench-emulator", daemon=True
            )
            self._thread.start()
        if self._rpc_server is not None:
            self._rpc_server.start()
        return self

    def close(self) -> None:
        """Stop: requests in progress are cut off, open connections closed."""
        self._stopping.set()
        self._started = False
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join()
        elif self._server is not None:  # listened, and never served
            self._server.server_close()
        self._server = self._thread = None
        if self._rpc_server is not None:
            self._rpc_server.stop()
            self._rpc_server = None
        if self._bill is not None:
            self._bill.close()

    def serve_forever(self) -> None:
        """Serve until SIGINT or SIGTERM (or :meth:`close` from another thread), then stop cleanly."""
        self.start()

        stopped: list[int] = []

        def stop(number: int, _frame: FrameType | None) -> None:
            stopped.append(number)  # and no more: an Event's lock may be held where the signal arrives

        earlier = {}
        if threading.current_thread() is threading.main_thread():
            earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not stopped and not self._stopping.wait(0.1):
                pass
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            self.close()

    wait = serve_forever

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what it has to say ---

    @property
    def port(self) -> int:
        """The port it listens on for HTTP."""
        if self._server is None:
            raise RuntimeError("the emulator is not started, or none of its providers speaks HTTP")
        return int(self._server.server_address[1])

    @property
    def grpc_port(self) -> int:
        """The port it listens on for gRPC."""
        if self._rpc_server is None:
            raise RuntimeError("the emulator is not started, or none of its providers speaks gRPC")
        return self._rpc_server.port

    @property
    def url(self) -> str:
        """Where an SDK that speaks HTTP is to be pointed at."""
        return self._at(self.port)

    @property
    def grpc_url(self) -> str:
        """The same for gRPC, written as a URL (``http``: without TLS)."""
        return self._at(self.grpc_port)

    def describe(self) -> list[str]:
        """A line a protocol and provider: where it listens, and which network answers."""
        return [
            f"emulating {vendors.VENDORS[wire.provider].title} ({_KIND_NAMES[wire.kind]}) on {self.endpoint(wire.kind)}, "
            f"answered by {self._answerers[wire.provider].name}"
            for wire in self._wires
        ]

    def endpoint(self, kind: WireKind) -> str:
        return self.grpc_url if kind is WireKind.GRPC else self.url

    def _at(self, port: int) -> str:
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    @property
    def hits(self) -> Counter[str]:
        """Requests so far, by outcome: ``answered``, the fault's kind, or the vendor's error code; ``hits.total()`` is all."""
        with self._lock:
            return Counter(self._hits)

    @property
    def bill_count(self) -> int:
        """Images answered, with those that the bill holds from earlier starts."""
        return self._bill.count if self._bill is not None else 0

    # --- a request ---

    def _handle(self, kind: WireKind, request: Request) -> Reply | None:
        """The reply, or None to close the connection without one."""
        wire = next((wire for wire in self._wires if wire.kind is kind and wire.claims(request)), None)
        if wire is None:
            return self._count(_not_found())
        limit = self._limits.get(wire.provider)
        if limit is not None and not limit.allows():
            return self._count(wire.failure(request, FaultKind.THROTTLE))
        fault = self._faults.next()
        reply = self._outcome(fault, wire, request)
        return None if self._stopping.is_set() else reply

    def _outcome(self, fault: Fault, wire: Wire, request: Request) -> Reply | None:
        if fault.kind is FaultKind.HANG:
            self._count(Reply(0, b"", outcome=fault.kind))  # now: its client may be gone when it ends
            self._pause(fault.seconds)
            return None
        self._pause(self._latency)
        match fault.kind:
            case FaultKind.OK:
                return self._count(self._answer(wire, request))
            case FaultKind.MALFORMED | FaultKind.EMPTY | FaultKind.HTML:
                return self._count(replace(_SPOILT[fault.kind], outcome=fault.kind))
            case FaultKind.DROP:
                self._count(Reply(0, b"", outcome=fault.kind))
                return None
            case FaultKind.DROP_AFTER | FaultKind.TRUNCATED:
                reply = self._answer(wire, request)
                if not reply.billed:  # refused: there is no answer to lose
                    return self._count(reply)
                cut = self._count(replace(reply, outcome=fault.kind, cut=len(reply.body) // 2))
                return cut if fault.kind is FaultKind.TRUNCATED else None
            case _:
                return self._count(wire.failure(request, fault.kind))

    def _answer(self, wire: Wire, request: Request) -> Reply:
        """The wire's reply, on the bill if it is an answer. What cannot be computed or billed is not answered."""
        try:
            answerer = self._answerers[wire.provider]
            reply = wire.answer(request, answerer)
            for sha256 in reply.billed:
                self._charge(sha256, wire, request, reply, answerer)
            return reply
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one request must not end the server
            if self._stopping.is_set():
                pass  # it was computed while the bill was closed, and nobody will be told
            elif isinstance(error, OSError):  # a full disk under the bill
                _log.error("request %s is not answered: %s", request.id, error)
            else:
                _log.exception("request %s failed", request.id)
        return wire.failure(request, FaultKind.INTERNAL)

    def _charge(self, sha256: str, wire: Wire, request: Request, reply: Reply, answerer: Answerer) -> None:
        if self._bill is None:
            raise RuntimeError("the emulator is not started")
        self._bill.append(
            {
                "time": datetime.now(UTC).isoformat(),
                "provider": wire.provider,
                "operation": reply.operation,
                "sha256": sha256,
                "request_id": request.id,
                "target": answerer.name,
            }
        )

    def _count(self, reply: Reply) -> Reply:
        with self._lock:
            self._hits[str(reply.outcome)] += 1
        return reply

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)

    def _load(self) -> dict[str, Answerer]:
        if self._given is not None:
            return dict.fromkeys(self.providers, self._given)
        if isinstance(self._target, str):
            return dict.fromkeys(self.providers, Answerer.load(self._target))
        vendors.check(self._target)
        names = {provider: self._target.get(provider, defaults.TARGET) for provider in self.providers}
        # Providers of one network share what it remembers: an image is looked at once.
        loaded = {name: Answerer.load(name) for name in sorted(set(names.values()))}
        return {provider: loaded[name] for provider, name in names.items()}


def _not_found() -> Reply:
    text = json.dumps({"message": "no emulated API is called like this"}).encode()
    return Reply(404, text, (("Content-Type", "application/json"),), outcome="not found")


def _listen(address: tuple[str, int], handle: Handle) -> Server:
    host, port = address
    try:
        return Server(address, handle)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ApibenchError(f"port {port} on {host} is in use; choose another, or 0 for a free one") from error
        raise ApibenchError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    except OverflowError as error:
        raise ApibenchError(f"port {port}: a port is from 0 to 65535") from error
