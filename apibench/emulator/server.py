"""The emulator's life: it loads, listens, says what it has counted, and stops.

What becomes of a request is :mod:`~apibench.emulator.exchange`'s.
"""

from __future__ import annotations

import errno
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from apibench import defaults
from apibench.emulator import vendors
from apibench.emulator.answerer import Answerer
from apibench.emulator.bill import Bill
from apibench.emulator.exchange import Exchange, GivenFaults, Rules
from apibench.emulator.httpd import Handle, Server
from apibench.emulator.tls import Certificate
from apibench.emulator.wire import Wire
from apibench.errors import ApibenchError
from apibench.query.contract import WireKind

if TYPE_CHECKING:
    from apibench.emulator.rpcd import RpcServer

_KIND_NAMES = {WireKind.HTTP: "HTTP", WireKind.GRPC: "gRPC"}


class Emulator:
    """Vendors' APIs on loopback. A context manager: entering it loads the networks and listens, leaving it stops.

    ``target``: the network that answers, or one for each provider (``{"aws": ...}``); ``answerer`` replaces it, for instance by
    ``Answerer.random()``. ``providers``: whom to speak for; all whose packages are installed, unless said. ``port`` and
    ``grpc_port``: 0 takes a free one; a port is only opened if one of the providers speaks that protocol. ``bill``: a file that
    each answered image adds a JSON line to. ``tls``: a file that the certificate of an authority made for this emulator is
    written to, for clients to trust; without it there is no TLS.

    ``faults``: a :class:`~apibench.emulator.faults.Faults`, or a script such as ``["throttle", "drop", "ok"]``, one entry a
    request. ``latency``: seconds before each reply, or a distribution (:class:`~apibench.emulator.latency.Latency`), drawn with
    ``seed``; nobody waits for another request's. ``rate_limit``: requests a second to one provider, above which it throttles
    (checked first, so a throttled request uses up no fault). ``accepted_keys``: keys that are known, None for any: for AWS
    ``ID:SECRET``, whose signatures are verified, or ``ID`` alone, whose are not. Each of these four may be a mapping by
    provider, with ``"*"`` for the others: ``rate_limit={"google": 30, "*": 100}``. A script that several share is used up by
    all of them together; a limit is each one's own.

    Raises ApibenchError for an unknown provider or target, a port in use, a bill that cannot be written, or a package that is
    missing.
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
        faults: GivenFaults | Mapping[str, GivenFaults] | None = None,
        latency: float | str | Mapping[str, float | str] = 0.0,
        rate_limit: float | Mapping[str, float] | None = None,
        accepted_keys: Collection[str] | Mapping[str, Collection[str]] | None = None,
        answerer: Answerer | None = None,
        tls: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.providers = tuple(vendors.available() if providers is None else providers)
        vendors.check(self.providers)
        self._host, self._port, self._grpc_port = host, port, grpc_port
        self._target = target
        self._bill_path, self._tls = bill, tls
        self._keys = {} if accepted_keys is None else vendors.each(accepted_keys, self.providers)
        self._wires: tuple[Wire, ...] = ()
        self._given = answerer
        self._answerers: dict[str, Answerer] = {}
        self._bill: Bill | None = None
        self._stopping = threading.Event()
        self._exchange = Exchange(Rules.of(self.providers, faults, latency, rate_limit, seed), self._stopping)
        self._started = False
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._rpc_server: RpcServer | None = None

    # --- life ---

    def start(self) -> Emulator:
        """Load the networks, open the bill, listen. Every answer from here on takes about the same time."""
        if self._started:
            return self
        self._wires = vendors.wires(self.providers, self._keys)
        kinds = {wire.kind for wire in self._wires}
        certificate = None if self._tls is None else Certificate.make(self._host)
        try:
            # First: a port in use is found before a network is loaded.
            if WireKind.HTTP in kinds:
                context = None if certificate is None else certificate.context()
                self._server = _listen((self._host, self._port), partial(self._exchange.handle, WireKind.HTTP), context)
            if WireKind.GRPC in kinds:
                from apibench.emulator.rpcd import RpcServer

                self._rpc_server = RpcServer(
                    (self._host, self._grpc_port),
                    partial(self._exchange.handle, WireKind.GRPC),
                    None if certificate is None else (certificate.key, certificate.server),
                )
            if self._server is not None and self._rpc_server is not None:
                self._server.grpc_at = self.grpc_url
            self._answerers = self._load()
            self._bill = Bill(self._bill_path)
            if certificate is not None and self._tls is not None:
                certificate.publish(self._tls)
            self._exchange.begin(self._wires, self._answerers, self._bill)
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

    def serve_forever(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGINT or SIGTERM (or :meth:`close` from another thread), then stop cleanly.

        ``ready`` is called when a signal would do so: what says that it runs belongs there.
        """
        self.start()

        stopped: list[int] = []

        def stop(number: int, _frame: FrameType | None) -> None:
            stopped.append(number)  # and no more: an Event's lock may be held where the signal arrives

        earlier = {}
        if threading.current_thread() is threading.main_thread():
            earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ready()
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
        """The same for gRPC, written as a URL (``http``: without TLS; ``https``: with it)."""
        return self._at(self.grpc_port)

    def describe(self) -> list[str]:
        """A line a protocol and provider: where it listens, which network answers, and whether keys are checked."""
        return [
            f"emulating {wire.title} ({_KIND_NAMES[wire.kind]}) on {self.endpoint(wire.kind)}, "
            f"answered by {self._answerers[wire.provider].name}"
            + (", keys are checked" if wire.provider in self._keys else "")
            for wire in self._wires
        ]

    def endpoint(self, kind: WireKind) -> str:
        return self.grpc_url if kind is WireKind.GRPC else self.url

    def _at(self, port: int) -> str:
        return f"http{'s' if self._tls else ''}://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    @property
    def hits(self) -> Counter[str]:
        """Requests so far, by outcome: ``answered``, the fault's kind, or the vendor's error code; ``hits.total()`` is all."""
        return self._exchange.hits

    @property
    def bill(self) -> Counter[str]:
        """Images that the vendor would bill, by provider, with those that the bill's file holds from earlier starts.

        An image that labels were computed for counts, whether or not its answer arrived, and again if it is sent again; at
        Google once for each feature. A batch of 16 is 16 images. What was throttled, refused or failed is free, and so is an
        image with an error of its own within a success (the emulator's choice; whether vendors bill it is not known).
        """
        return self._bill.totals if self._bill is not None else Counter()

    @property
    def bill_count(self) -> int:
        """All images on the bill."""
        return self.bill.total()

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


def _listen(address: tuple[str, int], handle: Handle, context: ssl.SSLContext | None) -> Server:
    host, port = address
    try:
        return Server(address, handle, context)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ApibenchError(f"port {port} on {host} is in use; choose another, or 0 for a free one") from error
        raise ApibenchError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    except OverflowError as error:
        raise ApibenchError(f"port {port}: a port is from 0 to 65535") from error
