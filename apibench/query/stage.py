"""``apibench query``: image sets in, stored responses out."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.progress import Progress
from apibench.query import keys, preflight, pricing, probe, registry
from apibench.query.account import unpriced
from apibench.query.cassette import Recorder
from apibench.query.contract import Adapter, ImageLimits, Provider, ProviderError, ProviderInfo
from apibench.query.engine import Engine
from apibench.query.forecast import NOTHING_BEFORE, UNTOLD, Before, Plan, may_cost
from apibench.query.redact import redact
from apibench.query.replay import Replay, heard_before
from apibench.query.result import QueryReport, Question, left_before
from apibench.query.settings import QuerySettings, is_text
from apibench.query.store import Key, ResponseStore

if TYPE_CHECKING:
    from apibench.emulator import Emulator

__all__ = ["QuerySettings", "check_access", "check_files", "estimate", "plan", "query_images"]


def plan(
    images: Sequence[ImageSet], store: Path, query: QuerySettings, *, missing: int = 0, ahead: Sequence[Plan] = ()
) -> Plan:
    """Work out what :func:`query_images` would send. Needs neither keys nor SDK, sends nothing, writes nothing.

    ``missing``: images of sets that are not made yet. ``ahead``: the plans of those who are asked first, for the same campaign.
    """
    check_files(store, query)
    adapter = registry.adapter(query.provider)
    questions = _questions(images)
    origin = _planned(adapter, query)
    before = NOTHING_BEFORE
    if store.is_file() and store.stat().st_size:  # an empty file is a store whose making was cut off
        key, limits = keys.expected_key(adapter, query), _limits(adapter.info, adapter, query)
        with ResponseStore.open(store, read_only=True) as opened:
            unfit = preflight.refused_again(opened, key, questions, adapter.info.title, limits)
            before = _before(questions, opened, key, query, unfit, real=may_cost(origin))
    mine = [other for other in ahead if other.is_real is may_cost(origin)]
    before = replace(
        before,
        promised_calls=sum(other.calls for other in mine),
        promised_cost=sum(other.cost or 0.0 for other in mine),
    )
    return estimate(query, len(questions) + missing, before, origin)


def _planned(adapter: Adapter, query: QuerySettings) -> str:
    """The origin as far as a plan can know it."""
    return UNTOLD if keys.is_untold(adapter, query) else keys.expected(adapter, query)[0]


def _before(
    questions: Collection[str],
    store: ResponseStore,
    key: Key,
    query: QuerySettings,
    unfit: Collection[str],
    *,
    real: bool,
) -> Before:
    """What is on the account, and what of these images (SHA-256) is not sent again; ``unfit`` cannot be sent."""
    settled = store.settled(key) | dict.fromkeys(unfit, "rejected")
    left = left_before(store, key, query.on_uncertain, query.policy)
    done = Counter("left" if sha256 in left else settled[sha256] for sha256 in questions if sha256 in {*settled, *left})
    if query.max_cost is not None and real:
        _check_priced(store, query)
    return Before(
        store.calls(query.campaign, real=real),
        store.spent(query.campaign, real=real),
        answered=done["answered"],
        refused=done["rejected"],
        left=done["left"],
    )


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
    """The same for a number of images that do not exist yet; ``origin``: who answers, as far as it is known.

    Raises ApibenchError for a wrong setting or price list.
    """
    adapter = registry.adapter(query.provider)
    keys.settings_of(adapter, query)
    if query.emulated and query.endpoint is None:
        from apibench import classifiers

        classifiers.check(query.target)
    origin = origin or _planned(adapter, query)
    batch = min(query.batch, adapter.info.max_batch)
    return Plan(
        provider=query.provider,
        origin=origin,
        images=images,
        calls=math.ceil((images - before.images) / batch),
        price=_price(query, origin),
        prices_as_of=pricing.dated(query.prices),
        rate=query.rate(adapter.info),
        rate_verified=adapter.info.rate_verified or query.per_second is not None,
        max_calls=query.max_calls,
        max_cost=query.max_cost,
        before=before,
        at_least=batch > 1 and _limits(adapter.info, adapter, query).max_request is not None,
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
    if price is None and query.max_cost is not None and origin != UNTOLD:
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
    check_files(store, query, images)
    adapter = registry.adapter(query.provider)
    expected, address = keys.expected(adapter, query)
    _price(query, expected)  # a price list without one is found before a client is made
    key = keys.key_of(adapter, query, expected, address)
    questions = _questions(images)
    # Nothing to send: the store stays untouched, no network is loaded and no credentials are asked for.
    before, unfit = _look(store, key, questions, images, adapter, query)
    if before is not None and before.open == 0:
        return before
    # Connected first: without credentials not even an empty store is made.
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(query.record)) if query.record else None
        replay = _replay(adapter, query, store, key, questions) if query.replay is not None else None
        if query.emulated and query.endpoint is None and emulator is None:
            say(f"emulator: {query.target} is being loaded")  # which takes seconds
        provider = stack.enter_context(_connect(adapter, query, emulator, recorder, replay))
        # Only now is it known who will answer, and so what it costs.
        origin = registry.origin_of(provider.host, provider.info, emulated=query.emulated)
        price = _price(query, origin)
        opened = stack.enter_context(ResponseStore.open(store))
        for images_ in images:
            opened.remember(images_)
        key = keys.key_of(adapter, query, origin, address or keys.host_of(provider.host))
        if recorder is not None:
            provider = recorder.provider(provider, key, adapter.wire(query.options()))
        done = _before(questions, opened, key, query, unfit, real=key.is_real)
        say(f"forecast: {estimate(query, len(questions), done, key.origin)}")
        limits = _limits(provider.info, adapter, query)
        bar = Progress(range(len(questions)), f"query {query.provider}", unit="image")
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
            say=say,
        )
        with bar:
            bar.advance(len(unfit))
            report = engine.run([question for sha256, question in questions.items() if sha256 not in unfit])
        return _with_unfit(report, questions, unfit)


def check_files(store: Path, query: QuerySettings, images: Sequence[ImageSet] = ()) -> None:
    """Raises ApibenchError where a recording would be written into the store, or a name cannot be."""
    record = query.record
    if record is not None and (record.resolve() == store.resolve() or _is_one(record, store)):
        raise ApibenchError(f"--record {record}: this is the store; record into a file of its own")
    for images_ in images:
        if not is_text(os.path.relpath(images_.folder.resolve(), store.resolve().parent)):
            raise ApibenchError(
                f"{str(images_.folder)!a}: a store notes where images are, so this must be text in UTF-8"
            )


def _is_one(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and first.samefile(second)


def _questions(images: Sequence[ImageSet]) -> dict[str, Question]:
    """What is asked, by SHA-256: of an image that stands in several sets, once."""
    return {
        record.sha256: Question(record.sha256, f"{record.id} ({record.variant})", partial(images_.read_bytes, record))
        for images_ in images
        for record in images_.records
    }


def _limits(info: ProviderInfo, adapter: Adapter, query: QuerySettings) -> ImageLimits:
    return info.limits.over(adapter.wire(query.options()))


def _with_unfit(report: QueryReport, questions: Mapping[str, Question], unfit: Mapping[str, str]) -> QueryReport:
    """A report that counts what was not even offered to the engine."""
    report.images = len(questions)
    report.rejected_before += [(questions[sha256].name, f"{reason} (not sent)") for sha256, reason in unfit.items()]
    return report


def _look(
    store: Path,
    key: Key,
    questions: Mapping[str, Question],
    images: Sequence[ImageSet],
    adapter: Adapter,
    query: QuerySettings,
) -> tuple[QueryReport | None, Mapping[str, str]]:
    """What a store has on these images, and which of them cannot be sent; None where there is no sound store yet.

    Untouched, unless the images have moved.
    """
    limits = _limits(adapter.info, adapter, query)
    try:
        with ResponseStore.open(store, read_only=True) as reader:
            unfit = preflight.refused_again(reader, key, questions, adapter.info.title, limits)
            report = QueryReport.before(questions, reader, key, query.on_uncertain, query.policy)
            moved = not all(reader.remembers(images_) for images_ in images)
    except ApibenchError:
        return None, {}  # absent, cut off in its making, or no store: opening it for writing mends it or says so
    report = _with_unfit(report, questions, unfit)
    if report.open == 0 and moved:
        with ResponseStore.open(store) as opened:
            for images_ in images:
                opened.remember(images_)
    return report, unfit


def _replay(adapter: Adapter, query: QuerySettings, store: Path, key: Key, questions: Mapping[str, Question]) -> Replay:
    heard = None
    if store.is_file() and store.stat().st_size:
        with ResponseStore.open(store, read_only=True) as opened:
            heard = heard_before(opened, key)
    return Replay(
        keys.tape_of(adapter, query), {sha256: question.name for sha256, question in questions.items()}, heard
    )


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
        if query.pretended:  # whatever the adapter made of it
            probe.check_loopback(provider.host, query.provider, replayed=query.replay is not None)
        if query.emulated and query.endpoint is not None:
            probe.check_emulator(query.endpoint, adapter.wire(query.options()), query.provider)
        yield replay.provider(provider) if replay is not None else provider


def _emulator(query: QuerySettings) -> Emulator:
    from apibench.emulator import Emulator

    return Emulator(query.target, providers=[query.provider])
