"""The engine beside whatever is not to be trusted: impatient users, adapters that break the contract, a terminal that is gone."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apibench import progress
from apibench.query import status
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Label, Parsed, ProviderError
from apibench.query.engine import Engine, QueryReport
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, answer, error, questions


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with ResponseStore.open(tmp_path / "s.sqlite") as opened:
        yield opened


def rows(store: ResponseStore, query: str) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return connection.execute(query).fetchall()


# --- interruptions ---


def test_a_second_interruption_loses_no_answer_that_is_on_its_way(store: ResponseStore) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    said: list[str] = []
    going = threading.Barrier(5)

    class Slow(FakeProvider):
        def label(self, images: Sequence[EncodedImage]) -> list[Any]:
            going.wait(10)
            time.sleep(0.6)
            return super().label(images)

    def interrupt() -> None:
        going.wait(10)
        for _ in range(3):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

    hand = threading.Thread(target=interrupt)
    hand.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Engine(Slow(), store, KEY, policy=QUICK, concurrency=4, say=said.append).run(questions(20))
    finally:
        hand.join()
        signal.signal(signal.SIGINT, before)
    assert rows(store, "SELECT outcome, COUNT(*) FROM attempts GROUP BY 1") == [("answered", 4)]
    assert said == ["waiting for 4 answers on their way: they may be billed"] * 2


def test_an_interruption_while_threads_start_stops_the_run(
    store: ResponseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, started = ThreadPoolExecutor.submit, []

    def interrupted(pool: ThreadPoolExecutor, *work: Any) -> Any:
        if started:
            raise KeyboardInterrupt
        started.append(submit(pool, *work))
        return started[0]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    provider = FakeProvider(delay=0.05)
    with pytest.raises(KeyboardInterrupt):
        Engine(provider, store, KEY, policy=QUICK, concurrency=4).run(questions(40))
    assert provider.hits <= 2
    assert rows(store, "SELECT COUNT(*) FROM attempts WHERE outcome IS NULL") == [(0,)]


# --- a terminal that is gone ---


def test_a_reply_is_stored_whole_before_anybody_is_told(store: ResponseStore) -> None:
    def gone(images: int) -> None:
        if images:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Engine(FakeProvider(batch=3), store, KEY, policy=QUICK, batch=3, progress=gone).run(questions(3))
    assert rows(store, "SELECT outcome, COUNT(*) FROM attempts GROUP BY 1") == [("answered", 3)]


def test_a_reply_is_one_write(store: ResponseStore) -> None:
    """No kill comes between the answers that it brought."""
    written: list[str] = []
    store._connection.set_trace_callback(written.append)
    said = {0: answer(), 1: error(ErrorKind.REJECTED), 2: answer()}
    provider = FakeProvider(lambda hit, image: said[int(image.data.decode().split()[1])], batch=3)
    Engine(provider, store, KEY, policy=QUICK, batch=3).run(questions(3))
    assert written.count("COMMIT") == 2, "the intent, and the reply"


def test_a_bar_that_nobody_sees_any_more_stops_no_work(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None: ...

    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr("sys.stderr", Gone())
    with progress.Progress(range(6), "query") as bar:
        report = Engine(FakeProvider(), store, KEY, policy=QUICK, progress=bar.advance).run(questions(6))
    assert report.answered == 6


def test_what_is_written_together_is_there_whole_or_not_at_all(store: ResponseStore) -> None:
    first, second = store.begin(KEY, ["a", "b"], price=None, cap=None)
    with suppress(RuntimeError), store.together():
        store.record_answer(first, answer(), 0.1)
        raise RuntimeError
    assert rows(store, "SELECT COUNT(*) FROM responses") == [(0,)]
    with store.together():
        store.record_answer(first, answer(), 0.1)
        store.record_error(second, error(ErrorKind.TRANSIENT), 0.1)
    assert rows(store, "SELECT outcome FROM attempts ORDER BY id") == [("answered",), ("error",)]
    assert status.check(store) == []


# --- adapters that break the contract ---


def run(store: ResponseStore, gives: Any) -> QueryReport:
    class Wrong(FakeProvider):
        def label(self, images: Sequence[EncodedImage]) -> Any:
            if isinstance(gives, Exception):
                raise gives
            return gives

    return Engine(Wrong(), store, KEY, policy=QUICK).run(questions(1))


def said_of(**about: Any) -> Answer:
    return replace(answer(), parsed=replace(answer().parsed, **about))


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "NoneType outcomes for 1 images"),
        (7, "int outcomes for 1 images"),
        ([], "0 outcomes for 1 images"),
        ([answer(), answer()], "2 outcomes for 1 images"),
        ([None], "NoneType in place of an outcome"),
        (["Dog"], "str in place of an outcome"),
    ],
)
def test_what_is_no_outcome_is_an_uncertain_error(store: ResponseStore, gives: Any, says: str) -> None:
    ((_, message),) = run(store, gives).left
    assert f"the adapter gave {says}" in message
    assert rows(store, "SELECT DISTINCT outcome, error_kind FROM attempts") == [("uncertain", "protocol")]


@pytest.mark.parametrize(
    "given",
    [
        replace(answer(), parsed=None),  # type: ignore[arg-type]
        replace(answer(), request_id="r", parsed=Parsed((Label(7, 0.5),))),  # type: ignore[arg-type]
        said_of(model_version=3),
        said_of(labels=None),
        said_of(labels=("Dog",)),
        said_of(labels=(Label("Dog", math.nan),)),
        said_of(labels=(Label("Dog", math.inf),)),
        said_of(labels=(Label("Dog", "0.5"),)),  # type: ignore[arg-type]
        said_of(labels=(Label("Dog", 0.5, id=4),)),  # type: ignore[arg-type]
        said_of(labels=(Label("Dog", 0.5, parents=(None,)),)),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_none_keeps_its_raw_reply(store: ResponseStore, given: Answer) -> None:
    assert len(run(store, [given]).left) == 1
    assert rows(store, "SELECT DISTINCT outcome, raw FROM attempts") == [("uncertain", answer().raw)]
    assert rows(store, "SELECT COUNT(*) FROM responses") == [(0,)]


@pytest.mark.parametrize("about", [{"retry_after": "3"}, {"retry_after": math.nan}, {"status": "500"}, {"sent": None}])
@pytest.mark.parametrize("raised", [False, True])
def test_an_error_that_is_none_is_an_error(store: ResponseStore, about: dict[str, Any], raised: bool) -> None:
    given = ProviderError(ErrorKind.TRANSIENT, "busy", raw=b"busy", **about)
    assert len(run(store, given if raised else [given]).left) == 1
    assert rows(store, "SELECT DISTINCT outcome, raw FROM attempts") == [("uncertain", b"busy")]
