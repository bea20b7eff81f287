"""Agreement and correctness by the attack's strength: what each bound leaves, in one table an attack."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from apibench import metrics, text
from apibench.grid import Grid, Value
from apibench.labels.match import RULE_VERSION
from apibench.report import tables
from apibench.report.compare import ABOUT, NONE, Answers, K, natural
from apibench.report.sheets import Sheet, file_name, naming

KIND = "strength"
_BOUND = re.compile(r"(?P<name>.+)/(?P<norm>eps|l2-)(?P<bound>\d+(?:\.\d+)?)")
Share = metrics.Proportion | None

_READING = (
    "*Standard*: of clean images, purified. The others: of adversarial images of that bound (epsilon in levels of 255, or an L2 "
    "norm), purified. In per cent, in brackets Wilson's 95 % interval, and the images counted. The tables of each strength have "
    "the tests and what was left out."
)
_ABOUT = {
    "agreement": "Agreement: the share of images whose first label is the one that the same provider gave the clean image as it "
    f"is (of clean images, without a purifier, 100 by definition). {_READING}",
    "correct": f"Correct: one of the first {K} labels names the image's ImageNet class, or a WordNet ancestor specific enough "
    f"(label map, version {RULE_VERSION}). {_READING}",
}


@dataclass(frozen=True)
class Line:
    """A row: one purifier at one provider. ``robust``: by bound."""

    answers: Answers
    purifier: str
    standard: Share
    robust: dict[float, Share]


@dataclass(frozen=True)
class Family:
    """One attack in one norm. ``attacks``: what it is called at each bound, by bound."""

    name: str
    norm: str
    attacks: dict[float, str]

    @property
    def heads(self) -> list[str]:
        return [f"{'epsilon' if self.norm == 'eps' else 'L2'} {bound:g}" for bound in self.attacks]


def sheets(groups: Sequence[Answers]) -> list[Sheet]:
    """Of each attack that was made at more than one strength."""
    found: list[Sheet] = []
    for family in _families({attack for group in groups for attack in group.attacks}):
        for kind in _ABOUT:
            found += filter(None, [_sheet(kind, family, groups, {sheet.name for sheet in found})])
    return found


def _families(attacks: Iterable[str]) -> list[Family]:
    found: dict[tuple[str, str], dict[float, str]] = {}
    for attack in attacks:
        if named := _BOUND.fullmatch(attack):
            found.setdefault((named["name"], named["norm"]), {})[float(named["bound"])] = attack
    ordered = sorted(found, key=lambda one: (natural(one[0]), one[1]))
    return [Family(*one, dict(sorted(found[one].items()))) for one in ordered if len(found[one]) > 1]


def _sheet(kind: str, family: Family, groups: Sequence[Answers], taken: Collection[str]) -> Sheet | None:
    lines = [line for group in groups for line in _lines(kind, family, group)]
    if not lines:
        return None
    who = naming(line.answers.group for line in lines)
    first = [*who.head(), "Purifier"]
    grid = Grid(
        head=[*first, "standard", *family.heads],
        body=[
            [
                *who.names(line.answers.group),
                text.plain(line.purifier, 40),
                *map(_shown, (line.standard, *line.robust.values())),
            ]
            for line in lines
        ],
        words=len(first),
        right=range(len(first), len(first) + 1 + len(family.attacks)),
    )
    records = [record for line in lines for record in _records(family, line)]
    title = {"agreement": "Agreement", "correct": f"Correctness (top {K})"}[kind]
    norm = "epsilon" if family.norm == "eps" else "L2 norm"
    return Sheet(
        file_name(KIND, kind, family.name, *([] if family.norm == "eps" else ["l2"]), taken=taken),
        text.plain(f"{title} under {family.name}, by {norm}", 80),
        grid,
        list(dict.fromkeys(line.answers.group for line in lines)),
        _ABOUT[kind],
        records,
        list(records[0]),
    )


def _lines(kind: str, family: Family, answers: Answers) -> list[Line]:
    purifiers = {purifier for attack in family.attacks.values() for purifier in answers.purifiers(attack)}
    found = []
    for purifier in [NONE, *sorted(purifiers, key=natural)]:
        robust = {bound: _share(kind, answers, attack, purifier) for bound, attack in family.attacks.items()}
        if any(share and share.n for share in robust.values()):
            found.append(Line(answers, purifier, _share(kind, answers, "clean", purifier), robust))
    return found


def _share(kind: str, answers: Answers, attack: str, purifier: str) -> Share:
    if kind == "agreement":
        if (attack, purifier) == ("clean", NONE):
            return None
        agreement = answers.agreement(attack, purifier)
        return agreement.top1 if agreement else None
    correctness = answers.correctness(attack, purifier)
    return correctness.topk if correctness else None


def _shown(share: Share) -> str:
    return f"{tables.bounds(share)} {share.k}/{share.n}" if share is not None and share.n else "–"


def _records(family: Family, line: Line) -> list[dict[str, Value]]:
    """Bound 0 is the clean images."""
    about: dict[str, Value] = {name: getattr(line.answers.group, name) for name in ABOUT}
    norm = "linf" if family.norm == "eps" else "l2"
    return [
        {
            **about,
            "attack": family.name,
            "purifier": line.purifier,
            "norm": norm,
            "bound": bound,
            **tables.share_cells("share", share),
        }
        for bound, share in ((0.0, line.standard), *line.robust.items())
    ]
