"""Providers for tests: in memory, scripted, and counting what they are asked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    Label,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
    WireKind,
)
from apibench.query.engine import Question, RetryPolicy
from apibench.query.store import Key

KEY = Key("default", "fake", "custom", "{}")
QUICK = RetryPolicy(first=0.001, longest=0.002, longest_retry_after=0.05)


def answer(name: str = "Dog") -> Answer:
    raw = json.dumps({"labels": [name]}).encode()
    return Answer(raw, Parsed((Label(name, 0.5),), "v1"), "request-1")


def error(kind: ErrorKind, **about: object) -> ProviderError:
    return ProviderError(kind, f"scripted {kind.value}", **about)  # type: ignore[arg-type]


def questions(count: int) -> list[Question]:
    made = []
    for i in range(count):
        data = f"image {i}".encode()
        made.append(Question(hashlib.sha256(data).hexdigest(), f"image{i}", lambda data=data: data))  # type: ignore[misc]
    return made


class FakeProvider:
    """Answers what ``script`` says: a function from (hit number, image) to an outcome; by default always an answer."""

    info = ProviderInfo(name="fake", title="Fake", hosts=(r"fake\.example",))

    def __init__(
        self, script: Callable[[int, EncodedImage], Outcome] | None = None, *, delay: float = 0.0, batch: int = 1
    ) -> None:
        self.info = ProviderInfo(name="fake", title="Fake", hosts=(r"fake\.example",), max_batch=batch)
        self.settings: Mapping[str, str | int | float | bool] = {}
        self.host = "fake.example"
        self.hits = 0
        self.seen: list[str] = []
        self.times: list[float] = []
        self._script = script or (lambda hit, image: answer())
        self._delay = delay
        self._mutex = threading.Lock()

    def close(self) -> None: ...

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        with self._mutex:
            self.hits += 1
            hit = self.hits
            self.seen += [image.sha256 for image in images]
            self.times.append(time.monotonic())
        time.sleep(self._delay)
        return [self._script(hit, image) for image in images]


class FakeAdapter:
    info = FakeProvider.info

    def settings(self, options: ProviderOptions) -> dict[str, str | int | float | bool]:
        return dict(options.settings)

    def endpoint(self, options: ProviderOptions) -> str | None:
        return options.endpoint

    def wire(self, options: ProviderOptions) -> WireKind:
        return WireKind.HTTP


class BotocoreBody:
    """What botocore reads a recorded response from."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.data
