"""What changed since another campaign, or another store: the same images, asked about again.

Two measurements are compared file by file (by the SHA-256 of what was sent), provider by provider. *Then* is the one that is
compared with, *now* the one that the report is about. An answer is compared with the earlier answer to the same file; agreement
is, as everywhere, with the clean answer of the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apibench import metrics, text
from apibench.errors import ApibenchError
from apibench.grid import Grid, Value
from apibench.labels.match import RULE_VERSION
from apibench.report import compare, frames, tables
from apibench.report.compare import ABOUT, NONE, Answer, Answers, Group, K, natural
from apibench.report.frames import epsilon
from apibench.report.sheets import Sheet

NAME = "against"
ABOUT_SHEET = (
    "The same files, *then* and *now*. *Changed*: the share of images for which the provider's first label, or the set of its "
    "first {k}, is another one now; in brackets Wilson's 95 % interval. *Agreement*: with the clean label of the same time. "
    "*Correct*: one of the first {k} labels names the image's class (label map, version {rule}). Differences are now − then, "
    "in points, paired over images, with Newcombe's 95 % interval; *p*: exact McNemar, corrected by Holm for all tests of this "
    "table. Images that failed on either side are left out."
)


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
class Paired:
    """A share then and now, over the images of which both are known."""

    counts: metrics.PairedCounts

    @property
    def then(self) -> metrics.Proportion:
        return metrics.Proportion(self.counts.both + self.counts.before_only, self.counts.n)

    @property
    def now(self) -> metrics.Proportion:
        return metrics.Proportion(self.counts.both + self.counts.after_only, self.counts.n)


@dataclass(frozen=True)
class Change:
    """One variant at one provider. ``other_files``: images of it that are not the same file on both sides, and left out."""

    then: Side
    now: Side
    attack: str
    purifier: str
    images: int
    other_files: int
    first: metrics.Proportion
    first_k: metrics.Proportion
    agreement: Paired | None
    correct: Paired | None


@dataclass(frozen=True)
class Comparison:
    """``name`` says what is compared with, in plain text; ``store`` and ``campaign`` are that."""

    name: str
    store: Path
    campaign: str
    changes: list[Change]

    @property
    def pairs(self) -> list[tuple[Side, Side]]:
        return list({id(change.now): (change.then, change.now) for change in self.changes}.values())


# --- with what ---


def compare_with(spec: str, store: Path, groups: Sequence[Answers]) -> Comparison:
    """Compare the answers of a report with those that ``spec`` names: STORE, STORE:CAMPAIGN, or a CAMPAIGN of the same store.

    Raises ApibenchError where there is no such thing, it has several campaigns, or nothing in it is of the same files.
    """
    path, campaign = _named(spec, store)
    try:
        read = frames.read(path, campaign)
    except ApibenchError as error:
        raise ApibenchError(f"--against {spec}: {error}") from error
    campaigns = sorted(set(read.outcomes["campaign"]))
    if len(campaigns) > 1:
        names = text.plain(", ".join(campaigns), 200)
        raise ApibenchError(
            f"--against {path}: has several campaigns; name one, as in {path}:{campaigns[0]} (it has: {names})"
        )
    same = path.samefile(store)
    now = [answers for answers in groups if not (same and answers.group.campaign == campaigns[0])]
    if not now:
        raise ApibenchError(f"--against {spec}: the report is about that very campaign; name an earlier one")
    name = f"campaign {text.plain(campaigns[0], 60)}" + ("" if same else f" of {text.plain(path.name, 80)}")
    changes = [
        change
        for then_side, now_side in _matched(compare.answers(read), now, spec)
        for change in _changes(then_side, now_side)
    ]
    if not any(change.images for change in changes):
        raise ApibenchError(
            f"--against {spec}: no image there is one of this report's (the SHA-256 of what was sent differs);\n"
            "ask about the same image sets again, then compare"
        )
    return Comparison(name, path, campaigns[0], [change for change in changes if change.images])


def _named(spec: str, store: Path) -> tuple[Path, str | None]:
    if Path(spec).is_file():
        return Path(spec), None
    head, _, campaign = spec.rpartition(":")
    if head and Path(head).is_file():
        return Path(head), campaign
    if (head and Path(head).suffix == ".sqlite") or Path(spec).suffix == ".sqlite":
        raise ApibenchError(f"--against {spec}: there is no such store")
    return store, spec


def _matched(then: Iterable[Answers], now: Iterable[Answers], spec: str) -> list[tuple[Side, Side]]:
    """Sides of the same provider, origin and settings; of the same provider alone, where each has but one of it left."""
    before, after = _sides(then), _sides(now)
    pairs, left = [], []
    for key, side in after.items():
        if key[1:] in {old[1:] for old in before}:
            pairs.append((next(before[old] for old in before if old[1:] == key[1:]), side))
        else:
            left.append(side)
    used = {id(side) for side, _ in pairs}
    for side in left:
        others = [old for old in before.values() if old.group.provider == side.group.provider and id(old) not in used]
        rivals = [
            new
            for new in left
            if (new.group.provider, new.group.campaign) == (side.group.provider, side.group.campaign)
        ]
        if len(others) == len(rivals) == 1:
            pairs.append((others[0], side))
    if not pairs:
        there, here = (", ".join(sorted({side.group.provider for side in sides.values()})) for sides in (before, after))
        raise ApibenchError(
            f"--against {spec}: no provider with the same origin and settings answered on both sides "
            f"(there: {text.plain(there, 100)}; here: {text.plain(here, 100)})"
        )
    return sorted(pairs, key=lambda pair: pair[1].group)


def _sides(groups: Iterable[Answers]) -> dict[tuple[str, str, str, str], Side]:
    found: dict[tuple[str, str, str, str], Side] = {}
    for answers in groups:
        group = answers.group
        found.setdefault((group.campaign, group.provider, group.origin, group.settings), Side()).groups.append(answers)
    return found


# --- what changed ---


def _changes(then: Side, now: Side) -> list[Change]:
    variants = sorted(
        then.variants & now.variants, key=lambda v: (v[0] != "clean", natural(v[0]), v[1] != NONE, natural(v[1]))
    )
    return [_change(then, now, *variant) for variant in variants]


def _change(then: Side, now: Side, attack: str, purifier: str) -> Change:
    before, after = then.found(attack, purifier), now.found(attack, purifier)
    common = sorted(before.keys() & after.keys())
    same = [source for source in common if before[source][1].sha256 == after[source][1].sha256]

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
        images=len(same),
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


# --- in words, and as a table ---


def sheet(found: Comparison) -> Sheet:
    """The table, its family of tests corrected."""
    naming = tables.Naming(change.now.group for change in found.changes)
    naming.answered_by = (
        False  # a side has the answers of all versions; which, the words above the table and its CSV say
    )
    truth = any(change.correct for change in found.changes)
    p_values = _corrected(found.changes)
    first = [*naming.head(), "Model version", "Attack", "Purifier"]
    of_pair = ["then, %", "now, %", "difference", "p"]
    kinds = [("agreement", "Agreement"), *([("correct", f"Correct, top {K}")] if truth else [])]
    head = [*first, "Images", "first label, %", f"first {K}, %", *(of_pair * len(kinds))]
    grid = Grid(
        head=head,
        above=[*[""] * len(first), "", "Changed", "Changed", *(above for _, above in kinds for _ in of_pair)],
        body=[
            [
                *naming.names(change.now.group),
                _model(change.then, change.now),
                text.plain(change.attack, 40),
                text.plain(change.purifier, 40),
                str(change.images),
                _share(change.first),
                _share(change.first_k),
                *(cell for kind, _ in kinds for cell in _pair_cells(getattr(change, kind), p_values.get((row, kind)))),
            ]
            for row, change in enumerate(found.changes)
        ],
        words=len(first),
        right=range(len(first), len(head)),
    )
    records = [_record(change, row, p_values) for row, change in enumerate(found.changes)]
    groups = list(dict.fromkeys(side.group for pair in found.pairs for side in pair))
    about = ABOUT_SHEET.format(k=K, rule=RULE_VERSION)
    return Sheet(NAME, f"Changes since {found.name}", grid, groups, about, records, list(records[0]))


def in_words(found: Comparison) -> str:
    """A line a provider: whether its model changed, how many clean answers did, and what is significant. Markdown."""
    p_values = _corrected(found.changes)
    lines = []
    for then, now in found.pairs:
        own = [(row, change) for row, change in enumerate(found.changes) if change.now is now]
        parts = [f"{_who(now)}: {_versions(then, now)}."]
        parts += [
            f"The first label of {change.first.k} of {change.first.n} clean images changed."
            for _, change in own
            if (change.attack, change.purifier) == ("clean", NONE)
        ]
        told = [
            said
            for row, change in own
            for kind in ("agreement", "correct")
            if (said := _told(change, kind, p_values.get((row, kind))))
        ]
        parts.append(
            f"Significant: {'; '.join(told)}." if told else "No difference in agreement or correctness is significant."
        )
        other = sum(change.other_files for _, change in own)
        parts += (
            [f"{other} images are not the same file on both sides, or on one only, and are left out."] if other else []
        )
        for name in ("origin", "settings"):
            if getattr(then.group, name) != getattr(now.group, name):
                values = (text.markdown(getattr(side.group, name), 100) for side in (then, now))
                parts.append(f"Mind the {name}: " + " then, ".join(values) + " now.")
        lines.append("- " + " ".join(parts))
    return "\n".join(lines)


def _who(side: Side) -> str:
    return f"{text.markdown(side.group.title)}, campaign {text.markdown(side.group.campaign, 60)}"


def _model(then: Side, now: Side) -> str:
    if not (then.versions_known and now.versions_known):
        return "not known"
    return "same" if then.versions == now.versions else "changed"


def _versions(then: Side, now: Side) -> str:
    said = _model(then, now)
    if said == "not known":
        return "no model version is named on both sides, so whether the vendor changed it is not known"
    if said == "same":
        return f"the same model version ({text.markdown(now.versions, 100)})"
    return (
        f"**the model version changed**, from {text.markdown(then.versions, 100)} to {text.markdown(now.versions, 100)}"
    )


def _told(change: Change, kind: str, p: float | None) -> str:
    paired: Paired | None = getattr(change, kind)
    if paired is None or p is None or p >= metrics.ALPHA:
        return ""
    name = "agreement" if kind == "agreement" else f"correctness (top {K})"
    what = change.attack + ("" if change.purifier == NONE else f" + {change.purifier}")
    return f"{name} of {text.markdown(what, 80)} {_points(paired.counts)}"


def _corrected(changes: Sequence[Change]) -> dict[tuple[int, str], float]:
    """Holm's p of every test of the table, by row and kind."""
    tests = {
        (row, kind): metrics.mcnemar_p(paired.counts)
        for row, change in enumerate(changes)
        for kind, paired in (("agreement", change.agreement), ("correct", change.correct))
        if paired is not None
    }
    return dict(zip(tests, metrics.holm(list(tests.values())), strict=True))


