"""How long replies take: a fixed time, or one drawn from a distribution with a seed."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

from apibench.errors import ApibenchError

_FORMS = "SECONDS, uniform:LOW,HIGH, normal:MEAN,DEVIATION, lognormal:MEDIAN,SIGMA or exponential:MEAN"
LONGEST = 3600.0  # a tail has no end, and a test has

Draw = Callable[[random.Random], float]


class Latency:
    """Seconds to wait before each reply, at least 0 and at most an hour. Safe to call from several threads.

    ``text`` is a number of seconds, or a distribution: ``uniform:0.1,0.3``; ``normal:0.2,0.05`` (mean and standard deviation;
    what falls below 0 is 0); ``lognormal:0.2,0.5`` (median in seconds, and the standard deviation of the logarithm, as
    measured latencies are often summarised); ``exponential:0.2`` (mean). Raises ApibenchError for anything else.
    """

    def __init__(self, text: str | float = 0.0, *, seed: int = 0) -> None:
        self._draw = _read(str(text))
        self._random = random.Random(seed)  # noqa: S311 - a seeded sequence is what is wanted
        self._lock = threading.Lock()

    def next(self) -> float:
        """That of the next reply, in seconds."""
        with self._lock:
            return min(max(self._draw(self._random), 0.0), LONGEST)


def _read(text: str) -> Draw:
    name, colon, rest = text.strip().partition(":")
    try:
        numbers = [float(part) for part in (rest if colon else name).split(",")]
    except ValueError:
        numbers = [math.nan]
    if all(0 <= number < math.inf for number in numbers):
        match name if colon else "constant", numbers:
            case "constant", [seconds]:
                return lambda _: seconds
            case "uniform", [low, high] if low <= high:
                return lambda draw: draw.uniform(low, high)
            case "normal", [mean, deviation]:
                return lambda draw: draw.gauss(mean, deviation)
            case "lognormal", [median, sigma] if median > 0 and sigma <= 10:
                return lambda draw: draw.lognormvariate(math.log(median), sigma)
            case "exponential", [mean] if mean > 0:
                return lambda draw: draw.expovariate(1 / mean)
    raise ApibenchError(f"latency {text!r}: write {_FORMS}")
