"""The engine: each image one outcome, no answered image asked again, never one call over the cap."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.errors import ApibenchError, ExitCode
from apibench.query import pricing, registry
from apibench.query.contract import ErrorKind, Outcome, ProviderError
from apibench.query.engine import Engine, HaltReason, QueryReport, RetryPolicy
from apibench.query.store import Key, ResponseStore
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
    assert (provider.hits, report.uncertain, report.failed) == (2, 2, [])
    assert report.left == [("image0", "left uncertain: scripted transient")]


def test_a_rejected_image_is_never_sent_again_and_the_others_go_on(store: ResponseStore) -> None:
    bad = questions(10)[4].sha256
    script = lambda hit, image: error(ErrorKind.REJECTED) if image.sha256 == bad else answer()  # noqa: E731
    provider = FakeProvider(script)
    report = run(store, provider)
    assert (report.answered, report.rejected) == (9, [("image4", "scripted rejected")])
    assert provider.seen.count(bad) == 1
    again = FakeProvider(script)
    second = run(store, again)
    assert (again.hits, len(second.rejected_before), second.exit_code) == (0, 1, ExitCode.SOME_FAILED)
    assert second.problems == [("image4", "scripted rejected (refused before; not sent again)")]


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
    report = run(store, provider, 7, concurrency=1, batch=9)
    assert (report.answered, provider.hits) == (7, 4)
    assert tries[bad] == 3
    assert all(count == 1 for sha256, count in tries.items() if sha256 != bad)


def test_every_image_of_a_batch_has_an_outcome_when_one_stops_the_run(store: ResponseStore) -> None:
    first = questions(3)[0].sha256
    provider = FakeProvider(lambda hit, i: error(ErrorKind.QUOTA) if i.sha256 == first else answer(), batch=3)
    report = run(store, provider, 3, batch=3)
    assert (report.answered, report.halted) == (2, HaltReason.QUOTA)
    assert store._connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone() == (0,)


def test_an_adapter_that_raises_or_miscounts_leaves_no_attempt_open(store: ResponseStore) -> None:
    secret = "AKIA" + "Q" * 16

    def explode(hit: int, image: object) -> Outcome:
        raise RuntimeError(f"the key is {secret}")

    report = run(store, FakeProvider(explode), 1)
    assert report.left == [("image0", "left uncertain: the adapter failed with RuntimeError")]
    provider = FakeProvider()
    provider.label = lambda images: []  # type: ignore[method-assign]
    assert "0 outcomes for 1 images" in run(store, provider, 2).left[-1][1]
    assert store._connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone() == (0,)
    assert secret not in str(store._connection.execute("SELECT * FROM attempts").fetchall())


def test_the_vendors_wish_to_wait_is_honoured(store: ResponseStore) -> None:
    provider = FakeProvider(lambda hit, image: error(ErrorKind.THROTTLED, retry_after=0.2) if hit == 1 else answer())
    run(store, provider, 1, policy=RetryPolicy(first=0.001, longest=0.002))
    assert provider.times[1] - provider.times[0] >= 0.2


def test_the_rate_limit_is_kept_by_all_threads_together(store: ResponseStore) -> None:
    provider = FakeProvider(delay=0.2)
    run(store, provider, 40, per_second=20.0, concurrency=20)
    times = sorted(provider.times)
    assert max(sum(start <= other < start + 0.98 for other in times) for start in times) <= 20
    assert times[-1] - times[0] < 39 / 20 * 1.5, "twenty at a time keep up with it, where four would not"


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


def test_an_image_that_cannot_be_read_is_listed_and_the_others_go_on(store: ResponseStore) -> None:
    from apibench.query.engine import Question

    def changed() -> bytes:
        raise ApibenchError("x.png: changed since it was written")

    gone = [Question(f"{i}", f"x{i}", changed) for i in range(8)]
    for batch in (1, 4):
        provider = FakeProvider(batch=batch)
        report = Engine(provider, store, Key(f"batch{batch}", "fake", "custom", "{}"), batch=batch).run(
            [*gone, *questions(3)]
        )
        assert (report.answered, len(provider.seen), report.halted) == (3, 3, None)
        assert sorted(report.failed) == [(f"x{i}", "x.png: changed since it was written") for i in range(8)]
        assert report.exit_code is ExitCode.SOME_FAILED


def test_a_store_that_cannot_be_written_stops_the_run(store: ResponseStore) -> None:
    store._connection.execute(
        f"PRAGMA max_page_count = {store._connection.execute('PRAGMA page_count').fetchone()[0] + 4}"
    )
    provider = FakeProvider()
    report = run(store, provider, 1000, concurrency=4)
    assert report.halted is HaltReason.STORE
    assert "full" in report.message
    assert report.answered == len(store.settled(KEY)) > 0
    assert provider.hits <= report.answered + 4, "at most the requests in flight came back to a full disk"


def test_a_cap_that_errors_used_up_names_the_last_of_them(store: ResponseStore) -> None:
    report = run(store, FakeProvider(lambda hit, image: error(ErrorKind.TRANSIENT)), 3, max_calls=4, concurrency=1)
    assert (report.sent, report.halted) == (4, HaltReason.CAP)
    assert report.message.endswith("The last error: scripted transient")


def test_refusals_do_not_count_as_a_provider_that_is_down(store: ResponseStore) -> None:
    down = {question.sha256 for question in questions(24)[::2]}
    script = lambda _, image: error(ErrorKind.TRANSIENT if image.sha256 in down else ErrorKind.REJECTED)  # noqa: E731
    report = run(store, FakeProvider(script), 24, concurrency=1)
    assert (len(report.failed), len(report.rejected), report.halted) == (12, 12, None)


KILLED = """
import sys
from pathlib import Path
from apibench.query.engine import Engine
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, answer, questions

