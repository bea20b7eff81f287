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
    """What may happen to a request. What is not said to be billed is not billed.

    ``hang`` and ``slow`` take seconds (``hang:2``). A gRPC message arrives whole or not at all, and its library fixes the
    content type: what that makes of a kind over gRPC stands behind "gRPC:".
    """

    OK = "ok"
    THROTTLE = "throttle"  # the vendor's usual error for too many requests
    PROVISIONED = "provisioned"  # its error for a throughput limit (the same one where it has no other)
    TOO_MANY = "429"  # an HTTP 429 with Retry-After
    INTERNAL = "500"
    BAD_GATEWAY = "502"  # a proxy's page: it has no answer from the service. gRPC: UNAVAILABLE, as a proxy says it
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"  # a proxy's page: it has waited long enough. gRPC: UNAVAILABLE, as a proxy says it
    EXPIRED = "expired"  # the vendor's error for a key that was good and no longer is
    BAD_IMAGE = "bad-image"  # the vendor's refusal of what is no image, whatever was sent
    IMAGE_ERROR = "image-error"  # the first image of a request fails, the others are answered and billed
    HANG = "hang"  # silence for so many seconds, then the connection is closed
    SLOW = "slow"  # answered and billed; the body trickles out over so many seconds. gRPC: headers, and the message after them
    DROP = "drop"  # the connection is closed without a reply
    RESET = "reset"  # the connection is reset (RST) without a reply
    DROP_AFTER = "drop-after"  # answered and billed, and the connection closed before the reply
    TRUNCATED = (
        "truncated"  # answered and billed, and the connection closed in the middle of the reply. gRPC: half a message
    )
    MALFORMED = "malformed"  # a 200 whose body is not JSON. gRPC: a message that is none
    EMPTY = "empty"  # a 200 without a body
    HTML = "html"  # a 200 with a page, as a proxy sends it. gRPC: the page as a message
    CONTENT_TYPE = "content-type"  # answered and billed, and called text/plain. gRPC: an answer like any other


# Kinds that take seconds, and how many unless told.
SECONDS = {FaultKind.HANG: 60.0, FaultKind.SLOW: 10.0}
MAX_SCRIPT = 1_000_000


@dataclass(frozen=True)
class Fault:
    kind: FaultKind
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``KIND``, ``hang:SECONDS`` or ``slow:SECONDS``. Raises ApibenchError naming what there is."""
        name, colon, argument = text.strip().partition(":")
        if name not in list(FaultKind):
            raise ApibenchError(f"fault {text!r}: no such kind; there are {', '.join(FaultKind)}")
        kind = FaultKind(name)
        if kind not in SECONDS:
            if colon:
                raise ApibenchError(f"fault {text!r}: only {' and '.join(SECONDS)} take seconds")
            return cls(kind)
        seconds = _number(argument) if colon else SECONDS[kind]
        if not 0 <= seconds < math.inf:
            raise ApibenchError(f"fault {text!r}: {argument!r} is no number of seconds")
        return cls(kind, seconds)


def script(text: str) -> list[str]:
    """Entries of a script written in one line: ``throttle,hang:2,ok*3``. Raises ApibenchError for a count that is none."""
    entries: list[str] = []
    for entry in text.split(","):
        kind, star, count = entry.strip().partition("*")
        if star and not (count.isdecimal() and len(count) < 10 and len(entries) + int(count) <= MAX_SCRIPT):
            raise ApibenchError(f"script {text!r}: {entry.strip()!r}: write KIND*COUNT, {MAX_SCRIPT} entries at most")
        entries += [kind] * (int(count) if star else 1)
    return entries


class Faults:
    """What happens to each request: the script first, an entry a request; after it, by probability with a seed.

    The order is that in which requests arrive, so with several clients at once the seed fixes how many fail, and not which.
    Raises ApibenchError for what is no fault and no probability.
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
    def parse(cls, entries: Iterable[str], seed: int = 0, script: Iterable[str] = ()) -> Faults:
        """From the command line's ``KIND=PROBABILITY``, after a script. Raises ApibenchError naming the entry."""
        probabilities: dict[str, float] = {}
        for entry in entries:
            kind, equals, text = entry.partition("=")
            probability = _number(text)
            if not equals or math.isnan(probability):
                raise ApibenchError(f"--fault {entry}: write KIND=PROBABILITY, for instance throttle=0.1")
            if kind in probabilities:
                raise ApibenchError(f"--fault {entry}: {kind} is given twice")
            probabilities[kind] = probability
        return cls(script, probabilities=probabilities, seed=seed)

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
