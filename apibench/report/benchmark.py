"""The paper's tables: providers and purifiers, standard and robust, one for each attack and epsilon.

*Standard* is of clean images, *robust* of adversarial ones, both purified.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np
import numpy.typing as npt

from apibench import metrics, text
from apibench.grid import Grid, Value
from apibench.labels.match import RULE_VERSION
from apibench.report import classes, tables
from apibench.report.compare import ABOUT, NONE, Answers, K, Outcomes, natural
from apibench.report.frames import epsilon
from apibench.report.sheets import Sheet, file_name, naming

MARKED = (
    "In bold: the highest value of a provider's rows in a column, only where it differs from every second highest (exact "
    "McNemar on the same images, corrected by Holm for all pairs of rows of every provider and column of this table, 5 %)."
)
COUNTED = (
    "*Empty*, *refused* and *failed* replies are those of clean + adversarial images; the first two count as wrong, the last are "
    "left out."
)
INTERVALS = "In per cent, in brackets Wilson's 95 % interval."

SUCCESS = "attack_success"
Flags = Mapping[str, bool | None]


@dataclass(frozen=True)
class Entry:
    """What a cell says. ``flags``: what each image got, where rows are compared by it; ``fraction``: k/n for an interval."""

    share: metrics.Proportion | None
    flags: Flags | None = None
    fraction: bool = False

    @property
    def shown(self) -> str:
        if self.share is None or not self.share.n:
            return "–"
        if self.fraction:
            return f"{text.percent(self.share.value)} ({self.share.k}/{self.share.n})"
        return tables.bounds(self.share)


@dataclass(frozen=True)
class Line:
    """A row: one purifier at one provider. ``entries`` by column; ``n``: the adversarial images in its shares."""

    answers: Answers
    purifier: str
    entries: dict[str, Entry]
    n: int
    standard: Outcomes
    robust: Outcomes

    @property
    def replies(self) -> list[str]:
        """Empty, refused and failed ones, of clean + adversarial images."""
        kinds = ("empty", "rejected", "failed")
        return [f"{getattr(self.standard, kind)}+{getattr(self.robust, kind)}" for kind in kinds]


def sheets(groups: Sequence[Answers]) -> list[Sheet]:
    """All of them, attack by attack."""
    found: list[Sheet] = []
    for attack in sorted({attack for group in groups for attack in group.attacks}, key=natural):
        asked = [group for group in groups if attack in group.attacks]
        taken = {sheet.name for sheet in found}
        found += filter(None, [_agreement(asked, attack, taken), _correctness(asked, attack, taken)])
        for group in asked:
            found += filter(None, [classes.sheet(group, attack, {sheet.name for sheet in found})])
    return found


def _agreement(groups: Sequence[Answers], attack: str, taken: Collection[str]) -> Sheet | None:
    lines = []
    for answers in groups:
        for purifier in [NONE, *answers.purifiers(attack)]:
            robust = answers.agreement(attack, purifier)
            if robust is None or not robust.flags:
                continue
            clean = answers.agreement("clean", purifier) if purifier != NONE else None
            entries = {
                "standard": Entry(clean.top1, clean.flags) if clean else Entry(None),
                "robust": Entry(robust.top1, robust.flags),
            }
            lines.append(_line(answers, attack, purifier, entries, robust.top1.n))
    about = (
        "Agreement: the share of images whose first label is the one that the same provider gave the clean image as it is. "
        "*Standard*: of clean images, purified (without a purifier it is 100 by definition). *Robust*: of *n* adversarial "
        f"images, purified. {INTERVALS} {COUNTED}"
    )
    columns = [("standard", "Agreement", "standard"), ("robust", "Agreement", "robust")]
    name = file_name("agreement", attack, taken=taken)
    return _sheet(name, f"Agreement under {attack}", lines, attack, columns, about)


def _correctness(groups: Sequence[Answers], attack: str, taken: Collection[str]) -> Sheet | None:
    lines = []
    for answers in groups:
        for purifier in [NONE, *answers.purifiers(attack)]:
            clean, robust = answers.correctness("clean", purifier), answers.correctness(attack, purifier)
            if robust is None:
                continue
            entries = {
                f"standard_correct{k}": Entry(share, clean.flags[k] if clean else None)
                for k, share in ((1, clean.top1 if clean else None), (K, clean.topk if clean else None))
            }
            entries |= {
                f"robust_correct{k}": Entry(s, robust.flags[k]) for k, s in ((1, robust.top1), (K, robust.topk))
            }
            entries |= {
                f"{SUCCESS}{k}": Entry(share, fraction=True)
                for k, share in ((1, robust.success1), (K, robust.successk))
            }
            lines.append(_line(answers, attack, purifier, entries, robust.top1.n))
    about = (
        f"Correct: one of the first 1 or {K} labels names the image's ImageNet class, or a WordNet ancestor specific enough "
        f"(label map, version {RULE_VERSION}). *Standard*: of clean images, purified. *Robust*: of *n* adversarial images, "
        "purified. *Attack success*: of the images that are correct when clean and not purified (their number is the "
        f"denominator), the share that is not when attacked and purified. {INTERVALS} {COUNTED}"
    )
    columns = [
        *((f"{kind}_correct{k}", f"Correct, top {k}", kind) for k in (1, K) for kind in ("standard", "robust")),
        *((f"{SUCCESS}{k}", "Attack success", f"top {k}") for k in (1, K)),
    ]
    name = file_name("correct", attack, taken=taken)
    return _sheet(name, f"Correctness under {attack}", lines, attack, columns, about)


def _line(answers: Answers, attack: str, purifier: str, entries: dict[str, Entry], n: int) -> Line:
    return Line(answers, purifier, entries, n, answers.outcomes("clean", purifier), answers.outcomes(attack, purifier))


def _sheet(
    name: str, title: str, lines: Sequence[Line], attack: str, columns: Sequence[tuple[str, str, str]], about: str
) -> Sheet | None:
    """``columns``: the key of an entry, what it shares with its neighbours, and its heading."""
    if not lines:
        return None
    who = naming(line.answers.group for line in lines)
    first = [*who.head(), "Purifier"]
    keys = [key for key, _, _ in columns]
    best = significant_best(lines, keys)
    grid = Grid(
        head=[*first, *(heading for _, _, heading in columns), "n", "Empty", "Refused", "Failed"],
        above=[*[""] * len(first), *(above for _, above, _ in columns), *[""] * 4],
        body=[
            [
                *who.names(line.answers.group),
                text.plain(line.purifier, 40),
                *(line.entries[key].shown for key in keys),
                str(line.n),
                *line.replies,
            ]
            for line in lines
        ],
        words=len(first),
        right=range(len(first), len(first) + len(keys) + 4),
        best=frozenset((row, len(first) + keys.index(key)) for row, key in best),
    )
    records = [_record(line, attack, {key for row, key in best if row == number}) for number, line in enumerate(lines)]
    groups = list(dict.fromkeys(line.answers.group for line in lines))
    return Sheet(name, text.plain(title, 80), grid, groups, f"{about} {MARKED}", records, list(records[0]))


def _record(line: Line, attack: str, best: Collection[str]) -> dict[str, Value]:
    record: dict[str, Value] = {name: getattr(line.answers.group, name) for name in ABOUT}
    record |= {"attack": attack, "epsilon": epsilon(attack), "purifier": line.purifier}
    for key, entry in line.entries.items():
        record |= tables.share_cells(key, entry.share)
        if not key.startswith(SUCCESS):
            record[f"{key}_best"] = int(key in best)
    for kind in ("asked", "empty", "rejected", "failed"):
        record |= {f"clean_{kind}": getattr(line.standard, kind), f"attacked_{kind}": getattr(line.robust, kind)}
    return record


# --- which values are marked ---


def significant_best(lines: Sequence[Line], keys: Sequence[str]) -> set[tuple[int, str]]:
    """The rows and columns of values that are the highest of their provider, and significantly above the second highest.

    Of several that are the second highest, above each. Which two rows are the highest is seen in the data, so the family
    that is corrected for has every pair of rows.
    """
    pairs: dict[tuple[int, int, str], metrics.PairedCounts] = {}
    blocks: list[tuple[str, list[int]]] = []
    for key in keys:
        for _, members in groupby(range(len(lines)), key=lambda row: lines[row].answers):
            rows = [row for row in members if lines[row].entries[key].flags]
            blocks.append((key, rows))
            codes = _codes([lines[row].entries[key].flags or {} for row in rows])
            for one, other in combinations(range(len(rows)), 2):
                pairs[rows[one], rows[other], key] = _paired(codes[one], codes[other])
    adjusted = dict(zip(pairs, metrics.holm([metrics.mcnemar_p(counts) for counts in pairs.values()]), strict=True))
    found = set()
    for key, rows in blocks:
        shares = {
            row: share.value for row in rows if (share := lines[row].entries[key].share) and share.value is not None
        }
        if len(shares) < 2:
            continue
        highest = max(shares, key=lambda row: (shares[row], -row))
        # Of a tie for the second place no row may be chosen by its place in the table: all of them have to be behind.
        second = max(value for row, value in shares.items() if row != highest)
        rivals = [row for row, value in shares.items() if row != highest and value == second]
        if all(_ahead(highest, row, key, pairs, adjusted) for row in rivals):
            found.add((highest, key))
    return found


def _ahead(
    row: int,
    other: int,
    key: str,
    pairs: Mapping[tuple[int, int, str], metrics.PairedCounts],
    adjusted: Mapping[tuple[int, int, str], float],
) -> bool:
    """Whether a row is significantly above another one, on the images of which both are known."""
    pair = (min(row, other), max(row, other), key)
    counts = pairs[pair]
    gain = counts.before_only - counts.after_only if row < other else counts.after_only - counts.before_only
    return gain > 0 and adjusted[pair] < metrics.ALPHA


def _codes(flags: Sequence[Flags]) -> npt.NDArray[np.int8]:
    """(rows, images): 1 and 0, and -1 where nothing is known."""
    sources = {source: place for place, source in enumerate(sorted({source for one in flags for source in one}))}
    codes = np.full((len(flags), len(sources)), -1, dtype=np.int8)
    for row, one in enumerate(flags):
        for source, flag in one.items():
            codes[row, sources[source]] = -1 if flag is None else int(flag)
    return codes


def _paired(before: npt.NDArray[np.int8], after: npt.NDArray[np.int8]) -> metrics.PairedCounts:
    known = (before >= 0) & (after >= 0)
    of = np.bincount(2 * before[known] + after[known], minlength=4)
    return metrics.PairedCounts(both=int(of[3]), after_only=int(of[1]), before_only=int(of[2]), neither=int(of[0]))
