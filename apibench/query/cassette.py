"""Recordings of what providers said: made while a query runs, played later through the same SDKs (:mod:`apibench.query.replay`).

A cassette is a text file, a JSON object a line, one for each request that was sent, in the order in which their replies came::

    {"cassette": 1, "campaign": "may", "provider": "aws", "origin": "live", "settings": {...}, "wire": "http",
     "images": ["SHA-256"], "request": "SHA-256", "method": "/DetectLabels", "status": 200,
     "headers": {"content-type": ...}, "text": "..."}

``request`` is the hash of what was asked: provider, wire (which has one operation), settings and images, as canonical JSON. The
reply is the body as received, ``text`` or ``base64``; over gRPC that of the message, or the status in ``rpc``; ``lost`` says
that none came. ``sent`` are the hashes of the bytes on the wire where they were not the files' own. Refusals and throttled
requests are recorded too. A cassette is of one campaign, so that one measurement is never played as another. There are no times
in it, no keys (errors pass the redactor, of answers only keys of this process are masked; no header but those that an adapter
reads), and no images: requests are not recorded at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from apibench.errors import ApibenchError
from apibench.query.contract import (
    EncodedImage,
    ErrorKind,
    Exchange,
    Outcome,
    Provider,
    ProviderError,
    WireKind,
)
from apibench.query.redact import LEAST_IN_ANSWERS, mask, redact, redact_body
from apibench.query.store import Key, canonical

VERSION = 1
REPLAY = "replay of "  # and the recorded origin: what is played is never taken for what a vendor says now


@dataclass(frozen=True)
class Entry:
    """One request and its reply; ``exchange`` is None where the reply was lost."""

    provider: str
    origin: str
    settings: Mapping[str, Any]  # of the store's key: the adapter's, and who answered if it was no vendor
    wire: WireKind
    images: tuple[str, ...]
    exchange: Exchange | None
    lost: str = ""
    sent: tuple[str, ...] = ()
    campaign: str = ""  # empty: written before it was noted

    @property
    def request(self) -> str:
        asked = [self.provider, self.wire.value, dict(self.settings), list(self.images)]
        return hashlib.sha256(canonical(asked).encode()).hexdigest()

    def line(self) -> str:
        found: dict[str, Any] = {
            "cassette": VERSION,
            "provider": self.provider,
            "origin": self.origin,
            "settings": dict(self.settings),
            "wire": self.wire.value,
            "images": list(self.images),
            "request": self.request,
        }
        if self.campaign:
            found["campaign"] = self.campaign
        if self.sent and self.sent != self.images:
            found["sent"] = list(self.sent)
        if self.exchange is None:
            return canonical(found | {"lost": self.lost})
        return canonical(found | _said(self.exchange))

    @classmethod
    def of(cls, line: str) -> Entry:
        """Read a line. Raises ValueError, KeyError or TypeError for what is none."""
        found = json.loads(line)
        if found["cassette"] != VERSION:
            raise ValueError(f"version {found['cassette']}; this apibench plays version {VERSION}")
        wire = WireKind(found["wire"])
        images = tuple(map(str, found["images"]))
        lost = str(found.get("lost", ""))
        entry = cls(
            provider=str(found["provider"]),
            origin=str(found["origin"]),
            settings=dict(found["settings"]),
            wire=wire,
            images=images,
            exchange=None if "lost" in found else _exchange(found, wire),
            lost=lost,
            sent=tuple(map(str, found.get("sent", images))),
            campaign=str(found.get("campaign", "")),
        )
        if found["request"] != entry.request:
            raise ValueError("its hash is not that of its request")
        return entry


def _said(exchange: Exchange) -> dict[str, Any]:
    """A reply as it is written, without secrets: of an answer, which was paid for, only known keys are taken out."""
    found: dict[str, Any] = {"method": exchange.method}
    if exchange.rpc is not None:
        code, message, details = exchange.rpc
        found["rpc"] = {"code": code, "message": redact(message, most=4_000)}
        if details is not None:
            found["rpc"]["details"] = base64.b64encode(mask(details)).decode()
        return found
    if exchange.wire is WireKind.HTTP:
        found["status"] = exchange.status
        found["headers"] = {name: redact(value, most=4_000) for name, value in exchange.headers.items()}
    body = mask(exchange.body, least=LEAST_IN_ANSWERS)
    if exchange.wire is WireKind.HTTP and exchange.status != 200:
        body = redact_body(exchange.body)
    try:
        found["text"] = body.decode() if exchange.wire is WireKind.HTTP else None
    except UnicodeDecodeError:
        found["text"] = None
    if found["text"] is None:
        del found["text"]
        found["base64"] = base64.b64encode(body).decode()
    return found


def _exchange(found: dict[str, Any], wire: WireKind) -> Exchange:
    rpc = None
    if "rpc" in found:
        details = found["rpc"].get("details")
        details = None if details is None else base64.b64decode(details, validate=True)
        rpc = (str(found["rpc"]["code"]), str(found["rpc"]["message"]), details)
    body = found["text"].encode() if "text" in found else base64.b64decode(found.get("base64", ""), validate=True)
    headers = {str(name): str(value) for name, value in found.get("headers", {}).items()}
    return Exchange(wire, str(found["method"]), int(found.get("status", 0)), headers, body, rpc)


def read(path: Path) -> list[Entry]:
    """All entries, in order; a last line that a crash cut off is left out. Raises ApibenchError naming file and line."""
    try:
        content = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise ApibenchError(f"{path}: cannot be read as a recording ({why})") from None
    lines = content.split("\n")[:-1]
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry.of(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            why = redact(f"{type(error).__name__}: {error}", most=120)
            raise ApibenchError(f"{path}, line {number}: not an entry of a recording ({why})") from None
    return entries


class Recorder:
    """Writes a cassette while a provider is asked. A file that is there is gone on with, if it is a recording.

    Its :attr:`tap` goes into the adapter's options, its :meth:`provider` around the client. Raises ApibenchError for a file that
    is no recording, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""  # why no more can be written
        self._mutex = threading.Lock()
        self._heard = _Heard()
        self._is_new = not path.exists()
        self._before = [] if self._is_new else read(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            whole = sum(len(entry) for entry in path.read_bytes().splitlines(keepends=True) if entry.endswith(b"\n"))
            self._file.truncate(whole)  # the half of a line that a crash left
        except OSError as error:
            raise ApibenchError(f"--record {path}: cannot be written: {error.strerror}") from None

    def tap(self, exchange: Exchange) -> None:
        """What an adapter tells of a reply; in the thread that asked."""
        self._heard.exchanges.append(exchange)

    def provider(self, inner: Provider, key: Key, wire: WireKind) -> Provider:
        """A provider that is asked as before and recorded. Raises ApibenchError where it cannot be, before anything is sent."""
        if not inner.info.taps:
            raise ApibenchError(f"--record {self.path}: the adapter of {key.provider} does not tell what it receives")
        others = {entry.origin for entry in self._before if entry.provider == key.provider} - {key.origin}
        if others:
            message = f"holds answers of origin {', '.join(sorted(others))}; record {key.origin} ones into a file of their own"
            raise ApibenchError(f"--record {self.path}: {message}")
        # Of two answers to one request the first is played first, so the second campaign's would be taken for the first's.
        campaigns = {entry.campaign for entry in self._before if entry.provider == key.provider} - {"", key.campaign}
        if campaigns:
            message = f"holds campaign {', '.join(sorted(campaigns))}; record {key.campaign} into a file of its own"
            raise ApibenchError(f"--record {self.path}: {message}")
        return _Recording(inner, self, key, wire)

    def take(self, key: Key, wire: WireKind, images: Sequence[EncodedImage], outcomes: Sequence[Outcome]) -> None:
        """Write down what this thread's last call brought; nothing, if it never left this machine."""
        heard = self._heard.exchanges
        error = next((outcome for outcome in outcomes if isinstance(outcome, ProviderError)), None)
        if not heard and error is not None and not error.sent:
            return
        replies: Sequence[Exchange | None] = heard or [None]
        for exchange in replies:
            entry = Entry(
                provider=key.provider,
                origin=key.origin,
                settings=json.loads(key.settings),
                wire=wire,
                images=tuple(image.sha256 for image in images),
                exchange=exchange,
                lost=error.message if error is not None else "",
                sent=tuple(hashlib.sha256(image.data).hexdigest() for image in images),
                campaign=key.campaign,
            )
            self._write(entry)

    def forget(self) -> None:
        self._heard.exchanges = []

    def _write(self, entry: Entry) -> None:
        with self._mutex:
            try:
                self._file.write(entry.line().encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except (OSError, ValueError) as error:  # the answer goes into the store all the same, and the run ends
                why = getattr(error, "strerror", None) or error
                self.problem = f"--record {self.path}: cannot be written: {why}"

    def close(self) -> None:
        """Close. Where nothing was said there is no file, unless there was one before."""
        with suppress(OSError):  # what could not be written is told already, and closing tries again
            self._file.close()
        with suppress(OSError):
            if self._is_new and self.path.stat().st_size == 0:
                self.path.unlink()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Heard(threading.local):
    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []


class _Recording:
    """A provider that writes down what it hears."""

    def __init__(self, inner: Provider, recorder: Recorder, key: Key, wire: WireKind) -> None:
        self.info = inner.info
        self.settings = inner.settings
        self.host = inner.host
        self._inner = inner
        self._recorder = recorder
        self._key = key
        self._wire = wire

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        if self._recorder.problem:
            return [ProviderError(ErrorKind.QUOTA, self._recorder.problem, sent=False)] * len(images)
        self._recorder.forget()
        outcomes = self._inner.label(images)
        self._recorder.take(self._key, self._wire, images, outcomes)
        return outcomes

    def close(self) -> None:
        self._inner.close()
