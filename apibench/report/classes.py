"""Agreement and correctness by the ImageNet class that photographs were given."""

from __future__ import annotations

from collections.abc import Collection

from apibench import metrics, text
from apibench.grid import Grid, Value
from apibench.labels import vocabulary
from apibench.labels.match import RULE_VERSION
from apibench.report import tables
from apibench.report.compare import ABOUT, NONE, Answers, K
from apibench.report.frames import epsilon
from apibench.report.sheets import Sheet, file_name

MOST_CLASSES = 40  # rows of a table that is for people; its CSV has all
_NOTHING = (metrics.Proportion(0, 0), metrics.Proportion(0, 0))


def sheet(answers: Answers, attack: str, taken: Collection[str]) -> Sheet | None:
    """One provider's answers under one attack, purifiers side by side; None where no photograph was given a class."""
    purifiers = [p for p in [NONE, *answers.purifiers(attack)] if (attack, p) in answers.by_variant]
    counted = {purifier: _of_classes(answers, attack, purifier) for purifier in purifiers}
    found = sorted({index for one in counted.values() for index in one})
    if not found:
        return None
    names = vocabulary().classes

    def lost(index: int) -> tuple[int, int]:
        share = counted[purifiers[0]].get(index, _NOTHING)[0]
        return share.k - share.n, index

    shown = sorted(found, key=lost)[:MOST_CLASSES]
    heads = ["as it is" if purifier == NONE else short(purifier) for purifier in purifiers]
    grid = Grid(
        head=["Class", *heads, *heads],
        above=["", *["Agreement"] * len(heads), *[f"Correct, top {K}"] * len(heads)],
        body=[
            [
                names[index].name,
                *(_fraction(counted[p].get(index, _NOTHING)[part]) for part in (0, 1) for p in purifiers),
            ]
            for index in shown
        ],
        words=1,
        right=range(1, 1 + 2 * len(heads)),
    )
    group = answers.group
    records: list[dict[str, Value]] = [
        {
            **{name: getattr(group, name) for name in ABOUT},
            "attack": attack,
            "epsilon": epsilon(attack),
            "purifier": purifier,
            "class": index,
            "class_name": names[index].name,
            **tables.share_cells("robust", shares[0]),
            **tables.share_cells(f"robust_correct{K}", shares[1]),
        }
        for purifier in purifiers
        for index, shares in sorted(counted[purifier].items())
    ]
    few = f"the {MOST_CLASSES} of {len(found)} classes" if len(found) > MOST_CLASSES else f"{len(found)} classes"
    about = (
        f"Adversarial images by the ImageNet class of the photograph, as they are and purified: of so many, how many have the "
        f"provider's own clean label first (*agreement*), and how many name the class among the first {K} (*correct*; label map, "
        f"version {RULE_VERSION}). Shown are {few}, first those that lost the most labels; the CSV has all, with intervals. So "
        "few images of a class say little of it alone."
    )
    who = f"{group.title} ({group.origin}), {group.answered_by}, campaign {group.campaign}"
    chosen = "" if group.settings in ("", "{}") else f", settings {group.settings}"
    title = text.plain(f"{short(attack)} by class: {who}{chosen}", 300)
    return Sheet(
        file_name("class", attack, group.provider, taken=taken), title, grid, [group], about, records, list(records[0])
    )


def short(name: str, most: int = 40) -> str:
    """A name cut in the middle: those of one purifier are often told apart by their last letters, its parameters and passes."""
    line = text.plain(name)
    return line if len(line) <= most else f"{line[: most // 2 - 1]}…{line[most // 2 - most :]}"


def _of_classes(
    answers: Answers, attack: str, purifier: str
) -> dict[int, tuple[metrics.Proportion, metrics.Proportion]]:
    """By class, agreement and correctness at ``K``."""
    agreement, correctness = answers.agreement(attack, purifier), answers.correctness(attack, purifier)
    if correctness is None:
        return {}
    members: dict[int, list[str]] = {}
    for source in correctness.flags[K]:
        members.setdefault(answers.truth[source], []).append(source)
    agrees = agreement.flags if agreement else {}
    return {
        index: (
            metrics.proportion([agrees[source] for source in sources if source in agrees]),
            metrics.proportion([correctness.flags[K][source] for source in sources]),
        )
        for index, sources in members.items()
    }


def _fraction(share: metrics.Proportion) -> str:
    return f"{share.k}/{share.n}" if share.n else "–"
