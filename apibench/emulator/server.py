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
from pathlib import Path
from types import FrameType, TracebackType

from apibench.emulator.answerer import Answerer
from apibench.emulator.bill import Bill
from apibench.emulator.faults import Fault, FaultKind, Faults, RateLimit
from apibench.emulator.httpd import Handle, Server
from apibench.emulator.rekognition import RekognitionWire
from apibench.emulator.wire import Reply, Request, Wire
from apibench.errors import ApibenchError

DEFAULT_TARGET = "pypi:tf_efficientnet_lite2"

_log = logging.getLogger(__name__)

_SPOILT = {
    FaultKind.MALFORMED: Reply(200, b'{"Labels":[{"Name":"Ret', (("Content-Type", "application/json"),)),
    FaultKind.EMPTY: Reply(200, b"", (("Content-Type", "application/json"),)),
    FaultKind.HTML: Reply(200, b"<html><body><h1>It works!</h1></body></html>\n", (("Content-Type", "text/html"),)),
}


class Emulator:
    """A vendor's API on loopback. A context manager: entering it loads the network and listens, leaving it stops.

    ``target``: the network that answers, or one for each provider (``{"aws": ...}``). ``port`` 0 takes a free one. ``bill``: a
    file that each answered image adds a JSON line to. ``faults``: a :class:`Faults`, or a script such as
    ``["throttle", "drop", "ok"]``, one entry a request. ``latency``: seconds before each reply. ``rate_limit``: requests a
    second, above which it throttles (checked first, so a throttled request uses up no fault). ``accepted_keys``: key ids that
    are known, None for any. ``answerer`` replaces the network. Raises ApibenchError for an unknown target, a port in use, or
    a bill that cannot be written.
    """

    def __init__(
        self,
        target: str | Mapping[str, str] = DEFAULT_TARGET,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        bill: Path | None = None,
        faults: Faults | Sequence[str] | None = None,
        latency: float = 0.0,
        rate_limit: float | None = None,
        accepted_keys: Collection[str] | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        self._address = (host, port)
        self._target = target
        self._bill_path = bill
        self._faults = faults if isinstance(faults, Faults) else Faults(faults or ())
        self._latency = latency
        self._limit = None if rate_limit is None else RateLimit(rate_limit)
        self._wires: tuple[Wire, ...] = (RekognitionWire(accepted_keys),)
        self._given = answerer
        self._answerers: dict[str, Answerer] = {}
        self._bill: Bill | None = None
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    # --- life ---

    def start(self) -> Emulator:
        """Load the network, open the bill, listen. Every answer from here on takes about the same time."""
        if self._server is not None:
            return self
        server = _listen(self._address, self._handle)  # first: a port in use is found before a network is loaded
        try:
            self._answerers = self._load()
            self._bill = Bill(self._bill_path)
        except BaseException:
            server.server_close()
            raise
        self._stopping.clear()
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="apibench-emulator", daemon=True
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop: requests in progress are cut off, open connections closed."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
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
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the emulator is not started")
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where an SDK is to be pointed at."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

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

    def _handle(self, request: Request) -> Reply | None:
        """The reply, or None to close the connection without one."""
        wire = next((wire for wire in self._wires if wire.claims(request)), None)
        if wire is None:
            return self._count(_not_found())
        if self._limit is not None and not self._limit.allows():
            return self._count(wire.failure(request, FaultKind.THROTTLE))
        fault = self._faults.next()
        reply = self._outcome(fault, wire, request)
        return None if self._stopping.is_set() else reply

    def _outcome(self, fault: Fault, wire: Wire, request: Request) -> Reply | None:
        self._pause(fault.seconds if fault.kind is FaultKind.HANG else self._latency)
        match fault.kind:
            case FaultKind.OK:
                return self._count(self._answer(wire, request))
            case FaultKind.MALFORMED | FaultKind.EMPTY | FaultKind.HTML:
                return self._count(replace(_SPOILT[fault.kind], outcome=fault.kind))
            case FaultKind.DROP | FaultKind.HANG:
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
        except OSError as error:  # a full disk under the bill
            _log.error("request %s is not answered: %s", request.id, error)
        except Exception:  # noqa: BLE001 - whatever goes wrong with one request must not end the server
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
        providers = [wire.provider for wire in self._wires]
        if self._given is not None:
            return dict.fromkeys(providers, self._given)
        if isinstance(self._target, str):
            return dict.fromkeys(providers, Answerer.load(self._target))
        unknown = set(self._target) - set(providers)
        if unknown:
            raise ApibenchError(f"emulator: no provider {sorted(unknown)[0]}; there are {', '.join(providers)}")
        names = {provider: self._target.get(provider, DEFAULT_TARGET) for provider in providers}
        loaded = {name: Answerer.load(name) for name in set(names.values())}
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
