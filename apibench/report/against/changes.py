"""What changed at one provider: variant by variant, over the files that are the same then and now."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from apibench import metrics, text
from apibench.report.against.sides import Apart, Side, name
from apibench.report.compare import NONE, Answer, K, natural

# With fewer images not even a change of all of them, in the same direction, has a p below alpha.
FEWEST = next(n for n in count(1) if metrics.sign_test_p(n, 0) < metrics.ALPHA)


@dataclass(frozen=True)
class Paired:
    """A share then and now, over the images of which both are known."""

    counts: metrics.PairedCounts

    @property
    def then(self) -> metrics.Proportion:
        return metrics.Proportion(self.counts.both + self.counts.before_only, self.counts.n)

    @property
    def now(self) -> metrics.Proportion:
        return metrics.Proportion(self.counts.both + self.counts.after_only, self.counts.n)

    @property
    def differ(self) -> int:
        """Images of which it is another one now."""
        return self.counts.after_only + self.counts.before_only

    @property
    def tested(self) -> bool:
        """Whether there is anything to test."""
        return self.counts.n >= FEWEST and self.differ > 0


@dataclass(frozen=True)
class Change:
    """One variant at one provider, over the photographs (``sources``) of which its file is the same on both sides.

    ``other_files``: of how many it is not, or there is one on one side only; they are left out.
    """

    then: Side
    now: Side
    attack: str
    purifier: str
    sources: tuple[str, ...]
    other_files: int
    first: metrics.Proportion
    first_k: metrics.Proportion
    agreement: Paired | None
    correct: Paired | None

    @property
    def images(self) -> int:
        return len(self.sources)

    @property
    def is_clean(self) -> bool:
        return (self.attack, self.purifier) == ("clean", NONE)

    @property
    def variant(self) -> str:
        """Plain text."""
        return _variant(self.attack, self.purifier)


def changes(then: Side, now: Side) -> tuple[list[Change], list[Apart]]:
    """Of the variants that both have, in the same files, the changes; and the other variants."""
    found = [_change(then, now, *variant) for variant in _sorted(then.variants & now.variants)]
    lists = {
        "then only": [_variant(*variant) for variant in _sorted(then.variants - now.variants)],
        "now only": [_variant(*variant) for variant in _sorted(now.variants - then.variants)],
        "no image is the same file then and now": [change.variant for change in found if not change.images],
    }
    who = name(now.group, now.group.campaign)
    apart = [Apart(f"{who}: {', '.join(variants)}", why) for why, variants in lists.items() if variants]
    return [change for change in found if change.images], apart


def _sorted(variants: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(variants, key=lambda v: (v[0] != "clean", natural(v[0]), v[1] != NONE, natural(v[1])))


def _variant(attack: str, purifier: str) -> str:
    return text.plain(attack if purifier == NONE else f"{attack} + {purifier}", 80)


def _change(then: Side, now: Side, attack: str, purifier: str) -> Change:
    before, after = then.found(attack, purifier), now.found(attack, purifier)
    common = sorted(before.keys() & after.keys())
    same = tuple(source for source in common if before[source][1].sha256 == after[source][1].sha256)

    def changed(k: int) -> metrics.Proportion:
        return metrics.proportion([_differs(before[source][1], after[source][1], k) for source in same])

    agrees = [[side[source][0].flag(attack, purifier, source) for source in same] for side in (before, after)]
    right = [[side[source][0].correct(attack, purifier, source, K) for source in same] for side in (before, after)]
    agreement, correct = metrics.pair(*agrees), metrics.pair(*right)
    reference = (attack, purifier) == ("clean", NONE)  # agrees with itself
    return Change(
        then=then,
        now=now,
        attack=attack,
        purifier=purifier,
        sources=same,
        other_files=len(before.keys() | after.keys()) - len(same),
        first=changed(1),
        first_k=changed(K),
        agreement=Paired(agreement) if agreement.n and not reference else None,
        correct=Paired(correct) if correct.n else None,
    )


def _differs(then: Answer, now: Answer, k: int) -> bool | None:
    if "failed" in (then.outcome, now.outcome):
        return None
    before, after = ({metrics.identity(label) for label in (one.labels or ())[:k]} for one in (then, now))
    return before != after
