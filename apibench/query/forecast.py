"""What a query would send, cost and take, before it sends anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

from apibench.query.account import REAL


@dataclass(frozen=True)
class Before:
    """What a campaign has on its account already: requests, and US dollars by list price.

    ``promised_calls`` and ``promised_cost``: what those who are asked before it will have put there by then. Of the images asked
    about: how many are not sent again, because they are answered, refused, or left uncertain.
    """

    calls: int = 0
    spent: float = 0.0
    promised_calls: int = 0
    promised_cost: float = 0.0
    answered: int = 0
    refused: int = 0
    left: int = 0

    @property
    def images(self) -> int:
        """Those that are not sent again."""
        return self.answered + self.refused + self.left


NOTHING_BEFORE = Before()
UNTOLD = "untold"  # the origin of a plan, and never of an answer


@dataclass(frozen=True)
class Plan:
    """What a query would send: images in all, calls left, and what they are bounded by.

    ``origin`` :data:`UNTOLD`: only a client knows who answers. ``price``: US dollars an image, None where no list knows it.
    ``rate``: calls a second, None for no limit. ``at_least``: images may be too large for so few calls. ``note``: one more word
    for whoever asks.
    """

    provider: str
    origin: str
    images: int
    calls: int
    price: float | None
    prices_as_of: str
    rate: float | None = None
    rate_verified: bool = True
    max_calls: int | None = None
    max_cost: float | None = None
    before: Before = NOTHING_BEFORE
    at_least: bool = False
    note: str = ""

    @property
    def is_real(self) -> bool:
        """Whether it may cost money."""
        return may_cost(self.origin)

    @property
    def cost(self) -> float | None:
        """US dollars, if every image is answered at once."""
        return None if self.price is None else self.price * (self.images - self.before.images)

    @property
    def seconds(self) -> float | None:
        """How long the calls take at least: the first of them waits for nobody."""
        return max(0, self.calls - 1) / self.rate if self.rate else None

    def __str__(self) -> str:
        return (
            f"{self.provider}: {self.images} images, {self._done}, {self._calls} calls to send "
            f"({self._cost}{self._time}){self._caps}{f'; {self.note}' if self.note else ''}"
        )

    @property
    def _calls(self) -> str:
        return f"at least {self.calls}" if self.at_least and self.calls else str(self.calls)

    @property
    def _done(self) -> str:
        others = ((self.before.refused, "refused"), (self.before.left, "left uncertain"))
        return f"{self.before.answered} stored" + "".join(f", {count} {what}" for count, what in others if count)

    @property
    def _cost(self) -> str:
        if self.origin == UNTOLD:
            return f"whom it asks, and what of it is stored, is known only once there is a client: {self._list_price}"
        if not self.is_real:
            rehearsed = (
                f"; --max-cost counts the list price, about {dollars(self.cost)}, as a rehearsal" if self.cost else ""
            )
            return f"{self.origin}: costs nothing{rehearsed}"
        return self._list_price

    @property
    def _list_price(self) -> str:
        if self.cost is None:
            return "price unknown"
        return f"about {dollars(self.cost)} by the list of {self.prices_as_of}, retries and free quotas not counted"

    @property
    def _time(self) -> str:
        if self.seconds is None or not self.calls:
            return ""
        about = "" if self.rate_verified else ", which is not verified"
        return f", {_duration(self.seconds)} at {self.rate:g} calls a second{about}"

    @property
    def _caps(self) -> str:
        """The caps, and what is on their account already."""
        caps = []
        if self.max_calls is not None:
            calls, promised = self.before.calls, self.before.promised_calls
            over = calls + promised + self.calls > self.max_calls
            caps.append(f"--max-calls {self.max_calls}, {calls} used{_promised(promised)}{_stops(over)}")
        if self.max_cost is not None:
            spent, promised_cost = self.before.spent, self.before.promised_cost
            over = spent + promised_cost + (self.cost or 0) > self.max_cost + 1e-9
            promise = _promised(promised_cost and dollars(promised_cost))
            caps.append(f"--max-cost {self.max_cost:g}, {dollars(spent)} spent{promise}{_stops(over)}")
        return "".join(f"; {cap}" for cap in caps)


def may_cost(origin: str) -> bool:
    """Whether answers of an origin cost money, or may."""
    return origin in (*REAL, UNTOLD)


def dollars(amount: float) -> str:
    """An amount for a person: cents, or four places where it is less than a dollar and would look like nothing."""
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


def _promised(what: object) -> str:
    return f" and {what} for those asked before it" if what else ""


def _stops(over: bool) -> str:
    return ": it stops there before the end" if over else ""


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"at least {math.ceil(seconds)} s"
    return f"at least {seconds / 60:.0f} min" if seconds < 7200 else f"at least {seconds / 3600:.1f} h"