bill = open(sys.argv[2], "ab", buffering=0)  # one write a line: what the vendor has answered, whoever is alive to hear it

def charge(hit, image):
    bill.write(image.sha256.encode() + b"\\n")
    return answer(image.sha256)

with ResponseStore.open(Path(sys.argv[1])) as store:
    print("asking", flush=True)
    print(Engine(FakeProvider(charge, delay=0.01), store, KEY, policy=QUICK, concurrency=4).run(questions(150)).stored)
"""


def test_killed_at_any_moment_and_started_again_it_pays_at_most_for_what_was_in_flight(tmp_path: Path) -> None:
    path, bill = tmp_path / "s.sqlite", tmp_path / "bill"
    command = [sys.executable, "-c", KILLED, str(path), str(bill)]
    kills = 0
    for pause in (0.03, 0.06, 0.09):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause)
            kills += process.poll() is None
            process.kill()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored = int(done.stdout.split()[-1])
    billed = bill.read_text().split()
    assert set(billed) == {question.sha256 for question in questions(150)}
    assert kills == 3
    assert 0 < stored < 150, "the kills came in the middle"
    assert len(billed) <= 150 + 4 * kills
    with ResponseStore.open(path) as store:
        assert len(store.settled(KEY)) == 150
        raws = store._connection.execute("SELECT sha256, raw FROM responses").fetchall()
        assert all(sha256.encode() in raw for sha256, raw in raws), "each answer is with its image"
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(billed) <= store.calls("default"), "nothing was answered that was not written down first"


@pytest.mark.parametrize(
    ("host", "emulated", "origin"),
    [
        ("rekognition.us-east-1.amazonaws.com", False, "live"),
        ("REKOGNITION.eu-west-3.AMAZONAWS.COM.", False, "live"),
        ("rekognition-fips.us-gov-west-1.amazonaws.com", False, "live"),
        ("rekognition.us-east-1.api.aws", False, "live"),
        ("rekognition.cn-north-1.amazonaws.com.cn", False, "live"),
        ("vpce-0a1b-c2d3.rekognition.us-east-1.vpce.amazonaws.com", False, "live"),
        ("amazonaws.com", False, "custom"),
        ("ec2-3-4-5-6.compute-1.amazonaws.com", False, "custom"),
        ("rekognition.execute-api.us-east-1.amazonaws.com", False, "custom"),
        ("evil-amazonaws.com", False, "custom"),
        ("amazonaws.com.evil.example", False, "custom"),
        ("127.0.0.1", False, "custom"),
        ("", False, "custom"),
        ("127.0.0.1", True, "emulated"),
    ],
)
def test_only_the_vendors_own_host_is_live(host: str, emulated: bool, origin: str) -> None:
    from apibench_adapters.aws import INFO

    assert registry.origin_of(host, INFO, emulated=emulated) == origin


def test_provider_errors_are_exceptions_with_a_kind() -> None:
    raised = ProviderError(ErrorKind.QUOTA, "used up", code="X")
    assert (str(raised), raised.kind, raised.uncertain) == ("used up", ErrorKind.QUOTA, False)


def test_an_unknown_provider_is_told_what_there_is() -> None:
    with pytest.raises(ApibenchError, match=r"asw: no adapter .*aws.*did you mean aws\?"):
        registry.adapter("asw")


def test_prices_are_dated_and_can_be_replaced(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    own.write_text('{"as_of": "2027-01-01", "per_1000": {"aws": {"price": 0.8}}}')
    assert (pricing.price_of_image("aws", own), pricing.dated(own)) == (0.0008, "2027-01-01")
    assert pricing.price_of_image("google", own) is None
    assert pricing.price_of_image("aws") == 0.001
    assert pricing.dated()[:2] == "20"


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"per_1000": []}', '{"per_1000": {"aws": 1}}', "[" * 100_000]
    + [f'{{"per_1000": {{"aws": {{"price": {price}}}}}}}' for price in ('"x"', "-1", "NaN", "1e999", "null", "{}")],
)
def test_a_price_list_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ApibenchError, match=r"prices\.json: ") as caught:
        pricing.price_of_image("aws", path)
    assert str(caught.value).count("\n") == 0
