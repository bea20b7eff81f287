"""The rate of a provider: every request of a run waits here for its turn, whatever thread sends it.

All of it is on the monotonic clock. The wall clock, which may jump, is only written into records.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

SLACK = 0.02  # of a window: between the last look at the clock and the SDK lies what the machine is busy with
CATCH_UP = 2.0  # gaps: how far requests that were late may close up, so that a busy machine still reaches the rate
LOWEST = 1 / 16  # of the rate, however often the provider throttles
RECOVERY = 120.0  # seconds from nothing to the full rate; after one throttle, from half of it in a minute


class RateLimiter:
    """A token bucket with room for little more than one token, and never more than the rate in any window of a second.

    ``per_second`` None means no rate, and still a pause where the provider asks for one. Whoever sends holds ``turn``, waits,
    writes down the intent, waits for what is left of the time, and calls :meth:`go` as the last thing before sending: what is
    counted is when requests go, not when somebody meant to send them.

    A provider that throttles is left alone by all threads, for as long as it asks for or else for ``first`` seconds, twice that
    the next time, up to ``longest``; then the rate is half of what it was, and comes back slowly.
    """

    def __init__(
        self,
        per_second: float | None,
        *,
        first: float = 0.5,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turn = threading.Lock()
        self._mutex = threading.Lock()
        self._rate = per_second
        self._clock = clock
        # So many requests in any window of this length: one of a second, where the rate is a whole number.
        most = max(1, int(per_second)) if per_second else 1
        self._window = (1 + SLACK) * most / per_second if per_second else 0.0
        self._gone: deque[float] = deque(maxlen=most)
        self._next = clock()
        self._paused = self._next
        self._share = 1.0
        self._lowered = -math.inf  # when the rate was halved last
        self._throttles = 0
        self._first, self._longest = first, longest

    def wait(self, stop: threading.Event, early: float = 0.0) -> None:
        """Until a request may go, or ``early`` seconds before that; at once if ``stop`` is set."""
        while not stop.is_set():
            seconds = self._due() - early - self._clock()
            if seconds <= 0:
                return
            stop.wait(seconds)  # and look again: the provider may have asked all to wait in the meantime

    def go(self) -> float:
        """A request goes now, by this clock."""
        with self._mutex:
            now = self._clock()
            self._gone.append(now)
            if self._rate:
                gap = 1.0 / (self._rate * self._share_at(now))
                self._next = max(self._next, now - CATCH_UP * gap) + gap
            return now

    def throttled(self, gone: float, retry_after: float | None) -> None:
        """The request that went at ``gone`` was one too many. All threads wait, and the rate is halved.

        Not once more for requests that were on their way when the first of them came back.
        """
        with self._mutex:
            now = self._clock()
            if gone > self._lowered:
                self._share, self._lowered = max(LOWEST, self._share_at(now) / 2), now
                if retry_after is None:
                    retry_after = min(self._longest, self._first * 2.0 ** min(self._throttles, 30))
                self._throttles += 1
            self._pause(now, retry_after)

    def pause(self, seconds: float) -> None:
        """All threads wait: the provider has said how long, for another reason than the rate."""
        with self._mutex:
            self._pause(self._clock(), seconds)

    def answered(self) -> None:
        """The provider works: the next throttle is a first one."""
        self._throttles = 0

    @property
    def per_second(self) -> float | None:
        """The rate at this moment: lower than the permitted one for a while after a throttle."""
        with self._mutex:
            return self._rate and self._rate * self._share_at(self._clock())

    def _due(self) -> float:
        with self._mutex:
            if not self._rate:
                return self._paused
            full = len(self._gone) == self._gone.maxlen
            return max(self._paused, self._next, self._gone[0] + self._window if full else self._paused)

    def _share_at(self, now: float) -> float:
        return min(1.0, self._share + (now - self._lowered) / RECOVERY) if self._share < 1 else 1.0

    def _pause(self, now: float, seconds: float | None) -> None:
        self._paused = max(self._paused, now + (seconds or 0.0))
        self._next = max(self._next, self._paused)  # nobody closes up after a pause
