"""Recordings played: the provider's own SDK asks a server on loopback that answers what was once answered.

Everything but the vendor is the same as live: engine, adapter, SDK, sockets, store. Keys are the fake ones of emulation, and
nothing can leave this machine. Which recorded reply is a request's own is seen by its images, which must be in it, plain or as
base64, byte for byte; so several may be asked at a time, and those that share an image wait for each other. Of several replies to
one request (throttled, then answered) each is played once, in order, and a start goes on where those before it ended.

An answer's origin is ``replay of live`` (or of whatever was recorded): never ``live``, so that nothing played can be mistaken for
what a vendor says now, nor share a row of the store or of a table with it. It costs nothing.
"""

from __future__ import annotations

import base64
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from apibench.errors import ApibenchError
from apibench.query.cassette import REPLAY, Entry, read
from apibench.query.contract import (
    EncodedImage,
    ErrorKind,
    Exchange,
    Outcome,
    Provider,
    ProviderError,
    WireKind,
)
from apibench.query.store import Key, ResponseStore, canonical

if TYPE_CHECKING:
    from apibench.emulator.wire import Reply, Request

# What the store's key has beside the adapter's own settings: who answered, if it was no vendor.
_WHO = {"emulated_by", "host"}
CODE = "cassette"


@dataclass(frozen=True)
class Tape:
    """What a cassette has of one provider, wire and settings. ``origin`` and ``settings`` are those of the store's key."""

    path: Path
    provider: str
    wire: WireKind
    origin: str
    settings: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, path: Path, provider: str, wire: WireKind, settings: Mapping[str, Any]) -> Tape:
        """Read it. ``settings`` are the adapter's. Raises ApibenchError naming the cassette where it holds nothing of that kind,
        or more than one measurement.
        """
        entries = read(path)
        found = [e for e in entries if (e.provider, e.wire) == (provider, wire) and _is_of(e, settings)]
        if not found:
            raise ApibenchError(f"{path}: nothing recorded of {_described(provider, wire, settings)}\n{_held(entries)}")
        whose = sorted({(entry.origin, canonical(dict(entry.settings))) for entry in found})
        if len(whose) > 1:
            several = "; ".join(f"{origin} {chosen}" for origin, chosen in whose)
            raise ApibenchError(
                f"{path}: more than one measurement of {provider} is recorded ({several}); keep them apart"
            )
        campaigns = {entry.campaign for entry in found} - {""}
        if len(campaigns) > 1:
            named = ", ".join(sorted(campaigns))
            raise ApibenchError(f"{path}: more than one campaign of {provider} is recorded ({named}); keep them apart")
        origin = found[0].origin
        origin = origin if origin.startswith(REPLAY) else REPLAY + origin
        return cls(path, provider, wire, origin, found[0].settings, tuple(found))

    def key(self, campaign: str) -> Key:
        return Key(campaign, self.provider, self.origin, canonical(dict(self.settings)))


class Replay:
    """Plays a tape; a context manager, within which there is an :attr:`endpoint` to ask. ``names`` of images by SHA-256.

    ``heard``: how many replies to each request earlier starts have heard (:func:`heard_before`). They are not played again, or a
    recording of a start that failed, and of the next that went well, could never be played to its end; but for the last, since
    a start that was killed may not have stored it.
    """

    def __init__(
        self, tape: Tape, names: Mapping[str, str] | None = None, heard: Mapping[tuple[str, ...], int] | None = None
    ) -> None:
        self.path = tape.path
        self._names = names or {}
        self._tape: dict[tuple[str, ...], deque[Entry]] = defaultdict(deque)
        for entry in tape.entries:
            self._tape[entry.images].append(entry)
        for request, times in (heard or {}).items():
            replies = self._tape.get(request, deque())
            for _ in range(min(times, len(replies) - 1)):
                replies.popleft()
        self._server = _Server(tape.wire)

    def missing(self, images: Collection[str]) -> list[str]:
        """The names of those of these images (SHA-256) that no recorded request was about."""
        known = {sha256 for request in self._tape for sha256 in request}
        return [self._name(sha256) for sha256 in images if sha256 not in known]

    @property
    def endpoint(self) -> str:
        """Where an adapter is to be pointed at, as if at an emulator."""
        return self._server.url

    def provider(self, inner: Provider) -> Provider:
        """The client as what answers from the recording."""
        return _Replaying(inner, self)

    def play(self, inner: Provider, images: Sequence[EncodedImage]) -> list[Outcome]:
        with self._server.expecting([image.data for image in images]) as expected:
            entries = self._tape.get(tuple(image.sha256 for image in images))
            if not entries:
                return [self._lacking(images, asked_before=entries is not None)] * len(images)
            expected.reply = entries.popleft().exchange
            return inner.label(images)

    def _lacking(self, images: Sequence[EncodedImage], *, asked_before: bool) -> ProviderError:
        names = ", ".join(self._name(image.sha256) for image in images[:3]) + (" ..." if len(images) > 3 else "")
        what = "no further reply" if asked_before else "no reply"
        together = " in one request" if len(images) > 1 else ""
        # QUOTA: what there is has been used up, and the run ends.
        message = f"{self.path}: {what} recorded about {names}{together}{self._why(images, asked_before)}"
        return ProviderError(ErrorKind.QUOTA, message, code=CODE, sent=False)

    def _why(self, images: Sequence[EncodedImage], asked_before: bool) -> str:
        """What may be done about it."""
        missing = len(self.missing(self._names))
        if missing:
            return f" ({missing} of {len(self._names)} images are not in it; --record adds them)"
        if asked_before:
            return " (it is played already; every reply is played once a start)"
        if not self.missing([image.sha256 for image in images]):
            return " (it was asked about with others; give the --batch that was recorded)"
        return ""

    def _name(self, sha256: str) -> str:
        return self._names.get(sha256, f"image {sha256[:12]}")

    def __enter__(self) -> Replay:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()


