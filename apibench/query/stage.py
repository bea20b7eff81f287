"""``apibench query``: image sets in, stored responses out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apibench import defaults
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.progress import Progress
from apibench.query import pricing, registry
from apibench.query.contract import Adapter, Provider, ProviderError, ProviderOptions
from apibench.query.engine import Engine, QueryReport, Question, RetryPolicy
from apibench.query.store import Key, ResponseStore, canonical

if TYPE_CHECKING:
    from apibench.emulator import Emulator

Setting = str | int | float | bool


@dataclass(frozen=True)
class QuerySettings:
    """Whom to ask, and how.

    ``emulated`` asks a local emulator with fake keys: one of its own, whose network is ``target``, or the one that already
    runs at ``endpoint`` (the port of the provider's own wire). Without it, ``endpoint`` is asked with the user's own keys.
    """

    provider: str
    campaign: str = "default"
    emulated: bool = False
    target: str = defaults.TARGET
    endpoint: str | None = None
    max_calls: int | None = None
    concurrency: int = 4
    timeout: float = 30.0
    per_second: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    prices: Path | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def options(self, endpoint: str | None = None) -> ProviderOptions:
        """What an adapter is told, with ``endpoint`` where the query itself names none."""
        return ProviderOptions(
            endpoint=self.endpoint or endpoint,
            emulated=self.emulated,
            timeout=self.timeout,
            concurrency=self.concurrency,
            settings=self.settings,
        )

    def __post_init__(self) -> None:
        for name, number in (("--timeout", self.timeout), ("--rate", self.per_second)):
            if number is not None and not 0 < number < math.inf:
                raise ApibenchError(f"{name} {number}: must be a number above 0")


@dataclass(frozen=True)
class Plan:
    """What a query would send: images in all, those with a stored outcome, calls left, their list price and time."""

    provider: str
    origin: str
    images: int
    stored: int
    calls: int
    cost: float | None
    prices_as_of: str
    seconds: float | None

    def __str__(self) -> str:
        if self.origin == "emulated":
            price = "emulated: costs nothing"
        elif self.cost is None:
            price = "price unknown"
        else:
            price = f"about ${self.cost:.2f} by the list of {self.prices_as_of}, retries and free quotas not counted"
        rate = f", at least {self.seconds:.0f} s at its rate limit" if self.seconds else ""
        return (
            f"{self.provider}: {self.images} images, {self.stored} stored, {self.calls} calls to send ({price}{rate})"
        )


def plan(images: Sequence[ImageSet], store: Path, query: QuerySettings) -> Plan:
    """Work out what :func:`query_images` would send. Needs neither keys nor SDK, sends nothing, writes nothing."""
    sha256s = {record.sha256 for images_ in images for record in images_.records}
    adapter = registry.adapter(query.provider)
    key = _key(adapter, query, *_expected(adapter, query))
    stored = 0
    if store.is_file() and store.stat().st_size > 0:  # an empty file is a store whose making was cut off
        with ResponseStore.open(store, read_only=True) as opened:
            stored = len(sha256s & set(opened.settled(key)))
    return estimate(query, len(sha256s), stored)


def estimate(query: QuerySettings, images: int, stored: int = 0) -> Plan:
    """The same for a number of images that do not exist yet. Raises ApibenchError for a wrong setting or price list."""
    adapter = registry.adapter(query.provider)
    _settings(adapter, query)
    if query.emulated and query.endpoint is None:
        from apibench import classifiers

        classifiers.check(query.target)
    price = pricing.price_of_call(query.provider, query.prices)
    calls = images - stored
    rate = None if query.emulated else query.per_second or adapter.info.rate_per_second
    return Plan(
        provider=query.provider,
        origin=_expected(adapter, query)[0],
        images=images,
        stored=stored,
        calls=calls,
        cost=None if price is None else price * calls,
        prices_as_of=pricing.dated(query.prices),
        seconds=calls / rate if rate else None,
    )


def query_images(
    images: Sequence[ImageSet], store: Path, query: QuerySettings, emulator: Emulator | None = None
) -> QueryReport:
    """Ask a provider about every image that has no stored outcome, and store what it says.

    ``emulator``: one that several queries share, started here when it is first needed; without it an emulated query has its own.
    Raises ApibenchError where nothing can be asked at all: no such provider, no SDK, no credentials, a store that cannot be
    written.
    """
    adapter = registry.adapter(query.provider)
    questions = [
        Question(record.sha256, f"{record.id} ({record.variant})", partial(images_.read_bytes, record))
        for images_ in images
        for record in images_.records
    ]
    price = 0.0 if query.emulated else pricing.price_of_call(query.provider, query.prices)
    key = _key(adapter, query, *_expected(adapter, query))
    unique = {question.sha256: question for question in questions}
    # Nothing to send: the store stays untouched, no network is loaded and no credentials are asked for.
    before = _look(store, key, unique, images)
    if before is not None and before.open == 0:
        return before
    # Connected first: without credentials not even an empty store is made.
    with _connect(adapter, query, emulator) as provider, ResponseStore.open(store) as opened:
        for images_ in images:
            opened.remember(images_)
        origin = registry.origin_of(provider.host, provider.info, emulated=query.emulated)
        bar = Progress(range(len(questions)), f"query {query.provider}", unit="image")
        engine = Engine(
            provider,
            opened,
            _key(adapter, query, origin, _expected(adapter, query)[1] or provider.host),
            price=price,
            max_calls=query.max_calls,
            concurrency=query.concurrency,
            per_second=None if query.emulated else query.per_second or provider.info.rate_per_second,
            policy=query.policy,
            progress=bar.advance,
        )
        with bar:
            return engine.run(questions)


def _look(store: Path, key: Key, questions: Mapping[str, Question], images: Sequence[ImageSet]) -> QueryReport | None:
    """What a store has on these images; None where there is no sound store yet. Untouched, unless the images have moved."""
    try:
        with ResponseStore.open(store, read_only=True) as reader:
            report = QueryReport.before(questions, reader, key)
            moved = not all(reader.remembers(images_) for images_ in images)
    except ApibenchError:
        return None  # absent, cut off in its making, or no store: opening it for writing mends it or says so
    if report.open == 0 and moved:
        with ResponseStore.open(store) as opened:
            for images_ in images:
                opened.remember(images_)
    return report


def _settings(adapter: Adapter, query: QuerySettings) -> dict[str, Setting]:
    try:
        adapter.wire(query.options())
        return dict(adapter.settings(query.options()))
    except ValueError as error:
        raise ApibenchError(f"{query.provider}: setting {error}") from error


def _key(adapter: Adapter, query: QuerySettings, origin: str, where: str) -> Key:
    settings = _settings(adapter, query)
    if query.emulated:
        from apibench.classifiers import canonical as canonical_name

        # Another network is another provider; that of a running emulator is named in its replies.
        settings["emulated_by"] = "a running emulator" if query.endpoint else canonical_name(query.target)
    elif origin == "custom":
        settings["host"] = where  # two endpoints of one's own are two providers
    return Key(query.campaign, query.provider, origin, canonical(settings))


def _expected(adapter: Adapter, query: QuerySettings) -> tuple[str, str]:
    """The origin before there is a client (the SDK's own endpoint is the vendor's), and an endpoint's host, port and path."""
    if query.emulated:
        return "emulated", ""
    endpoint = adapter.endpoint(query.options())
    if endpoint is None:
        return "live", ""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "custom", ""  # not a URL: the adapter says so when a client is made
    return registry.origin_of(host, adapter.info, emulated=False), f"{host}{port}{parts.path.rstrip('/')}"


def check_access(query: QuerySettings) -> None:
    """Raises ApibenchError where a live provider cannot be asked: no SDK, no credentials. Sends nothing that is billed."""
    if not query.emulated:
        with _connect(registry.adapter(query.provider), query, None):
            pass


@contextmanager
def _connect(adapter: Adapter, query: QuerySettings, emulator: Emulator | None) -> Iterator[Provider]:
    """A provider's client, with an emulator behind it if asked for; its credentials are there."""
    with ExitStack() as stack:
        endpoint = None
        if query.emulated and query.endpoint is None:
            from apibench.emulator import vendors

            vendors.check([query.provider])
            emulator = emulator or stack.enter_context(_emulator(query))
            endpoint = emulator.start().endpoint(adapter.wire(query.options()))
        try:
            provider = adapter.create(query.options(endpoint))
            stack.callback(provider.close)
        except ProviderError as error:
            raise ApibenchError(f"{query.provider}: {error.message}") from error
        except ModuleNotFoundError as error:
            extra = adapter.info.extra or query.provider
            raise ApibenchError(
                f"{query.provider}: its SDK is not installed (no {error.name}); apibench's extra {extra!r} brings it: "
                f"pip install '.[{extra}]'"
            ) from error
        yield provider


def _emulator(query: QuerySettings) -> Emulator:
    from apibench.emulator import Emulator

    return Emulator(query.target, providers=[query.provider])
