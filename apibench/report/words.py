"""What a report found, in plain words: for the page's head and for a terminal. Plain text, names from outside cut short.

Counts of each provider by itself: several answer about the same photographs, so adding them up would count one thing twice.
Nothing here claims significance, which is report.md's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from apibench import text
from apibench.report.compare import NONE, Row
from apibench.report.tables import main_table, origin_caption

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
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.attack is not None:
            found.setdefault(row.attack, []).append(row)
    sentences = [(text.plain(attack, MOST), _taken(own), _given_back(own)) for attack, own in found.items()]
    return [(attack, f"{taken} {back}".rstrip()) for attack, taken, back in sentences if taken]


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


def _taken(rows: Sequence[Row]) -> str:
    shares = [row.attacked.top1 for row in rows if row.purifier == NONE and row.attacked and row.attacked.top1.n]
    lost = _sorted((share.n - share.k, share.n) for share in shares)
    if not lost:
        return ""
    words = f"changed the first label of {_count(lost[0], ' photographs')}"
    if len(lost) == 1:
        return f"{words}{' at each provider' if len(shares) > 1 else ''}."
    return f"{words} at the provider that withstood it best, of {_count(lost[-1])} at the one that did worst."


def _given_back(rows: Sequence[Row]) -> str:
    """The best purifier is the one with the best mean over the providers."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.recovery is not None:
            found.setdefault(row.purifier, []).append(row)
    if not found:
        return ""
    means = {name: fmean(row.recovery.value for row in own if row.recovery) for name, own in found.items()}
    best = max(means, key=means.__getitem__)
    if means[best] <= 0:
        return "No purifier gave any back on balance."
    back = [(row.recovery.numerator, row.recovery.denominator) for row in found[best] if row.recovery]
    words = f"Of these, {text.plain(best, MOST)} gave back the most: {_range(back)} on balance"
    if len({row.group for row in rows}) > 1:
        words += " at each provider" if len(_sorted(back)) == 1 else ", by provider"
    changed = [(row.cost.k, row.cost.n) for row in found[best] if row.cost is not None and row.cost.n]
    return f"{words}; it changes {_range(changed, ' clean answers')}." if changed else f"{words}."


def _sorted(counts: Iterable[Count]) -> list[Count]:
    """By share, each share once."""
    return list({k / n: (k, n) for k, n in sorted(counts, key=lambda count: count[0] / count[1])}.values())


def _range(counts: Iterable[Count], of: str = "") -> str:
    """The lowest and the highest, or the one that all are."""
    shares = _sorted(counts)
    lowest, highest = _count(shares[0], of), _count(shares[-1], of)
    return lowest if len(shares) == 1 else f"{lowest} to {highest}"


def _count(count: Count, of: str = "") -> str:
    k, n = count
    return f"{k} of {n}{of} ({text.percent(k / n, 0)} %)"
