"""What is tried again, how often, and when it is time to stop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenacity import RetryCallState
from tenacity.wait import wait_random_exponential

from apibench.query.contract import ErrorKind, ProviderError

RETRIED = frozenset({ErrorKind.THROTTLED, ErrorKind.TRANSIENT, ErrorKind.PROTOCOL})
STOPS_THE_RUN = frozenset({ErrorKind.CREDENTIALS, ErrorKind.QUOTA})
# What may be the fault of one image of a batch, and be said of all: they are asked about one at a time.
PERHAPS_OF_ONE = frozenset({ErrorKind.REJECTED, ErrorKind.PROTOCOL})


class OnUncertain(StrEnum):
    """What becomes of an image whose answer may have been lost, and billed (``--on-uncertain``)."""

    ASK_AGAIN = "ask-again"  # once an image, over all starts of its campaign; then it is left
    STOP = "stop"  # it is left at once
    INSIST = "insist"  # what would be left, once more in every start


class AgainError(Exception):
    """Some images of a request are to be asked about again."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class RetryPolicy:
    """At most ``attempts`` requests an image and run; waits grow from ``first`` to ``longest`` seconds, with jitter.

    A request whose answer was lost may have been billed: an image is asked about again after at most ``uncertain`` of those.
    """

    attempts: int = 5
    uncertain: int = 1
    first: float = 0.5
    longest: float = 30.0
    longest_retry_after: float = 300.0

    def most_lost(self, on_uncertain: OnUncertain) -> int:
        """So many answers of an image may have been lost, and it is still asked about."""
        return 0 if on_uncertain is OnUncertain.STOP else self.uncertain

    def wait(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the vendor asked for, else exponential back-off with full jitter."""
        assert state.outcome is not None
        again = state.outcome.exception()
        if isinstance(again, AgainError) and again.error.retry_after is not None:
            return self.capped(again.error.retry_after) or 0.0
        return wait_random_exponential(multiplier=self.first, max=self.longest)(state)

    def capped(self, retry_after: float | None) -> float | None:
        """What a vendor asks for, within reason."""
        return None if retry_after is None else min(retry_after, self.longest_retry_after)
