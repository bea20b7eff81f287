"""Whose answers of then are compared with whose of now, and who is left without a counterpart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from apibench import text
from apibench.report.compare import Answer, Answers, Group


@dataclass
class Side:
    """All answers of one provider, origin and settings in one campaign, whichever model version gave them."""

    groups: list[Answers] = field(default_factory=list)

    @property
    def group(self) -> Group:
        return self.groups[0].group

    @property
    def versions(self) -> str:
        return ", ".join(sorted({answers.group.answered_by for answers in self.groups}))

    @property
    def versions_known(self) -> bool:
        return all(answers.group.model_version for answers in self.groups)

    @property
    def variants(self) -> set[tuple[str, str]]:
        return {variant for answers in self.groups for variant in answers.by_variant}

    def found(self, attack: str, purifier: str) -> dict[str, tuple[Answers, Answer]]:
        """By photograph. Of several model versions' answers, the first version's."""
        all_of_them: dict[str, tuple[Answers, Answer]] = {}
        for answers in self.groups:
            for source, answer in answers.by_variant.get((attack, purifier), {}).items():
                all_of_them.setdefault(source, (answers, answer))
        return all_of_them


@dataclass(frozen=True)
class Apart:
    """What has no counterpart: a provider, or variants at one. Both are plain text."""

    what: str
    why: str


Pair = tuple[Side, Side]  # then, now


def matched(then: Iterable[Answers], now: Iterable[Answers]) -> tuple[list[Pair], list[Apart]]:
    """Sides of the same provider and origin, of one campaign then and each campaign now; and who is left."""
    before, after = _sides(then), _sides(now)
    pairs, apart = [], []
    for campaign in sorted({side.group.campaign for side in after}):
        own = [side for side in after if side.group.campaign == campaign]
        for provider in sorted({side.group.provider for side in [*before, *own]}):
            old, new = ([side for side in sides if side.group.provider == provider] for sides in (before, own))
            found = _paired(old, new)
            pairs += found
            apart += _left(old, new, found, campaign)
    return sorted(pairs, key=lambda pair: pair[1].group), apart


def settings_that_differ(then: Side, now: Side) -> str:
    """Such as "MaxLabels 5 then, 10 now", plain text; empty where none does."""
    if then.group.settings == now.group.settings:
        return ""
    try:
        old, new = (dict(json.loads(side.group.settings)) for side in (then, now))
    except (ValueError, TypeError):  # not an object: not written by apibench
        old, new = {"settings": then.group.settings}, {"settings": now.group.settings}
    unset = "not set"
    return ", ".join(
        f"{text.plain(key, 40)} {text.plain(old.get(key, unset), 60)} then, {text.plain(new.get(key, unset), 60)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, unset) != new.get(key, unset)
    )


def name(group: Group, campaign: str) -> str:
    """Plain text."""
    return f"{text.plain(group.title, 40)}, campaign {text.plain(campaign, 60)}"


def _sides(groups: Iterable[Answers]) -> list[Side]:
    found: dict[tuple[str, str, str, str], Side] = {}
    for answers in groups:
        group = answers.group
        found.setdefault((group.campaign, group.provider, group.origin, group.settings), Side()).groups.append(answers)
    return list(found.values())


def _paired(old: Sequence[Side], new: Sequence[Side]) -> list[Pair]:
    """Of one provider: sides of the same origin and settings; of the same origin alone, where each has but one of it left."""
    pairs = [
        (then, now)
        for now in new
        for then in old
        if (then.group.origin, then.group.settings) == (now.group.origin, now.group.settings)
    ]
    for origin in _origins([*old, *new]):
        then, now = ([side for side in sides if side.group.origin == origin] for sides in _rest(old, new, pairs))
        if len(then) == len(now) == 1:
            pairs.append((then[0], now[0]))
    return pairs


def _rest(old: Sequence[Side], new: Sequence[Side], pairs: Sequence[Pair]) -> tuple[list[Side], list[Side]]:
    used = {id(side) for pair in pairs for side in pair}
    return [side for side in old if id(side) not in used], [side for side in new if id(side) not in used]


def _left(old: Sequence[Side], new: Sequence[Side], pairs: Sequence[Pair], campaign: str) -> list[Apart]:
    """Who of one provider has no counterpart, and why."""
    then, now = _rest(old, new, pairs)
    who = name((old or new)[0].group, campaign)
    both = [origin for origin in _origins(then) if origin in _origins(now)]
    apart = [Apart(who, f"{origin}, several settings, none of them the same then and now") for origin in both]
    then, now = ([side for side in sides if side.group.origin not in both] for sides in (then, now))
    if then and now:
        # A network in the vendor's place, or a recording, is no vendor that changed its model.
        return [*apart, Apart(who, f"{', '.join(_origins(then))} then, {', '.join(_origins(now))} now")]
    paired = {side.group.origin for pair in pairs for side in pair}
    for side in [*then, *now]:
        settings = f" with settings {text.plain(side.group.settings, 120)}" if side.group.origin in paired else ""
        when = "then" if then else "now"
        apart.append(Apart(who, f"{text.plain(side.group.origin, 40)}{settings}, {when} only"))
    return list(dict.fromkeys(apart))


def _origins(sides: Iterable[Side]) -> list[str]:
    return sorted({side.group.origin for side in sides})
