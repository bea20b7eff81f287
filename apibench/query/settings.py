"""Whom to ask, and how: what one query is told, held to what can be done before anybody is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apibench import defaults
from apibench.errors import ApibenchError
from apibench.query.contract import ProviderInfo, ProviderOptions
from apibench.query.policy import OnUncertain, RetryPolicy

Setting = str | int | float | bool

FEWEST, MOST = 4, 64  # requests at a time, unless told
DAY = 86_400.0  # seconds: who waits longer for one answer, or between two, means something else; clocks end not far beyond


@dataclass(frozen=True)
class QuerySettings:
    """Whom to ask, and how.

    ``emulated`` asks a local emulator with fake keys: one of its own, whose network is ``target``, or the one that already
    runs at ``endpoint`` (the port of the provider's own wire). Without it, ``endpoint`` is asked with the user's own keys.
    ``max_calls`` and ``max_cost`` (US dollars) are of the campaign in its store, over all starts and providers. ``on_uncertain``:
    what becomes of an image whose answer may have been lost. ``batch``: images a request, as far as the provider
    takes so many. ``concurrency`` None: as many requests at a time as the provider's rate needs where an answer takes a second.
    ``record``: a cassette that what is said is written to; ``replay``: one that answers, in nobody's stead and for nothing.
    """

    provider: str
    campaign: str = "default"
    emulated: bool = False
    target: str = defaults.TARGET
    endpoint: str | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    on_uncertain: OnUncertain = OnUncertain.ASK_AGAIN
    batch: int = 1
    concurrency: int | None = None
    timeout: float = 30.0
    per_second: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    prices: Path | None = None
    record: Path | None = None
    replay: Path | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def options(self, endpoint: str | None = None) -> ProviderOptions:
        """What an adapter is told, with ``endpoint`` where the query itself names none."""
        return ProviderOptions(
            endpoint=self.endpoint or endpoint,
            emulated=self.pretended,
            timeout=self.timeout,
            concurrency=self.concurrency or FEWEST,
            settings=self.settings,
        )

    @property
    def pretended(self) -> bool:
        """Whether no vendor is asked: fake keys, no price, no rate."""
        return self.emulated or self.replay is not None

    def rate(self, info: ProviderInfo) -> float | None:
        """Requests a second: the user's, else what the vendor documents; None, no limit, for an emulator of one's own."""
        if self.per_second is not None or self.pretended:
            return self.per_second
        batch = min(self.batch, info.max_batch)
        return min(info.rate_per_second, (info.images_per_second or math.inf) / batch)

    def at_a_time(self, info: ProviderInfo) -> int:
        """Requests at a time: enough for the rate as long as an answer takes a second."""
        rate = self.rate(info)
        return self.concurrency or min(MOST, max(FEWEST, math.ceil(rate or 0)))

    def __post_init__(self) -> None:
        numbers = (("--timeout", self.timeout), ("--rate", self.per_second), ("--max-cost", self.max_cost))
        for name, number in numbers:
            if number is not None and not 0 < number < math.inf:
                raise ApibenchError(f"{name} {number}: must be a number above 0")
        if self.timeout > DAY:
            raise ApibenchError(f"--timeout {self.timeout:g}: must be a day at most, {DAY:g} seconds")
        if self.per_second is not None and self.per_second < 1 / DAY:
            raise ApibenchError(f"--rate {self.per_second:g}: must be a request a day at least, {1 / DAY:.2g} a second")
        if not is_text(self.campaign):
            raise ApibenchError(f"--campaign {self.campaign!a}: must be text in UTF-8")
        if self.replay is not None and (self.emulated or self.endpoint or self.record):
            raise ApibenchError("--replay is what answers: give no --emulated, --endpoint or --record beside it")


def is_text(name: str) -> bool:
    """Whether a store can hold it: the bytes of a file's or a campaign's name need not be UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