def _share(share: metrics.Proportion) -> str:
    return tables.bounds(share) if share.n else "–"


def _points(counts: metrics.PairedCounts) -> str:
    interval = metrics.newcombe_interval(counts)
    return f"{text.percent(counts.difference)} [{text.percent(interval.low)}, {text.percent(interval.high)}]"


def _pair_cells(paired: Paired | None, p: float | None) -> list[str]:
    if paired is None or p is None:
        return ["–"] * 4
    shares = [text.percent(share.value) for share in (paired.then, paired.now)]
    return [*shares, _points(paired.counts), tables.p_value(p)]


def _record(change: Change, row: int, p_values: dict[tuple[int, str], float]) -> dict[str, Value]:
    record: dict[str, Value] = {}
    for side, name in ((change.then, "then"), (change.now, "now")):
        about = {f"{column}_{name}": getattr(side.group, column) for column in ABOUT if column != "title"}
        record |= {**about, f"model_version_{name}": ", ".join(sorted({g.group.model_version for g in side.groups}))}
    record["model_version"] = _model(change.then, change.now)
    record |= {"attack": change.attack, "epsilon": epsilon(change.attack), "purifier": change.purifier}
    record |= {"images": change.images, "other_files": change.other_files}
    record |= {
        **tables.share_cells("first_changed", change.first),
        **tables.share_cells(f"first{K}_changed", change.first_k),
    }
    for kind, paired in (("agreement", change.agreement), (f"correct{K}", change.correct)):
        interval = metrics.newcombe_interval(paired.counts) if paired else None
        record |= {
            f"{kind}_then": paired.then.value if paired else None,
            f"{kind}_now": paired.now.value if paired else None,
            f"{kind}_n": paired.counts.n if paired else None,
            f"{kind}_gained": paired.counts.after_only if paired else None,
            f"{kind}_lost": paired.counts.before_only if paired else None,
            f"{kind}_difference": paired.counts.difference if paired else None,
            f"{kind}_low": interval.low if interval else None,
            f"{kind}_high": interval.high if interval else None,
            f"{kind}_p": metrics.mcnemar_p(paired.counts) if paired else None,
            f"{kind}_p_holm": p_values.get((row, kind.removesuffix(str(K)))),
        }
    return record
