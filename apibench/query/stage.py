"""``apibench query``: image sets in, stored responses out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apibench import defaults
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.progress import Progress
from apibench.query import preflight, pricing, probe, registry
from apibench.query.account import unpriced
from apibench.query.cassette import Recorder
from apibench.query.contract import Adapter, Provider, ProviderError, ProviderInfo, ProviderOptions
from apibench.query.engine import Engine
from apibench.query.forecast import NOTHING_BEFORE, Before, Plan
from apibench.query.policy import OnUncertain, RetryPolicy
from apibench.query.redact import redact
from apibench.query.replay import Replay, Tape, heard_before
from apibench.query.result import QueryReport, Question, left_before
from apibench.query.store import Key, ResponseStore, canonical

if TYPE_CHECKING:
    from apibench.emulator import Emulator

Setting = str | int | float | bool

FEWEST, MOST = 4, 64  # requests at a time, unless told


@dataclass(frozen=True)
class QuerySettings:
    """Whom to ask, and how.

    ``emulated`` asks a local emulator with fake keys: one of its own, whose network is ``target``, or the one that already
    runs at ``endpoint`` (the port of the provider's own wire). Without it, ``endpoint`` is asked with the user's own keys.
    ``max_calls`` and ``max_cost`` (US dollars) are of the campaign in its store, over all starts and providers. ``on_uncertain``:
    what becomes of an image whose answer may have been lost. ``batch``: images a request, as far as the provider
    takes so many. ``concurrency`` None: as many requests at a time as the provider's rate needs where an answer takes a second.
    ``record``: a cassette that what is said is written to; ``replay``: one that answers, in nobody's stead and for nothing.
    """

    provider: str
    campaign: str = "default"
    emulated: bool = False
    target: str = defaults.TARGET
    endpoint: str | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    on_uncertain: OnUncertain = OnUncertain.ASK_AGAIN
    batch: int = 1
    concurrency: int | None = None
    timeout: float = 30.0
    per_second: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    prices: Path | None = None
    record: Path | None = None
    replay: Path | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def options(self, endpoint: str | None = None) -> ProviderOptions:
        """What an adapter is told, with ``endpoint`` where the query itself names none."""
        return ProviderOptions(
            endpoint=self.endpoint or endpoint,
            emulated=self.pretended,
            timeout=self.timeout,
            concurrency=self.concurrency or FEWEST,
            settings=self.settings,
        )

    @property
    def pretended(self) -> bool:
        """Whether no vendor is asked: fake keys, no price, no rate."""
        return self.emulated or self.replay is not None

    def rate(self, info: ProviderInfo) -> float | None:
        """Requests a second: the user's, else what the vendor documents; None, no limit, for an emulator of one's own."""
        if self.per_second is not None or self.pretended:
            return self.per_second
        batch = min(self.batch, info.max_batch)
        return min(info.rate_per_second, (info.images_per_second or math.inf) / batch)

    def at_a_time(self, info: ProviderInfo) -> int:
        """Requests at a time: enough for the rate as long as an answer takes a second."""
        rate = self.rate(info)
        return self.concurrency or min(MOST, max(FEWEST, math.ceil(rate or 0)))

    def __post_init__(self) -> None:
        numbers = (("--timeout", self.timeout), ("--rate", self.per_second), ("--max-cost", self.max_cost))
        for name, number in numbers:
            if number is not None and not 0 < number < math.inf:
                raise ApibenchError(f"{name} {number}: must be a number above 0")
        if self.replay is not None and (self.emulated or self.endpoint or self.record):
            raise ApibenchError("--replay is what answers: give no --emulated, --endpoint or --record beside it")


def plan(images: Sequence[ImageSet], store: Path, query: QuerySettings) -> Plan:
    """Work out what :func:`query_images` would send. Needs neither keys nor SDK, sends nothing, writes nothing."""
    sha256s = {record.sha256 for images_ in images for record in images_.records}
    adapter = registry.adapter(query.provider)
    if not store.is_file() or store.stat().st_size == 0:  # an empty file is a store whose making was cut off
        return estimate(query, len(sha256s))
    with ResponseStore.open(store, read_only=True) as opened:
        return _plan(sha256s, opened, _key(adapter, query, *_expected(adapter, query)), query)


def _plan(sha256s: set[str], store: ResponseStore, key: Key, query: QuerySettings) -> Plan:
    settled = store.settled(key)
    left = left_before(store, key, query.on_uncertain, query.policy)
    done = Counter("left" if sha256 in left else settled[sha256] for sha256 in sha256s & {*settled, *left})
    if query.max_cost is not None and key.is_real:
        _check_priced(store, query)
    before = Before(
        store.calls(query.campaign, real=key.is_real),
        store.spent(query.campaign, real=key.is_real),
        answered=done["answered"],
        refused=done["rejected"],
        left=done["left"],
    )
    return estimate(query, len(sha256s), before, key.origin)


def _check_priced(store: ResponseStore, query: QuerySettings) -> None:
    """Raises ApibenchError where a campaign has spent what nobody knows, since a cap on cost cannot be kept then."""
    with store.reading() as connection:
        count = unpriced(connection, query.campaign)
    if count:
        raise ApibenchError(
            f"--max-cost {query.max_cost:g}: {count} images of campaign {query.campaign!r} were sent when no price was known, "
            "so what it has spent is not known either; use --max-calls, or another --campaign"
        )


def estimate(query: QuerySettings, images: int, before: Before = NOTHING_BEFORE, origin: str | None = None) -> Plan:
    """The same for a number of images that do not exist yet; ``origin``: the real one, once there is a client.

    Raises ApibenchError for a wrong setting or price list.
    """
    adapter = registry.adapter(query.provider)
    _settings(adapter, query)
    if query.emulated and query.endpoint is None:
        from apibench import classifiers

        classifiers.check(query.target)
    origin = origin or _expected(adapter, query)[0]
    return Plan(
        provider=query.provider,
        origin=origin,
        images=images,
        calls=math.ceil((images - before.images) / min(query.batch, adapter.info.max_batch)),
        price=_price(query, origin),
        prices_as_of=pricing.dated(query.prices),
        rate=query.rate(adapter.info),
        rate_verified=adapter.info.rate_verified or query.per_second is not None,
        max_calls=query.max_calls,
        max_cost=query.max_cost,
        before=before,
        note=_note(adapter, query),
    )


def _note(adapter: Adapter, query: QuerySettings) -> str:
    """What of a query does not hold for this provider."""
    most = adapter.info.max_batch
    if query.batch <= most:
        return ""
    takes = "one image" if most == 1 else f"at most {most} images"
    return f"--batch {query.batch} does not hold for it: it takes {takes} a request"


def _price(query: QuerySettings, origin: str) -> float | None:
    """US dollars an image: of an emulator's only where a cap on them is rehearsed.

    Raises ApibenchError where there is none, and a cap on what is spent.
    """
    price = pricing.price_of_image(query.provider, query.prices)
    pricing.unbilled(query.provider, query.prices)
    rehearsed = query.emulated and query.max_cost is not None
    if (query.pretended and not rehearsed) or origin == "local":
        return 0.0
    if price is None and query.max_cost is not None:
        raise ApibenchError(
            f"--max-cost {query.max_cost:g}: the price list has no price for {query.provider}; name it in --prices FILE"
        )
    return price


def query_images(
    images: Sequence[ImageSet],
    store: Path,
    query: QuerySettings,
    emulator: Emulator | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> QueryReport:
    """Ask a provider about every image that has no stored outcome, and store what it says.

    ``emulator``: one that several queries share, started here when it is first needed; without it an emulated query has its own.
    ``say`` is told the forecast, before anything is sent. Raises ApibenchError where nothing can be asked at all: no such
    provider, no SDK, no credentials, a store that cannot be written.
    """
    adapter = registry.adapter(query.provider)
    questions = [
        Question(record.sha256, f"{record.id} ({record.variant})", partial(images_.read_bytes, record))
        for images_ in images
        for record in images_.records
    ]
    _price(query, _expected(adapter, query)[0])  # a price list without one is found before a client is made
    key = _key(adapter, query, *_expected(adapter, query))
    unique = {question.sha256: question for question in questions}
    # Nothing to send: the store stays untouched, no network is loaded and no credentials are asked for.
    before = _look(store, key, unique, images, query)
    if before is not None and before.open == 0:
        return before
    # Connected first: without credentials not even an empty store is made.
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(query.record)) if query.record else None
        replay = _replay(adapter, query, store, key, unique) if query.replay is not None else None
        provider = stack.enter_context(_connect(adapter, query, emulator, recorder, replay))
        # Only now is it known who will answer, and so what it costs.
        origin = registry.origin_of(provider.host, provider.info, emulated=query.emulated)
        price = _price(query, origin)
        opened = stack.enter_context(ResponseStore.open(store))
        for images_ in images:
            opened.remember(images_)
        key = _key(adapter, query, origin, _expected(adapter, query)[1] or provider.host)
        if recorder is not None:
            provider = recorder.provider(provider, key, adapter.wire(query.options()))
        say(f"forecast: {_plan(set(unique), opened, key, query)}")
        limits = provider.info.limits.over(adapter.wire(query.options()))
        bar = Progress(range(len(unique)), f"query {query.provider}", unit="image")
        engine = Engine(
            provider,
            opened,
            key,
            price=price,
            max_calls=query.max_calls,
            max_cost=query.max_cost,
            batch=query.batch,
            concurrency=query.at_a_time(provider.info),
            per_second=query.rate(provider.info),
            on_uncertain=query.on_uncertain,
            unbilled=pricing.unbilled(query.provider, query.prices),
            policy=query.policy,
            prepare=preflight.prepare(provider.info.title, limits),
            limits=limits,
            progress=bar.advance,
        )
        with bar:
            return engine.run(questions)


def _look(
    store: Path, key: Key, questions: Mapping[str, Question], images: Sequence[ImageSet], query: QuerySettings
) -> QueryReport | None:
    """What a store has on these images; None where there is no sound store yet. Untouched, unless the images have moved."""
    try:
        with ResponseStore.open(store, read_only=True) as reader:
            report = QueryReport.before(questions, reader, key, query.on_uncertain, query.policy)
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
    if query.replay is not None:
        return _tape(adapter, query).key(query.campaign)
    if query.emulated:
        from apibench.classifiers import canonical as canonical_name

        # Another network is another provider; that of a running emulator is named in its replies.
        settings["emulated_by"] = "a running emulator" if query.endpoint else canonical_name(query.target)
    elif origin == "custom":
        settings["host"] = where  # two endpoints of one's own are two providers
    return Key(query.campaign, adapter.info.name, origin, canonical(settings))


def _tape(adapter: Adapter, query: QuerySettings) -> Tape:
    assert query.replay is not None
    return Tape.of(query.replay, adapter.info.name, adapter.wire(query.options()), _settings(adapter, query))


def _replay(adapter: Adapter, query: QuerySettings, store: Path, key: Key, questions: Mapping[str, Question]) -> Replay:
    heard = None
    if store.is_file() and store.stat().st_size:
        with ResponseStore.open(store, read_only=True) as opened:
            heard = heard_before(opened, key)
    return Replay(_tape(adapter, query), {sha256: question.name for sha256, question in questions.items()}, heard)


def _expected(adapter: Adapter, query: QuerySettings) -> tuple[str, str]:
    """The origin before there is a client (the SDK's own endpoint is the vendor's), and an endpoint's host, port and path."""
    if query.emulated:
        return "emulated", ""
    if query.replay is not None:
        return _tape(adapter, query).origin, ""
    endpoint = adapter.endpoint(query.options())
    if endpoint is None:
        return "live" if adapter.info.hosts else "local", ""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "custom", ""  # not a URL: the adapter says so when a client is made
    return registry.origin_of(host, adapter.info, emulated=False), f"{host}{port}{parts.path.rstrip('/')}"


def check_access(query: QuerySettings) -> None:
    """Raises ApibenchError where a live provider cannot be asked: no SDK, no credentials. Sends nothing that is billed."""
    if not query.pretended:
        with _connect(registry.adapter(query.provider), query, None):
            pass


@contextmanager
def _connect(
    adapter: Adapter,
    query: QuerySettings,
    emulator: Emulator | None,
    recorder: Recorder | None = None,
    replay: Replay | None = None,
) -> Iterator[Provider]:
    """A provider's client, with an emulator or a recording behind it if asked for; its credentials are there.

    ``recorder`` hears what it hears; ``replay`` is what answers.
    """
    with ExitStack() as stack:
        endpoint = None
        if replay is not None:
            endpoint = stack.enter_context(replay).endpoint
        if query.emulated and query.endpoint is None:
            from apibench.emulator import vendors

            vendors.check([query.provider])
            emulator = emulator or stack.enter_context(_emulator(query))
            endpoint = emulator.start().endpoint(adapter.wire(query.options()))
        try:
            options = replace(query.options(endpoint), concurrency=query.at_a_time(adapter.info))
            options = replace(options, tap=recorder.tap) if recorder is not None else options
            provider = adapter.create(options)
            stack.callback(provider.close)
        except ProviderError as error:
            raise ApibenchError(f"{query.provider}: {error.message}") from None
        except ModuleNotFoundError as error:
            extra = adapter.info.extra or query.provider
            raise ApibenchError(
                f"{query.provider}: its SDK is not installed (no {error.name}); apibench's extra {extra!r} brings it: "
                f"pip install '.[{extra}]'"
            ) from error
        except ApibenchError:
            raise
        except Exception as error:  # noqa: BLE001 - an SDK raises what it likes; what it says may hold secrets
            why = redact(f"{type(error).__name__}: {error}")
            raise ApibenchError(f"{query.provider}: no client can be made ({why})") from None
        if query.emulated:
            probe.check_loopback(provider.host, query.provider)  # whatever the adapter made of it
        if query.emulated and query.endpoint is not None:
            probe.check_emulator(query.endpoint, adapter.wire(query.options()), query.provider)
        yield replay.provider(provider) if replay is not None else provider


def _emulator(query: QuerySettings) -> Emulator:
    from apibench.emulator import Emulator

    return Emulator(query.target, providers=[query.provider])
