"""The account that is kept in memory is the one that the store's attempts add up to, whatever happened to them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apibench.errors import ApibenchError
from apibench.query import status
from apibench.query.contract import ErrorKind
from apibench.query.store import CapReachedError, Key, ResponseStore
from tests.fakes import answer, error

KEYS = [Key(campaign, "fake", origin, "{}") for campaign in ("default", "another") for origin in ("custom", "emulated")]
PRICES = (None, 0.0, 0.001, 0.0015)
ERRORS = {
    "failed": {},
    "lost": {"uncertain": True},
    "unsent": {"sent": False},
    "lost and unsent": {"uncertain": True, "sent": False},
}


def by_sql(store: ResponseStore, key: Key) -> tuple[int, float]:
    """Another way to count than the code's own: calls and dollars of the campaign's that are as real as the key's."""
    rows = store._connection.execute(
        "SELECT request, sent, billing, price, origin FROM attempts WHERE campaign = ?", (key.campaign,)
    ).fetchall()
    calls = {request for request, sent, _, _, origin in rows if sent and origin == key.origin}
    spent = [
        price or 0.0 for _, sent, billing, price, origin in rows if sent and billing != "no" and origin == key.origin
    ]
    return len(calls), sum(spent)


class Bookkeeping(RuleBasedStateMachine):
    """Requests of one to four images that end as they like, in any order, with kills and full disks between."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.path = self.folder / f"{time.monotonic_ns()}.sqlite"
        self.store = ResponseStore.open(self.path)
        self.open: list[tuple[Key, int]] = []
        self.images = 0

    @rule(key=st.sampled_from(KEYS), images=st.integers(1, 4), price=st.sampled_from(PRICES))
    def ask(self, key: Key, images: int, price: float | None) -> None:
        names = [f"image {self.images + i}" for i in range(images)]
        self.images += images
        self.open += [(key, attempt) for attempt in self.store.begin(key, names, price=price, cap=None)]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        self.store.record_answer(self._one(data), answer(), 0.1)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(sorted(ERRORS)), unbilled=st.booleans(), forgotten=st.booleans())
    def ended(self, data: st.DataObject, how: str, unbilled: bool, forgotten: bool) -> None:
        if forgotten:  # as after another write that failed
            self.store._accounts.forget()
        self.store.record_error(self._one(data), error(ErrorKind.TRANSIENT, **ERRORS[how]), 0.1, unbilled=unbilled)

    @rule(key=st.sampled_from(KEYS))
    def refused_unsent(self, key: Key) -> None:
        self.images += 1
        self.store.record_unsent(key, f"image {self.images - 1}", error(ErrorKind.REJECTED, sent=False))

    @rule(key=st.sampled_from(KEYS))
    def a_write_that_fails(self, key: Key) -> None:
        """A full disk, at the very end of what has been counted already."""
        pages = self.store._connection.execute("PRAGMA page_count").fetchone()[0]
        self.store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(ApibenchError, match="full"):
            self.store.begin(key, ["x" * 50] * 5000, price=0.001, cap=None)
        self.store._connection.execute("PRAGMA max_page_count = 1000000")

    @rule(killed=st.booleans())
    def start_again(self, killed: bool) -> None:
        """``killed``: without a word of farewell. What was in flight becomes uncertain either way."""
        if killed and self.store._lock is not None:
            self.store._connection.close()
            self.store._lock.release()
        else:
            self.store.close()
        self.store = ResponseStore.open(self.path)
        self.open = []

    @invariant()
    def memory_and_disk_agree(self) -> None:
        for key in KEYS:
            calls, spent = by_sql(self.store, key)
            with self.store._transaction() as cursor:
                kept = self.store._accounts.of(cursor, key.campaign)
                assert (kept.calls[key.is_real], kept.spent(real=key.is_real)) == (calls, pytest.approx(spent))
            assert self.store.calls(key.campaign, real=key.is_real) == calls
            assert self.store.spent(key.campaign, real=key.is_real) == pytest.approx(spent)

    def teardown(self) -> None:
        assert status.check(self.store) == []
        self.store.close()

    def _one(self, data: st.DataObject) -> int:
        return self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    Bookkeeping.folder = tmp_path


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def filled(path: Path, attempts: int) -> None:
    """A store in which so many requests have been answered."""
    ResponseStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO attempts (id, campaign, provider, origin, settings, sha256, started_at, finished_at, outcome, "
            "price, request, sent, billing) SELECT i, 'default', 'fake', 'custom', '{}', 'image ' || i, 't', 't', "
            "'error', 0.001, i, 1, 'maybe' FROM n",
            (attempts,),
        )


def test_a_cap_costs_no_more_in_a_large_store(tmp_path: Path) -> None:
    """By the virtual machine's instructions, not by the clock: the same for the second request of 20 and of 20,000."""
    steps = []
    for attempts in (20, 20_000):
        filled(tmp_path / f"{attempts}.sqlite", attempts)
        with ResponseStore.open(tmp_path / f"{attempts}.sqlite") as store:
            key = Key("default", "fake", "custom", "{}")
            store.begin(key, ["first"], price=0.001, cap=10**6, max_cost=10.0**6)
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            store._connection.set_progress_handler(step, 10)
            (attempt,) = store.begin(key, ["second"], price=0.001, cap=10**6, max_cost=10.0**6)
            store.record_error(attempt, error(ErrorKind.TRANSIENT, sent=False), 0.1)
            store._connection.set_progress_handler(None, 0)
            steps.append(count)
            with pytest.raises(CapReachedError):
                store.begin(key, ["third"], price=0.001, cap=attempts + 1)
    assert steps[1] < steps[0] + 20
