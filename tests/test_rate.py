"""The rate limiter: never above the rate in any window, close to it on a busy machine, and patient with who throttles."""

from __future__ import annotations

import random
import threading
import time
from itertools import pairwise

import pytest

from apibench.query.rate import LOWEST, RateLimiter


class Clock:
    """A clock that only moves when somebody waits: on an Event of its own, whose waits are late by chance."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 1000.0
        self.stop = threading.Event()
        self.stop.wait = self.wait  # type: ignore[method-assign]
        self._late = late
        self._draw = random.Random(0)

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float | None = None) -> bool:
        self.now += (seconds or 0.0) + self._draw.uniform(0, self._late)
        return False


def sent(limiter: RateLimiter, clock: Clock, count: int) -> list[float]:
    times = []
    for _ in range(count):
        limiter.wait(clock.stop)
        times.append(limiter.go())
    return times


def most_in(times: list[float], window: float) -> int:
    """The largest number of times within any half-open window."""
    return max(sum(start <= other < start + window - 1e-9 for other in times) for start in times)


@pytest.mark.parametrize("rate", [0.3, 5.0, 7.5, 15.0, 20.0, 30.0])
@pytest.mark.parametrize("late", [0.0, 0.02])
def test_any_second_holds_the_rate_at_most_and_all_of_them_nearly_as_much(rate: float, late: float) -> None:
    clock = Clock(late)
    limiter = RateLimiter(rate, clock=clock)
    times = sent(limiter, clock, 300)
    whole = max(1, int(rate))
    assert most_in(times, whole / rate) <= whole
    assert (len(times) - 1) / (times[-1] - times[0]) >= 0.95 * rate


def test_after_an_idle_time_nobody_closes_up() -> None:
    clock = Clock()
    limiter = RateLimiter(10.0, clock=clock)
    sent(limiter, clock, 3)
    clock.now += 60
    times = sent(limiter, clock, 20)
    assert most_in(times, 0.1) <= 3, "two gaps may be caught up, not a minute"
    assert most_in(times, 1.0) <= 10


def test_a_throttle_makes_all_wait_and_halves_the_rate_which_comes_back_slowly() -> None:
    clock = Clock()
    limiter = RateLimiter(10.0, first=0.5, clock=clock)
    (gone,) = sent(limiter, clock, 1)
    limiter.throttled(gone, retry_after=7.0)
    times = sent(limiter, clock, 20)
    assert times[0] - gone >= 7.0
    gaps = [b - a for a, b in pairwise(times)]
    assert min(gaps) > 0.17, "half the rate, a little recovered during the pause"
    assert limiter.per_second is not None
    assert 5.0 < limiter.per_second < 7.0
    clock.now += 60
    assert limiter.per_second == 10.0


def test_requests_that_were_on_their_way_lower_the_rate_once() -> None:
    clock = Clock()
    limiter = RateLimiter(16.0, first=1.0, longest=3.0, clock=clock)
    gone = sent(limiter, clock, 4)
    for one in gone:
        limiter.throttled(one, None)
    assert limiter.per_second == 8.0
    waits = []
    for _ in range(8):
        before = clock.now
        (again,) = sent(limiter, clock, 1)
        waits.append(clock.now - before)
        limiter.throttled(again, None)
    assert waits[:3] == pytest.approx([1.0, 2.0, 3.0], abs=0.2)
    assert max(waits) <= 3.5, "never longer than the longest"
    assert limiter.per_second is not None
    assert limiter.per_second >= 16.0 * LOWEST
    limiter.answered()
    (again,) = sent(limiter, clock, 1)
    limiter.throttled(again, None)
    before = clock.now
    sent(limiter, clock, 1)
    assert clock.now - before == pytest.approx(1.0, abs=0.3), "an answer makes the next throttle a first one"


def test_without_a_rate_there_is_a_pause_all_the_same() -> None:
    clock = Clock()
    limiter = RateLimiter(None, clock=clock)
    assert len(set(sent(limiter, clock, 5))) == 1
    limiter.pause(3.0)
    (after,) = sent(limiter, clock, 1)
    assert after == 1003.0
    assert limiter.per_second is None


def test_a_pause_that_comes_during_a_wait_is_heeded_and_a_stop_ends_it() -> None:
    limiter = RateLimiter(None)
    stop = threading.Event()
    started = time.monotonic()
    limiter.pause(0.3)
    threading.Timer(0.05, limiter.pause, [0.4]).start()
    limiter.wait(stop)
    assert time.monotonic() - started >= 0.44
    limiter.pause(60)
    threading.Timer(0.05, stop.set).start()
    limiter.wait(stop)
    assert time.monotonic() - started < 10


def test_the_wall_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(50.0)
    stop = threading.Event()
    started = time.monotonic()
    for hours in range(10):
        monkeypatch.setattr(time, "time", lambda hours=hours: -3600.0 * hours)
        limiter.wait(stop)
        limiter.go()
    assert 0.13 < time.monotonic() - started < 5
