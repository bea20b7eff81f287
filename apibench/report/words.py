"""What a report found, in plain words: for the page's head and for a terminal. Plain text, names from outside cut short.

Counts of each provider by itself: several answer about the same photographs, so adding them up would count one thing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from apibench import metrics, text
from apibench.report.compare import NONE, Group, Row, natural
from apibench.report.tables import adjusted, main_table, origin_caption

MOST = 40  # characters of a name
ON_SCREEN = 16  # rows of a table that a terminal shows at once, with a caption
Count = tuple[int, int]  # so many of so many


def summary(rows: Sequence[Row]) -> str:
    """For a terminal: the main table, or what it says in plain words where it would fill more than a screen."""
    if len(rows) <= ON_SCREEN:
        return main_table(rows)
    lines = [f"- {attack} {said}" for attack, said in by_attack(rows)]
    return "\n".join([origin_caption(row.group for row in rows), "", *lines])


def by_attack(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """By attack, in a sentence or two: what it took at the providers, and which purifier gave back most of it."""
    significant = {row for row, p in adjusted(rows).items() if p < metrics.ALPHA}
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.attack is not None:
            found.setdefault(row.attack, []).append(row)
    said = [(text.plain(attack, MOST), _taken(own), _given_back(own, significant)) for attack, own in found.items()]
    return [(attack, f"{taken} {back}".rstrip()) for attack, taken, back in said if taken]


def of_provider(rows: Sequence[Row]) -> str:
    """What one attack took at one provider, and which purifier gave back most of it at what cost."""
    attacked = rows[0].attacked
    if attacked is None or not attacked.top1.n:
        return "No attacked picture was answered."
    share = attacked.top1
    words = f"The attack took {share.n - share.k} of {share.n} first labels."
    purified = [(row, row.recovery) for row in rows if row.recovery is not None]
    if not purified:
        return words
    best, recovery = max(purified, key=lambda one: one[1].value)
    if recovery.numerator <= 0:
        return f"{words} No purifier gave any back on balance."
    most = "gave back the most" if len(purified) > 1 else "gave back"
    words += f" {text.plain(best.purifier, MOST)} {most}: {recovery.numerator} of {recovery.denominator} on balance"
    cost = best.cost
    return f"{words}; it changes {cost.k} of {cost.n} clean pictures." if cost is not None and cost.n else f"{words}."


@dataclass(frozen=True)
class _Whose:
    """How the rows of several are told apart: providers, or where one provider was asked more than once, measurements."""

    count: int
    by: str
    at: str

    @classmethod
    def of(cls, groups: Iterable[Group]) -> _Whose:
        found = set(groups)
        by, at = ("provider", "at") if len({group.provider for group in found}) == len(found) else ("measurement", "in")
        return cls(len(found), by, at)

    def each(self, counts: Sequence[Count]) -> str:
        """What stands after :func:`_range` of these counts, of some of them or of all."""
        if self.count == 1:
            return ""
        if len(counts) < self.count:
            return f" {self.at} {len(counts)} of {self.count} {self.by}s"
        return f" {self.at} each {self.by}" if len(set(counts)) == 1 else f", by {self.by}"


def _taken(rows: Sequence[Row]) -> str:
    answered = [row for row in rows if row.purifier == NONE and row.attacked and row.attacked.top1.n]
    shares = [row.attacked.top1 for row in answered if row.attacked]
    lost = sorted(((share.n - share.k, share.n) for share in shares), key=_share)
    if not lost:
        return ""
    whose = _Whose.of(row.group for row in answered)
    words = "changed the first label of"
    if _share(lost[0]) == _share(lost[-1]):
        return f"{words} {_range(lost, ' photographs')}{whose.each(lost)}."
    best, worst = _count(lost[0], " photographs"), _count(lost[-1])
    return f"{words} {best} {whose.at} the {whose.by} that withstood it best, of {worst} {whose.at} the one that did worst."


def _given_back(rows: Sequence[Row], significant: set[int]) -> str:
    """The best purifier has the best mean over the providers, of those asked of all; of equals it costs the least."""
    known = [row for row in rows if row.recovery is not None]
    if not known:
        return ""
    everywhere = {row.group for row in known}
    found: dict[str, list[Row]] = {}
    for row in known:
        found.setdefault(row.purifier, []).append(row)
    if all(row.recovery.numerator <= 0 for row in known if row.recovery):
        return "No purifier gave any back on balance."
    whole = {name: own for name, own in found.items() if len(own) == len(everywhere)}
    if not whole:
        return "No purifier was asked of all of them: the table has each."
    best = min(whole, key=lambda name: (-_mean_recovery(whole[name]), _mean_cost(whole[name]), natural(name)))
    return f"Of these, {text.plain(best, MOST)} gave back the most: {_at_what_cost(whole[best], rows, significant)}."


def _at_what_cost(own: Sequence[Row], rows: Sequence[Row], significant: set[int]) -> str:
    """What one purifier gave back, whether that is significant, and what it changes of clean answers."""
    whose = _Whose.of(row.group for row in rows)
    back = [(row.recovery.numerator, row.recovery.denominator) for row in own if row.recovery]
    words = f"{_range(back)} on balance{whose.each(back)}"
    count = sum(id(row) in significant for row in own)
    if count in (0, len(own)):
        words += f" ({'' if count else 'not '}significant)"
    else:
        words += f" (significant {whose.at} {count} of them)"
    changed = [(row.cost.k, row.cost.n) for row in own if row.cost is not None and row.cost.n]
    return f"{words}; it changes {_range(changed, ' clean answers')}" if changed else words


def _mean_recovery(own: Sequence[Row]) -> float:
    return fmean(row.recovery.value for row in own if row.recovery)


def _mean_cost(own: Sequence[Row]) -> float:
    return fmean(row.cost.k / row.cost.n if row.cost is not None and row.cost.n else 1.0 for row in own)


def _range(counts: Sequence[Count], of: str = "") -> str:
    """The lowest and the highest, or the one that all are."""
    ordered = sorted(counts, key=lambda count: (_share(count), count))
    lowest, highest = ordered[0], ordered[-1]
    if lowest == highest:
        return _count(lowest, of)
    return f"{_count(lowest)} to {_count(highest, of)}"


def _share(count: Count) -> float:
    return count[0] / count[1]


def _count(count: Count, of: str = "") -> str:
    k, n = count
    return f"{text.number(k, 0)} of {n}{of} ({text.percent(k / n, 0)} %)"