def heard_before(store: ResponseStore, key: Key) -> Counter[tuple[str, ...]]:
    """How often each request, by the SHA-256 of its images in order, has been made under a key."""
    requests: dict[int, list[str]] = defaultdict(list)
    with store.reading() as connection:
        for request, sha256 in connection.execute(
            "SELECT request, sha256 FROM attempts WHERE (campaign, provider, origin, settings) = (?, ?, ?, ?) "
            "AND sent = 1 AND request IS NOT NULL ORDER BY id",
            key.values(),
        ):
            requests[request].append(sha256)
    return Counter(map(tuple, requests.values()))


def _is_of(entry: Entry, settings: Mapping[str, Any]) -> bool:
    return {name: value for name, value in entry.settings.items() if name not in _WHO} == dict(settings)


def _described(provider: str, wire: WireKind, settings: Mapping[str, Any]) -> str:
    return f"{provider} over {wire.value} with {canonical(dict(settings))}"


def _held(entries: Sequence[Entry]) -> str:
    held = sorted({_described(entry.provider, entry.wire, entry.settings) for entry in entries})
    return f"it holds {'; '.join(held[:3])}{' ...' if len(held) > 3 else ''}" if held else "it holds nothing at all"


class _Replaying:
    """A provider whose requests go to the recording."""

    def __init__(self, inner: Provider, replay: Replay) -> None:
        self.info = inner.info
        self.settings = inner.settings
        self.host = inner.host
        self._inner = inner
        self._replay = replay

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return self._replay.play(self._inner, images)

    def close(self) -> None:
        self._inner.close()


@dataclass(eq=False)
class _Expected:
    """A request on its way: its images, each with its base64, and what it is answered; None: nothing."""

    images: dict[bytes, bytes]
    reply: Exchange | None = None

    def is_in(self, body: bytes) -> bool:
        return all(plain in body or coded in body for plain, coded in self.images.items())


class _Server:
    """A loopback server of one wire that gives prepared replies, each once, to the requests that hold the images it is about."""

    def __init__(self, wire: WireKind) -> None:
        self._wire = wire
        self._stack = ExitStack()
        self._expected: list[_Expected] = []
        self._changed = threading.Condition()
        self.url = ""

    def start(self) -> None:
        address = ("127.0.0.1", 0)
        if self._wire is WireKind.GRPC:
            from apibench.emulator.rpcd import RpcServer

            rpc = RpcServer(address, self._answer)
            rpc.start()
            self._stack.callback(rpc.stop)
            self.url = f"http://127.0.0.1:{rpc.port}"
            return
        from apibench.emulator.httpd import Server

        http = Server(address, self._answer)
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), name="apibench-replay", daemon=True)
        thread.start()
        self._stack.callback(http.stop)
        self.url = f"http://127.0.0.1:{http.server_address[1]}"

    def stop(self) -> None:
        self._stack.close()

    @contextmanager
    def expecting(self, images: list[bytes]) -> Iterator[_Expected]:
        """A request about these images is about to come. Waits for those on their way that share one of them."""
        mine = _Expected({data: base64.b64encode(data) for data in images})
        with self._changed:
            self._changed.wait_for(lambda: not any(one.images.keys() & mine.images.keys() for one in self._expected))
            self._expected.append(mine)
        try:
            yield mine
        finally:
            with self._changed:
                self._expected.remove(mine)
                self._changed.notify_all()

    def _answer(self, request: Request) -> Reply | None:
        """The prepared reply; None, which drops the connection, where it was lost, or where this is no request that it is for."""
        from apibench.emulator.wire import Reply, RpcError

        with self._changed:
            expected = next((one for one in self._expected if one.is_in(request.body)), None)
            exchange = None
            if expected is not None:
                exchange, expected.reply = expected.reply, None
        if exchange is None:
            return None
        if exchange.rpc is not None:
            return Reply(0, b"", rpc=RpcError(*exchange.rpc))
        return Reply(exchange.status, exchange.body, tuple(exchange.headers.items()))
