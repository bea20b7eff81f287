"""What campaigns have on their account, kept in memory while a store is open for writing.

To count it anew before every request takes longer the more there is: 22 ms at 100,000 attempts. Nobody else can write
meanwhile, so each is counted once, when it is first needed, and then kept up; whenever a write fails, all is counted anew.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass

REAL = ("live", "custom")  # the origins of answers that cost money
_REAL = f"origin IN {REAL}"


@dataclass
class Account:
    """Of one campaign. ``calls``: requests on the wire, by whether they cost real money (an emulator's only rehearse it).
    ``images``: those that are or may be billed, by the same and their price in US dollars: with a count, since sums of small
    numbers are not exact.
    """

    calls: Counter[bool]
    images: Counter[tuple[bool, float]]

    @classmethod
    def counted(cls, connection: sqlite3.Connection | sqlite3.Cursor, campaign: str) -> Account:
        """From all of a store's attempts."""
        images = connection.execute(
            f"SELECT {_REAL}, price, COUNT(*) FROM attempts WHERE campaign = ? AND sent = 1 AND billing IS NOT 'no' "  # noqa: S608
            "AND price IS NOT NULL GROUP BY 1, 2",
            (campaign,),
        ).fetchall()
        calls = connection.execute(
            f"SELECT {_REAL}, COUNT(DISTINCT request) FROM attempts WHERE campaign = ? AND sent = 1 GROUP BY 1",  # noqa: S608
            (campaign,),
        ).fetchall()
        return cls(
            Counter({bool(real): int(count) for real, count in calls}),
            Counter({(bool(real), float(price)): int(count) for real, price, count in images}),
        )

    def spent(self, *, real: bool) -> float:
        """US dollars by list price; with ``real`` False what a rehearsal would have cost."""
        return sum(price * count for (is_real, price), count in self.images.items() if is_real is real)

    def begun(self, images: int, price: float | None, *, real: bool) -> None:
        """A request about so many images is about to go."""
        self.calls[real] += 1
        if price is not None:
            self.images[real, price] += images


class Accounts:
    """Those of all campaigns, kept up within the transaction that each change is written in; ``forget`` where that fails."""

    def __init__(self) -> None:
        self._known: dict[str, Account] = {}

    def of(self, cursor: sqlite3.Cursor, campaign: str) -> Account:
        if campaign not in self._known:
            self._known[campaign] = Account.counted(cursor, campaign)
        return self._known[campaign]

    def ended(self, cursor: sqlite3.Cursor, attempt: int, *, sent: bool, billed: bool) -> None:
        """An attempt has its outcome. After it is written; what was sent and may be billed changes nothing."""
        if billed:
            return
        campaign, request, price, real = cursor.execute(
            f"SELECT campaign, request, price, {_REAL} FROM attempts WHERE id = ?",  # noqa: S608
            (attempt,),
        ).fetchone()
        account = self._known.get(campaign)
        if account is None:  # never counted, so nothing to put right
            return
        if price is not None:
            account.images[bool(real), price] -= 1
        if not sent and not _any_sent(cursor, campaign, request):
            account.calls[bool(real)] -= 1

    def forget(self) -> None:
        self._known.clear()


def unpriced(connection: sqlite3.Connection, campaign: str) -> int:
    """How many images of a campaign cost real money, or may have, and nobody knows how much."""
    (count,) = connection.execute(
        f"SELECT COUNT(*) FROM attempts WHERE campaign = ? AND sent = 1 AND billing IS NOT 'no' AND price IS NULL AND {_REAL}",  # noqa: S608
        (campaign,),
    ).fetchone()
    return int(count)


def _any_sent(cursor: sqlite3.Cursor, campaign: str, request: int) -> bool:
    """Whether any image of a request counts as sent."""
    found = cursor.execute(
        "SELECT 1 FROM attempts WHERE campaign = ? AND sent = 1 AND request = ? LIMIT 1", (campaign, request)
    ).fetchone()
    return found is not None
