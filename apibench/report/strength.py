"""Agreement and correctness by the attack's strength: what each epsilon leaves, in one table an attack."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apibench import metrics, text
from apibench.grid import Grid, Value
from apibench.labels.match import RULE_VERSION
from apibench.report import tables
from apibench.report.compare import ABOUT, NONE, Answers, K, natural
from apibench.report.frames import epsilon
from apibench.report.sheets import Sheet, file_name, naming

KIND = "strength"
Share = metrics.Proportion | None

_READING = (
    "*Standard*: of clean images, purified. The others: of adversarial images of that epsilon (in levels of 255), purified. In "
    "per cent, in brackets Wilson's 95 % interval. The tables of each epsilon have the tests and what was left out."
)
_ABOUT = {
    "agreement": "Agreement: the share of images whose first label is the one that the same provider gave the clean image as it "
    f"is (of clean images, without a purifier, 100 by definition). {_READING}",
    "correct": f"Correct: one of the first {K} labels names the image's ImageNet class, or a WordNet ancestor specific enough "
    f"(label map, version {RULE_VERSION}). {_READING}",
}


@dataclass(frozen=True)
class Line:
    """A row: one purifier at one provider. ``robust``: by epsilon."""

    answers: Answers
    purifier: str
    standard: Share
    robust: dict[int, Share]


def sheets(groups: Sequence[Answers]) -> list[Sheet]:
    """Of each attack that was made at more than one epsilon."""
    families: dict[str, set[int]] = {}
    for attack in {attack for group in groups for attack in group.attacks}:
        if (bound := epsilon(attack)) is not None:
            families.setdefault(_family(attack), set()).add(bound)
    found: list[Sheet] = []
    for family in sorted(families, key=natural):
        if len(families[family]) > 1:
            for kind in _ABOUT:
                taken = {sheet.name for sheet in found}
                found += filter(None, [_sheet(kind, family, sorted(families[family]), groups, taken)])
    return found


def _family(attack: str) -> str:
    return attack.rpartition("/")[0]


def _sheet(
    kind: str, family: str, bounds: Sequence[int], groups: Sequence[Answers], taken: Collection[str]
) -> Sheet | None:
    lines = [line for group in groups for line in _lines(kind, family, bounds, group)]
    if not lines:
        return None
    who = naming(line.answers.group for line in lines)
    first = [*who.head(), "Purifier"]
    grid = Grid(
        head=[*first, "standard", *(f"epsilon {bound}" for bound in bounds)],
        body=[
            [
                *who.names(line.answers.group),
                text.plain(line.purifier, 40),
                *(_shown(share) for share in (line.standard, *(line.robust.get(bound) for bound in bounds))),
            ]
            for line in lines
        ],
        words=len(first),
        right=range(len(first), len(first) + 1 + len(bounds)),
    )
    records = [record for line in lines for record in _records(family, line)]
    title = {"agreement": "Agreement", "correct": f"Correctness (top {K})"}[kind]
    return Sheet(
        file_name(KIND, kind, family, taken=taken),
        text.plain(f"{title} under {family}, by epsilon", 80),
        grid,
        list(dict.fromkeys(line.answers.group for line in lines)),
        _ABOUT[kind],
        records,
        list(records[0]),
    )


def _lines(kind: str, family: str, bounds: Sequence[int], answers: Answers) -> list[Line]:
    attacks = {bound: f"{family}/eps{bound}" for bound in bounds}
    purifiers = {purifier for attack in attacks.values() for purifier in answers.purifiers(attack)}
    found = []
    for purifier in [NONE, *sorted(purifiers, key=natural)]:
        robust = {bound: _share(kind, answers, attack, purifier) for bound, attack in attacks.items()}
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
    return tables.bounds(share) if share is not None and share.n else "–"


def _records(family: str, line: Line) -> list[dict[str, Value]]:
    """Epsilon 0 is the clean images."""
    about: dict[str, Value] = {name: getattr(line.answers.group, name) for name in ABOUT}
    return [
        {
            **about,
            "attack": family,
            "purifier": line.purifier,
            "epsilon": bound,
            **tables.share_cells("share", share),
        }
        for bound, share in ((0, line.standard), *line.robust.items())
    ]
