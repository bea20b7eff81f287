"""The engine: each image one outcome, no answered image asked again, never one call over the cap."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.errors import ExitCode
from apibench.query import registry
from apibench.query.contract import ErrorKind, Outcome, ProviderError, ProviderInfo
from apibench.query.engine import Engine, HaltReason, QueryReport, RetryPolicy
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, answer, error, questions


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with ResponseStore.open(tmp_path / "s.sqlite") as opened:
        yield opened


def run(store: ResponseStore, provider: FakeProvider, count: int = 10, **options: object) -> QueryReport:
    return Engine(provider, store, KEY, **({"policy": QUICK} | options)).run(questions(count))  # type: ignore[arg-type]


def test_a_second_run_sends_nothing(store: ResponseStore) -> None:
    first = run(store, FakeProvider())
    assert (first.answered, first.sent, first.exit_code) == (10, 10, ExitCode.DONE)
    again = FakeProvider()
    second = run(store, again)
    assert (again.hits, second.stored, second.sent) == (0, 10, 0)


def test_an_image_that_stands_twice_is_sent_once(store: ResponseStore) -> None:
    provider = FakeProvider()
    Engine(provider, store, KEY).run(questions(3) + questions(3))
    assert provider.hits == 3


@pytest.mark.parametrize("kind", [ErrorKind.THROTTLED, ErrorKind.TRANSIENT, ErrorKind.PROTOCOL])
def test_passing_faults_are_retried_and_each_try_is_recorded(store: ResponseStore, kind: ErrorKind) -> None:
    provider = FakeProvider(lambda hit, image: error(kind) if hit <= 3 else answer())
    report = run(store, provider, 1)
    assert (report.answered, provider.hits, store.calls("default")) == (1, 4, 4)


def test_the_number_of_tries_is_bounded(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, image: error(ErrorKind.TRANSIENT))
    report = run(store, provider, 1)
    assert provider.hits == QUICK.attempts
    assert report.failed == [("image0", "scripted transient")]
    assert report.exit_code is ExitCode.SOME_FAILED
    later = run(store, FakeProvider(), 1)
    assert later.answered == 1, "a failed image is asked about again by the next run"


def test_an_uncertain_request_is_asked_again_once(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, image: error(ErrorKind.TRANSIENT, uncertain=True))
    report = run(store, provider, 1)
    assert (provider.hits, report.uncertain, len(report.failed)) == (2, 2, 1)


def test_a_rejected_image_is_never_sent_again_and_the_others_go_on(store: ResponseStore) -> None:
    bad = questions(10)[4].sha256
    script = lambda hit, image: error(ErrorKind.REJECTED) if image.sha256 == bad else answer()  # noqa: E731
    provider = FakeProvider(script)
    report = run(store, provider)
    assert (report.answered, report.rejected) == (9, [("image4", "scripted rejected")])
    assert provider.seen.count(bad) == 1
    again = FakeProvider(script)
    second = run(store, again)
    assert (again.hits, second.rejected_before, second.exit_code) == (0, 1, ExitCode.SOME_FAILED)


@pytest.mark.parametrize("kind", [ErrorKind.CREDENTIALS, ErrorKind.QUOTA])
def test_without_credentials_or_quota_the_run_stops_at_once(store: ResponseStore, kind: ErrorKind) -> None:
    provider = FakeProvider(lambda hit, image: error(kind), delay=0.01)
    report = run(store, provider, 100, concurrency=4)
    assert provider.hits <= 4
    assert report.halted is HaltReason(kind.value)
    assert report.exit_code is ExitCode.NOTHING_DONE
    assert report.failed == []


def test_a_provider_that_fails_every_time_is_not_asked_thousands_of_times(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, image: error(ErrorKind.TRANSIENT))
    report = run(store, provider, 1000, concurrency=2)
    assert report.halted is HaltReason.FAILING
    assert provider.hits < 60
    assert "images in a row failed" in report.message


def chaos(hit: int, seed: int) -> Outcome:
    draw = random.Random(f"{seed}/{hit}").random()
    if draw < 0.15:
        return error(ErrorKind.THROTTLED)
    if draw < 0.3:
        return error(ErrorKind.TRANSIENT, uncertain=draw < 0.2)
    return answer()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 8))
def test_never_one_over_the_cap_and_never_an_answer_twice(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cap: int, threads: int
) -> None:
    path = tmp_path_factory.mktemp("cap") / "s.sqlite"
    provider = FakeProvider(lambda hit, image: chaos(hit, seed))
    report = None
    for _ in range(3):
        with ResponseStore.open(path) as store:
            report = run(store, provider, 30, max_calls=cap, concurrency=threads)
            assert provider.hits == store.calls("default") <= cap
            answered = store.settled(KEY)
    assert report is not None
    if report.halted is HaltReason.CAP:
        assert report.exit_code is ExitCode.CAP_REACHED
        assert "--max-calls" in report.message
    with ResponseStore.open(path) as store:
        rows = store._connection.execute("SELECT sha256 FROM attempts WHERE outcome = 'answered'").fetchall()
    assert max(Counter(rows).values(), default=1) == 1
    assert {row[0] for row in rows} == set(answered)


def test_batches_are_sent_whole_and_only_what_failed_is_sent_again(store: ResponseStore) -> None:
    bad = questions(7)[2].sha256
    tries = Counter[str]()

    def script(hit: int, image: object) -> Outcome:
        sha256 = image.sha256  # type: ignore[attr-defined]
        tries[sha256] += 1
        return error(ErrorKind.THROTTLED) if sha256 == bad and tries[bad] < 3 else answer()

    provider = FakeProvider(script, batch=4)
    report = run(store, provider, 7, concurrency=1)
    assert (report.answered, provider.hits) == (7, 4)
    assert tries[bad] == 3
    assert all(count == 1 for sha256, count in tries.items() if sha256 != bad)


def test_every_image_of_a_batch_has_an_outcome_when_one_stops_the_run(store: ResponseStore) -> None:
    first = questions(3)[0].sha256
    provider = FakeProvider(lambda hit, i: error(ErrorKind.QUOTA) if i.sha256 == first else answer(), batch=3)
    report = run(store, provider, 3)
    assert (report.answered, report.halted) == (2, HaltReason.QUOTA)
    assert store._connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone() == (0,)


def test_an_adapter_that_raises_or_miscounts_leaves_no_attempt_open(store: ResponseStore) -> None:
    secret = "AKIA" + "Q" * 16

    def explode(hit: int, image: object) -> Outcome:
        raise RuntimeError(f"the key is {secret}")

    report = run(store, FakeProvider(explode), 1)
    assert report.failed == [("image0", "the adapter failed with RuntimeError")]
    provider = FakeProvider()
    provider.label = lambda images: []  # type: ignore[method-assign]
    assert "0 outcomes for 1 images" in run(store, provider, 2).failed[0][1]
    assert store._connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone() == (0,)
    assert secret not in str(store._connection.execute("SELECT * FROM attempts").fetchall())


def test_the_vendors_wish_to_wait_is_honoured(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, image: error(ErrorKind.THROTTLED, retry_after=0.2) if hit == 1 else answer())
    run(store, provider, 1, policy=RetryPolicy(first=0.001, longest=0.002))
    assert provider.times[1] - provider.times[0] >= 0.2


def test_the_rate_limit_is_kept_by_all_threads_together(store: ResponseStore) -> None:
    provider = FakeProvider()
    run(store, provider, 12, per_second=50.0, concurrency=6)
    times = sorted(provider.times)
    assert times[-1] - times[0] >= 11 / 50 * 0.9


def test_an_interrupt_keeps_what_is_done(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider(delay=0.02)
    import apibench.query.engine as module

    def interrupted(futures: object) -> None:
        threading.Event().wait(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, provider, 1000, concurrency=2)
    assert 0 < provider.hits < 100
    assert len(store.settled(KEY)) == provider.hits, "requests in flight were finished and stored"


def test_a_file_that_changed_stops_the_run_with_its_name(store: ResponseStore) -> None:
    from apibench.errors import ApibenchError
    from apibench.query.engine import Question

    def changed() -> bytes:
        raise ApibenchError("x.png: changed since it was written")

    provider = FakeProvider()
    report = Engine(provider, store, KEY).run([Question("a", "x", changed)])
    assert (provider.hits, report.halted, report.message) == (
        0,
        HaltReason.STORE,
        "x.png: changed since it was written",
    )


@pytest.mark.parametrize(
    ("host", "emulated", "origin"),
    [
        ("rekognition.us-east-1.amazonaws.com", False, "live"),
        ("amazonaws.com", False, "live"),
        ("AMAZONAWS.COM.", False, "live"),
        ("evil-amazonaws.com", False, "custom"),
        ("amazonaws.com.evil.example", False, "custom"),
        ("127.0.0.1", False, "custom"),
        ("", False, "custom"),
        ("127.0.0.1", True, "emulated"),
    ],
)
def test_only_the_vendors_own_host_is_live(host: str, emulated: bool, origin: str) -> None:
    info = ProviderInfo(name="x", title="X", hosts=("amazonaws.com",))
    assert registry.origin_of(host, info, emulated=emulated) == origin


def test_provider_errors_are_exceptions_with_a_kind() -> None:
    raised = ProviderError(ErrorKind.QUOTA, "used up", code="X")
    assert (str(raised), raised.kind, raised.uncertain) == ("used up", ErrorKind.QUOTA, False)
