"""Faults on demand: by a script, one entry a request, or by chance with a seed; and a rate limit that really throttles."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from apibench.errors import ApibenchError


class FaultKind(StrEnum):
    """What may happen to a request. ``hang`` takes seconds (``hang:2``); what is not said to be billed is not billed."""

    OK = "ok"
    THROTTLE = "throttle"  # the vendor's usual error for too many requests
    PROVISIONED = "provisioned"  # its error for a throughput limit (the same one where it has no other)
    TOO_MANY = "429"  # an HTTP 429 with Retry-After
    INTERNAL = "500"
    UNAVAILABLE = "503"
    HANG = "hang"  # silence for so many seconds, then the connection is closed
    DROP = "drop"  # the connection is closed without a reply
    DROP_AFTER = "drop-after"  # answered and billed, and the connection closed before the reply
    TRUNCATED = "truncated"  # answered and billed, and the connection closed in the middle of the reply
    MALFORMED = "malformed"  # a 200 whose body is not JSON
    EMPTY = "empty"  # a 200 without a body
    HTML = "html"  # a 200 with a page, as a proxy sends it


HANG_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    kind: FaultKind
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``KIND`` or ``hang:SECONDS``. Raises ApibenchError naming what there is."""
        name, colon, argument = text.strip().partition(":")
        if name not in list(FaultKind):
            raise ApibenchError(f"fault {text!r}: no such kind; there are {', '.join(FaultKind)}")
        kind = FaultKind(name)
        if kind is not FaultKind.HANG:
            if colon:
                raise ApibenchError(f"fault {text!r}: only hang takes seconds")
            return cls(kind)
        seconds = _number(argument) if colon else HANG_SECONDS
        if not 0 <= seconds < math.inf:
            raise ApibenchError(f"fault {text!r}: {argument!r} is no number of seconds")
        return cls(kind, seconds)


class Faults:
    """What happens to each request: the script first, an entry a request; after it, by probability with a seed.

    The order is that in which requests arrive, so with several clients at once the seed fixes how many fail, and not which.
    """

    def __init__(
        self, script: Iterable[str] = (), *, probabilities: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        self._script = deque(Fault.parse(entry) for entry in script)
        self._probabilities = [(Fault.parse(kind), p) for kind, p in (probabilities or {}).items()]
        for fault, p in self._probabilities:
            if not 0 <= p <= 1:
                raise ApibenchError(f"fault {fault.kind}={p}: a probability is from 0 to 1")
        if sum(p for _, p in self._probabilities) > 1 + 1e-9:
            raise ApibenchError("faults: their probabilities come to more than 1")
        self._random = random.Random(seed)  # noqa: S311 - a seeded sequence is what is wanted
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, entries: Iterable[str], seed: int = 0) -> Faults:
        """From the command line's ``KIND=PROBABILITY``. Raises ApibenchError naming the entry."""
        probabilities: dict[str, float] = {}
        for entry in entries:
            kind, equals, text = entry.partition("=")
            probability = _number(text)
            if not equals or math.isnan(probability):
                raise ApibenchError(f"--fault {entry}: write KIND=PROBABILITY, for instance throttle=0.1")
            if kind in probabilities:
                raise ApibenchError(f"--fault {entry}: {kind} is given twice")
            probabilities[kind] = probability
        return cls(probabilities=probabilities, seed=seed)

    def next(self) -> Fault:
        """What happens to the request that has just arrived."""
        with self._lock:
            if self._script:
                return self._script.popleft()
            if not self._probabilities:
                return Fault(FaultKind.OK)
            drawn = self._random.random()
            for fault, p in self._probabilities:
                if drawn < p:
                    return fault
                drawn -= p
            return Fault(FaultKind.OK)


class RateLimit:
    """A token bucket: ``per_second`` requests a second, and as many (at least one) at once after a pause."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < per_second < math.inf:
            raise ApibenchError(f"rate limit {per_second}: a number of requests a second above 0 is needed")
        self._rate = per_second
        self._size = max(1.0, per_second)
        self._tokens = self._size
        self._clock = clock
        self._last = clock()
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Take a token, if there is one."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + (now - self._last) * self._rate)
            self._last = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
