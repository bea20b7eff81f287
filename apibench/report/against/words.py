"""What changed, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apibench import metrics, text
from apibench.grid import Grid, Value
from apibench.labels.match import RULE_VERSION
from apibench.report import tables
from apibench.report.against.changes import FEWEST, Change, Paired
from apibench.report.against.comparison import Comparison
from apibench.report.against.sides import Side, name, settings_that_differ
from apibench.report.compare import ABOUT, K
from apibench.report.frames import epsilon
from apibench.report.sheets import Sheet

NAME = "against"
ABOUT_SHEET = (
    "The same files, *then* and *now*. *Changed*: the share of images for which the provider's first label, or the set of its "
    "first {k}, is another one now; in brackets Wilson's 95 % interval. *Agreement*: with the clean label of the same time. "
    "*Correct*: one of the first {k} labels names the image's class, the same class for both times (label map, version {rule}). "
    "Differences are now − then, in points, paired over images, with Newcombe's 95 % interval; *p*: exact McNemar, corrected by "
    "Holm for all tests of this table; *not tested*: it differs for no image, or there are fewer than {fewest}. Images that "
    "failed on either side are left out."
)
KINDS = {"agreement": "agreement", "correct": f"correctness (top {K})"}  # the fields of Change that are tested

Tests = dict[tuple[int, str], float]  # Holm's p, by row and kind


def sheet(found: Comparison) -> Sheet:
    """The table, its family of tests corrected."""
    naming = tables.Naming(change.now.group for change in found.changes)
    # A side has the answers of all versions; which, the words above the table and its CSV say.
    naming.answered_by = False
    truth = any(change.correct for change in found.changes)
    p_values = _tested(found.changes)
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
    about = ABOUT_SHEET.format(k=K, rule=RULE_VERSION, fewest=FEWEST)
    notes = [
        *(
            f"Other settings: {name(now.group, now.group.campaign)}: {differ}."
            for then, now in found.pairs
            if (differ := settings_that_differ(then, now))
        ),
        *_notes(found),
    ]
    return Sheet(NAME, f"Changes since {found.name}", grid, groups, about, records, list(records[0]), notes)


def in_words(found: Comparison) -> str:
    """A line a provider: whether its model changed, how many clean answers did, and what is significant. Markdown.

    After them, what is not compared, and of how many photographs the class was another one then.
    """
    p_values = _tested(found.changes)
    lines = []
    for then, now in found.pairs:
        own = {row: change for row, change in enumerate(found.changes) if change.now is now}
        parts = [f"{text.markdown(name(now.group, now.group.campaign))}: {_versions(then, now)}."]
        parts += [
            f"The first label of {change.first.k} of {change.first.n} clean images changed."
            for change in own.values()
            if change.is_clean and change.first.n
        ]
        parts += _significant(own, p_values)
        if untested := "; ".join(_untested(list(own.values()))):
            parts.append(f"Not tested: {untested}.")
        if other := sum(change.other_files for change in own.values()):
            parts.append(f"{other} images are not the same file on both sides, or on one only, and are left out.")
        if differ := settings_that_differ(then, now):
            parts.append(f"Mind the settings, which may be why: {text.markdown(differ)}.")
        lines.append(" ".join(parts))
    return "\n".join(f"- {line}" for line in [*lines, *map(text.markdown, _notes(found))])


def _notes(found: Comparison) -> list[str]:
    """What holds for the whole comparison. Plain text."""
    notes = []
    if found.relabelled:
        notes.append(
            f"Then and now are judged by this report's classes; the store of then has another class for {found.relabelled} of "
            "the photographs."
        )
    if found.apart:
        notes.append("Not compared: " + "; ".join(f"{one.what} ({one.why})" for one in found.apart) + ".")
    return notes


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


# --- the tests ---


def _tested(changes: Sequence[Change]) -> Tests:
    """Holm's p of every test of the table.

    What cannot be tested is none: that is decided by how many images there are, and how many differ, not by which way they do.
    """
    tests = {
        (row, kind): metrics.mcnemar_p(paired.counts)
        for row, change in enumerate(changes)
        for kind in KINDS
        if isinstance(paired := getattr(change, kind), Paired) and paired.tested
    }
    return dict(zip(tests, metrics.holm(list(tests.values())), strict=True))


def _significant(own: dict[int, Change], p_values: Tests) -> list[str]:
    """The differences at one provider that are, of those tested. Nothing where none was tested. Markdown."""
    tests = {(row, kind): p for (row, kind), p in p_values.items() if row in own}
    told = [_told(own[row], kind) for (row, kind), p in tests.items() if p < metrics.ALPHA]
    return [f"Significant, of {len(tests)} tested: {'; '.join(told) or 'no difference'}."] if tests else []


def _told(change: Change, kind: str) -> str:
    paired: Paired = getattr(change, kind)
    interval = metrics.newcombe_interval(paired.counts)
    return (
        f"{KINDS[kind]} of {text.markdown(change.variant)} by {_signed(paired.counts.difference)} points "
        f"({text.percent(paired.then.value)} to {text.percent(paired.now.value)} %), "
        f"95 % interval {_signed(interval.low)} to {_signed(interval.high)}"
    )


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + text.percent(value)


def _untested(own: Sequence[Change]) -> Iterator[str]:
    """What at one provider is not tested, and why: all variants of a kind and reason at once. Markdown."""
    for kind, title in KINDS.items():
        asked = [change for change in own if not (kind == "agreement" and change.is_clean)]
        reasons: dict[str, list[str]] = {}
        for change in asked:
            if why := _why_untested(change, kind):
                reasons.setdefault(why, []).append(text.markdown(change.variant))
        for why, variants in reasons.items():
            which = "" if len(variants) == len(asked) else f" of {', '.join(variants)}"
            yield f"{title}{which} ({why})"


def _why_untested(change: Change, kind: str) -> str:
    paired: Paired | None = getattr(change, kind)
    if paired is not None:
        if paired.counts.n < FEWEST:
            return f"fewer than {FEWEST} images show nothing"
        return "" if paired.differ else f"no image's {KINDS[kind].partition(' ')[0]} differs"
    if kind == "correct" and change.now.groups[0].truth.keys().isdisjoint(change.sources):
        return "no photograph was given its class"
    return "not known of any image on both sides"


# --- cells ---


def _share(share: metrics.Proportion) -> str:
    return tables.bounds(share) if share.n else "–"


def _points(counts: metrics.PairedCounts) -> str:
    interval = metrics.newcombe_interval(counts)
    return f"{text.percent(counts.difference)} [{text.percent(interval.low)}, {text.percent(interval.high)}]"


def _pair_cells(paired: Paired | None, p: float | None) -> list[str]:
    if paired is None:
        return ["–"] * 4
    shares = [text.percent(share.value) for share in (paired.then, paired.now)]
    return [*shares, _points(paired.counts), "not tested" if p is None else tables.p_value(p)]


def _record(change: Change, row: int, p_values: Tests) -> dict[str, Value]:
    record: dict[str, Value] = {}
    for side, when in ((change.then, "then"), (change.now, "now")):
        about = {f"{column}_{when}": getattr(side.group, column) for column in ABOUT if column != "title"}
        record |= {**about, f"model_version_{when}": ", ".join(sorted({g.group.model_version for g in side.groups}))}
    record["model_version"] = _model(change.then, change.now)
    record |= {"attack": change.attack, "epsilon": epsilon(change.attack), "purifier": change.purifier}
    record |= {"images": change.images, "other_files": change.other_files}
    record |= {
        **tables.share_cells("first_changed", change.first),
        **tables.share_cells(f"first{K}_changed", change.first_k),
    }
    for kind, column in (("agreement", "agreement"), ("correct", f"correct{K}")):
        paired: Paired | None = getattr(change, kind)
        interval = metrics.newcombe_interval(paired.counts) if paired else None
        record |= {
            f"{column}_then": paired.then.value if paired else None,
            f"{column}_now": paired.now.value if paired else None,
            f"{column}_n": paired.counts.n if paired else None,
            f"{column}_gained": paired.counts.after_only if paired else None,
            f"{column}_lost": paired.counts.before_only if paired else None,
            f"{column}_difference": paired.counts.difference if paired else None,
            f"{column}_low": interval.low if interval else None,
            f"{column}_high": interval.high if interval else None,
            f"{column}_p": metrics.mcnemar_p(paired.counts) if paired and paired.tested else None,
            f"{column}_p_holm": p_values.get((row, kind)),
        }
    return record
