"""The engine's budget: caps on calls and cost, lost answers, batches, and a provider that asks to slow down."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.errors import ExitCode
from apibench.query import status
from apibench.query.contract import EncodedImage, ErrorKind, ImageLimits, Outcome
from apibench.query.engine import Engine, HaltReason, QueryReport
from apibench.query.policy import OnUncertain
from apibench.query.pricing import Unbilled
from apibench.query.store import Key, ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, answer, error, questions


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with ResponseStore.open(tmp_path / "s.sqlite") as opened:
        yield opened
        assert status.check(opened) == [], "whatever happened, the store is sound"


def run(store: ResponseStore, provider: FakeProvider, count: int = 10, **options: object) -> QueryReport:
    return Engine(provider, store, KEY, **({"policy": QUICK} | options)).run(questions(count))  # type: ignore[arg-type]


# --- cost ---


def test_a_cap_on_cost_is_kept_to_the_image(store: ResponseStore) -> None:
    provider = FakeProvider()
    report = run(store, provider, 50, price=0.001, max_cost=0.0123, concurrency=8)
    assert (provider.hits, report.halted, report.exit_code) == (12, HaltReason.CAP, ExitCode.CAP_REACHED)
    assert report.message.startswith("--max-cost 0.0123 reached for campaign 'default'")
    assert run(store, FakeProvider(), 50, price=0.001, max_cost=0.0123).sent == 0, "over all starts"
    assert run(store, FakeProvider(), 50, price=0.001, max_cost=0.02).sent == 8


def test_each_image_of_a_batch_is_paid_for(store: ResponseStore) -> None:
    provider = FakeProvider(batch=4)
    report = run(store, provider, 12, price=0.001, max_cost=0.010, batch=4, concurrency=1)
    assert (provider.hits, len(provider.seen), report.answered) == (2, 8, 8)
    assert store.spent("default") == pytest.approx(0.008)


def test_what_the_vendor_does_not_bill_leaves_the_money_for_others(store: ResponseStore) -> None:
    table = Unbilled(frozenset({ErrorKind.THROTTLED}))
    provider = FakeProvider(lambda hit, _: error(ErrorKind.THROTTLED) if hit <= 3 else answer())
    report = run(store, provider, 10, price=0.001, max_cost=0.01, unbilled=table, concurrency=1)
    assert (report.answered, report.sent) == (10, 13)


def chaos(hit: int, seed: int) -> Outcome:
    draw = random.Random(f"{seed}/{hit}").random()
    if draw < 0.15:
        return error(ErrorKind.THROTTLED)
    if draw < 0.3:
        return error(ErrorKind.TRANSIENT, uncertain=draw < 0.2)
    if draw < 0.35:
        return error(ErrorKind.TRANSIENT, sent=False)
    if draw < 0.4:
        return error(ErrorKind.REJECTED)
    return answer()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 8), st.integers(1, 5))
def test_no_batch_and_no_concurrency_goes_over_either_cap(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cap: int, threads: int, batch: int
) -> None:
    path = tmp_path_factory.mktemp("cap") / "s.sqlite"
    sent: list[int] = []

    class Counting(FakeProvider):
        def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
            outcomes = super().label(images)
            if any(isinstance(o, type(answer())) or o.sent for o in outcomes):  # type: ignore[union-attr]
                sent.append(len(images))
            return outcomes

    provider = Counting(lambda hit, image: chaos(hit, seed), batch=5)
    for _ in range(3):
        with ResponseStore.open(path) as store:
            run(store, provider, 30, max_calls=cap, price=0.01, max_cost=0.2, concurrency=threads, batch=batch)
            assert len(sent) == store.calls("default") <= cap
            assert store.spent("default") <= 0.2 + 1e-9
            assert status.check(store) == []
            twice = "SELECT COUNT(*) FROM attempts WHERE outcome = 'answered' GROUP BY sha256 HAVING COUNT(*) > 1"
            assert store._connection.execute(twice).fetchall() == []


# --- requests that never went out ---


def test_a_refused_connection_is_no_call(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, _: error(ErrorKind.TRANSIENT, sent=False) if hit <= 3 else answer())
    report = run(store, provider, 2, max_calls=2, price=0.001, max_cost=0.002, concurrency=1)
    assert (provider.hits, report.answered, report.sent, report.halted) == (5, 2, 2, None)
    assert (store.calls("default"), store.spent("default")) == (2, pytest.approx(0.002))


def test_what_the_provider_would_not_take_is_refused_unsent(store: ResponseStore) -> None:
    def prepare(data: bytes) -> bytes:
        if data == b"image 2":
            raise error(ErrorKind.REJECTED, code="preflight", sent=False)
        return b"smaller" if data == b"image 3" else data

    provider = FakeProvider()
    report = run(store, provider, 5, max_calls=4, prepare=prepare)
    assert (report.answered, report.sent, report.rejected) == (4, 4, [("image2", "scripted rejected")])
    rows = store._connection.execute(
        "SELECT COUNT(*), SUM(sent_sha256 IS NOT NULL) FROM attempts WHERE sent"
    ).fetchall()
    assert rows == [(4, 1)], "the bytes of the fourth are not those of its file"
    assert run(store, FakeProvider(), 5, prepare=prepare).sent == 0


# --- answers that may have been lost ---


def test_on_uncertain_stop_leaves_the_image_in_this_run_and_the_next(store: ResponseStore) -> None:
    lost = questions(5)[2].sha256
    script = lambda _, image: error(ErrorKind.TRANSIENT, uncertain=True) if image.sha256 == lost else answer()  # noqa: E731
    provider = FakeProvider(script)
    report = run(store, provider, 5, on_uncertain=OnUncertain.STOP)
    assert (report.answered, provider.seen.count(lost), report.failed) == (4, 1, [])
    assert report.left == report.problems == [("image2", "left uncertain: scripted transient")]
    assert report.exit_code is ExitCode.SOME_FAILED
    again = FakeProvider()
    second = run(store, again, 5, on_uncertain=OnUncertain.STOP)
    assert (again.hits, second.open, second.left) == (0, 0, report.left)
    assert run(store, FakeProvider(), 5).answered == 1, "whoever says so may ask again"


def test_an_image_is_asked_again_once_in_its_campaign_however_often_it_is_started(store: ResponseStore) -> None:
    lost = questions(5)[2].sha256
    script = lambda _, image: error(ErrorKind.TRANSIENT, uncertain=True) if image.sha256 == lost else answer()  # noqa: E731
    provider = FakeProvider(script)
    reports = [run(store, provider, 5) for _ in range(10)]
    assert provider.seen.count(lost) == store.uncertain(KEY)[lost].times == 2
    for report in reports:
        assert report.left == report.problems == [("image2", "left uncertain: scripted transient")]
        assert report.exit_code is ExitCode.SOME_FAILED
        assert report.hint() == (
            "1 left uncertain: their answers may have been lost, and billed; "
            "--on-uncertain insist asks about each once more, and may pay for it again"
        )
    assert (reports[-1].open, reports[-1].sent) == (0, 0)
    other = Key("another", *KEY.values()[1:])
    assert len(Engine(FakeProvider(), store, other, policy=QUICK).run(questions(5)).left) == 0, "of its campaign only"


def test_lost_once_before_it_is_asked_once_more_and_no_more(store: ResponseStore) -> None:
    """As a crash leaves it: the second answer that is lost is the last, though this run has lost but one."""
    (attempt,) = store.begin(KEY, [questions(1)[0].sha256], price=None, cap=None)
    store.record_error(attempt, error(ErrorKind.TRANSIENT, uncertain=True), 0.1)
    provider = FakeProvider(lambda *_: error(ErrorKind.TRANSIENT, uncertain=True))
    report = run(store, provider, 1)
    assert (provider.hits, report.uncertain, len(report.left)) == (1, 1, 1)
    certain = FakeProvider(lambda *_: error(ErrorKind.TRANSIENT))
    assert len(run(store, certain, 2).failed) == 1, "the other image"
    assert certain.hits == QUICK.attempts


def test_whoever_insists_asks_once_more_each_later_start(store: ResponseStore) -> None:
    lossy = FakeProvider(lambda *_: error(ErrorKind.TRANSIENT, uncertain=True))
    for hits in (2, 3, 4):  # in the first start as often as without it
        report = run(store, lossy, 1, on_uncertain=OnUncertain.INSIST)
        assert (lossy.hits, len(report.left), report.exit_code) == (hits, 1, ExitCode.SOME_FAILED)
    assert run(store, FakeProvider(), 1).open == 0
    assert run(store, FakeProvider(), 1, on_uncertain=OnUncertain.INSIST).answered == 1
    assert run(store, FakeProvider(), 1).hint() is None


def test_on_uncertain_stop_still_retries_what_is_certain(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, _: error(ErrorKind.TRANSIENT) if hit == 1 else answer())
    assert run(store, provider, 1, on_uncertain=OnUncertain.STOP).answered == 1


# --- model versions ---


def test_another_model_version_is_noticed_and_kept_apart(store: ResponseStore) -> None:
    assert run(store, FakeProvider(), 3).model_change is None
    newer = replace(answer(), parsed=replace(answer().parsed, model_version="v2"))
    report = run(store, FakeProvider(lambda *_: newer), 5)
    assert report.model_change is not None
    assert "v1 (3), v2 (2)" in report.model_change
    assert store.versions(KEY) == {"v1": 3, "v2": 2}
    assert run(store, FakeProvider(), 5).model_change == report.model_change, "and said again, though nothing is sent"


# --- batches ---


@pytest.mark.parametrize("kind", [ErrorKind.REJECTED, ErrorKind.PROTOCOL])
def test_a_batch_refused_for_one_image_is_asked_one_at_a_time(store: ResponseStore, kind: ErrorKind) -> None:
    bad = questions(8)[5].sha256

    class Strict(FakeProvider):
        def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
            super().label(images)
            if bad not in {image.sha256 for image in images}:
                return [answer()] * len(images)
            return [error(kind if len(images) > 1 else ErrorKind.REJECTED)] * len(images)

    provider = Strict(batch=4)
    report = run(store, provider, 8, batch=4, concurrency=1)
    assert (report.answered, provider.hits) == (7, 2 + 4)
    assert [name for name, _ in report.rejected] == ["image5"]
    assert store.settled(KEY)[bad] == "rejected"
    assert Counter(store.settled(KEY).values()) == {"answered": 7, "rejected": 1}


def test_one_refused_image_inside_a_success_costs_the_others_nothing(store: ResponseStore) -> None:
    bad = questions(4)[1].sha256
    provider = FakeProvider(lambda _, i: error(ErrorKind.REJECTED) if i.sha256 == bad else answer(), batch=4)
    report = run(store, provider, 4, batch=4)
    assert (report.answered, provider.hits, len(report.rejected)) == (3, 1, 1)


def test_a_batch_whose_answer_is_lost_is_asked_again_once_an_image(store: ResponseStore) -> None:
    provider = FakeProvider(lambda *_: error(ErrorKind.PROTOCOL, uncertain=True), batch=4)
    report = run(store, provider, 4, batch=4, concurrency=1)
    assert (len(report.left), report.failed, report.uncertain) == (4, [], 8)
    assert max(Counter(provider.seen).values()) == 2, "once whole, once alone"


def test_batches_that_fail_whole_stop_the_run_after_as_many_as_images_would(store: ResponseStore) -> None:
    provider = FakeProvider(lambda *_: error(ErrorKind.TRANSIENT), batch=16)
    report = run(store, provider, 1000, batch=16, concurrency=1)
    assert report.halted is HaltReason.FAILING
    assert provider.hits == Engine.failures_in_a_row * QUICK.attempts


def test_a_batch_is_cut_to_what_one_request_may_hold(store: ResponseStore) -> None:
    sizes: list[list[int]] = []

    class Weighing(FakeProvider):
        def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
            sizes.append([len(image.data) for image in images])
            return super().label(images)

    provider = Weighing(batch=4)
    padded = {"image 1": 3000, "image 5": 9000}  # the second is too large for any request, and goes alone
    prepare = lambda data: data.ljust(padded.get(data.decode(), 100), b"x")  # noqa: E731
    limits = ImageLimits(max_request=6000)
    report = run(store, provider, 8, batch=4, concurrency=1, prepare=prepare, limits=limits)
    assert (report.answered, report.sent) == (8, 5)
    assert sizes == [[100, 3000], [100, 100], [100], [9000], [100, 100]]
    assert store.calls("default") == 5


# --- a provider that asks to slow down ---


def test_what_one_thread_is_told_all_threads_heed(store: ResponseStore) -> None:
    told = error(ErrorKind.THROTTLED, retry_after=0.4)
    provider = FakeProvider(lambda hit, _: told if hit == 1 else answer(), delay=0.01)
    run(store, provider, 12, concurrency=4, per_second=100.0, policy=replace(QUICK, longest_retry_after=5.0))
    first, *others = provider.times
    soon = [at - first for at in others if at - first < 0.4]
    assert len(soon) <= 4, "those that were on their way"
    assert len(others) == 12


def test_a_throttle_lowers_the_rate_of_the_whole_run(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, _: error(ErrorKind.THROTTLED, retry_after=0.0) if hit == 1 else answer())
    run(store, provider, 20, concurrency=4, per_second=40.0)
    assert provider.times[-1] - provider.times[1] > 17 / 40 * 1.5, "at about half of it"


def test_an_intent_is_written_when_its_request_goes_and_not_long_before(store: ResponseStore) -> None:
    began: list[float] = []
    begin = store.begin

    def noting(*arguments: object, **named: object) -> list[int]:
        began.append(time.monotonic())
        return begin(*arguments, **named)  # type: ignore[arg-type]

    store.begin = noting  # type: ignore[method-assign]
    provider = FakeProvider()
    run(store, provider, 6, concurrency=4, per_second=5.0)
    assert max(went - wrote for wrote, went in zip(began, provider.times, strict=True)) < 0.19
    assert len(began) == 6


def test_a_run_that_stops_while_an_intent_waits_takes_it_back(store: ResponseStore) -> None:
    engine: Engine
    begin = store.begin

    def stopping(*arguments: object, **named: object) -> list[int]:
        engine._stop.set()
        return begin(*arguments, **named)  # type: ignore[arg-type]

    store.begin = stopping  # type: ignore[method-assign]
    provider = FakeProvider()
    engine = Engine(provider, store, KEY, policy=QUICK, price=0.001)
    engine.run(questions(3))
    assert (provider.hits, store.calls("default"), store.spent("default")) == (0, 0, 0.0)
    assert store.uncertain(KEY) == {}
