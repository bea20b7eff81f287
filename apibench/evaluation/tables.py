"""The tables of an evaluation, Markdown for people and CSV for programs, from its cells alone."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

from apibench import text
from apibench.evaluation import comparison
from apibench.evaluation.cells import CLEAN, NONE, display
from apibench.evaluation.comparison import (
    FEWEST,
    STANDARD,
    TOLERANCE,
    TOO_FEW,
    VERDICTS,
    Accuracy,
    Match,
    NoMatch,
    Results,
    Setting,
    Threat,
    known,
)
from apibench.grid import Grid

MEAN = "mean"
DEFINITIONS = (
    "Standard accuracy: the share of clean images, purified, whose class is right. Robust accuracy: that of adversarial "
    "images, purified; an image that the classifier has wrong when clean counts as wrong. Both in per cent over the *n* images "
    "of the attack, with 95 % intervals: Wilson's for one classifier, a bootstrap over images (10,000, fixed seed) for the mean "
    "and for differences. Where all *n* images have the same value, a bootstrap has nothing to vary, and as many images as "
    "Wilson's upper limit of 0 of *n* are taken to be as far off as can be instead. "
    "*Blind*: the attack knows the classifier or a surrogate, not the purifier. *Aware*: it goes through the purifier, by its "
    "gradient or, where there is none, by BPDA; a dash: not run."
)


@dataclass(frozen=True)
class Row:
    """One purifier setting under one attack, for a classifier or their mean. ``aware_by``: the attack of the aware number."""

    attack: str
    setting: Setting
    classifier: str
    standard: Accuracy | None
    blind: Accuracy | None
    aware: Accuracy | None
    aware_by: str | None


def rows(results: Results) -> Iterator[Row]:
    """By attack, setting and classifier, the mean first where there are several."""
    blind = [threat for threat in results.threats if not threat.aware]
    # What was only run aware has a table too, without a blind number.
    only_aware = [Threat(t.attack) for t in results.threats if t.aware and Threat(t.attack) not in blind]
    for threat in [*blind, *only_aware]:
        for setting in results.settings:
            yield from _rows_of(results, threat, setting)


def _rows_of(results: Results, threat: Threat, setting: Setting) -> Iterator[Row]:
    through = _aware_threat(results, threat, setting)
    asked = results.asked(threat, setting)
    of_aware = results.asked(through, setting) if through else []
    groups = [(name, [name]) for name in sorted({*asked, *of_aware})]
    if len(groups) > 1:
        groups.insert(0, (MEAN, [name for name, _ in groups]))
    for name, members in groups:
        by_blind, by_aware = ([m for m in members if m in those] for those in (asked, of_aware))
        blind = results.accuracy(threat, setting, by_blind)
        # A mean over fewer classifiers than beside it would not be comparable.
        aware = results.accuracy(through, setting, by_aware) if through and by_aware == members else None
        # Over the images that were attacked, so that the numbers of a row are of the same ones.
        images = results.shares(threat, setting, by_blind)
        if not blind and through:
            images = results.shares(through, setting, by_aware)
        standard = results.accuracy(STANDARD, setting, members, images)
        yield Row(threat.attack, setting, name, standard, blind, aware, through.attack if through and aware else None)


def _aware_threat(results: Results, threat: Threat, setting: Setting) -> Threat | None:
    """The aware attack to set beside a blind one: the same attack, else another of the same bound."""
    found = [
        other
        for other in results.threats
        if other.aware and other.bound == threat.bound and results.asked(other, setting)
    ]
    return min(found, key=lambda other: (other.attack != threat.attack, other)) if found else None


@dataclass(frozen=True)
class Tables:
    """What all documents are written from, computed once. ``matched``: what :func:`comparison.matched` finds, by threat."""

    results: Results
    reference: str
    rows: Sequence[Row]
    matched: Mapping[Threat, tuple[list[Match], list[NoMatch]]]

    @classmethod
    def of(cls, results: Results, reference: str) -> Tables:
        matched = {threat: comparison.matched(results, threat, reference) for threat in results.threats}
        return cls(results, reference, list(rows(results)), matched)

    @property
    def by_attack(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.attack, []).append(row)
        return found


def markdown(tables: Tables, name: str, notes: Sequence[str], left_out: int = 0) -> str:
    """The whole document, headed by the primary comparison. ``left_out``: results of other recipes that lie beside these."""
    results = tables.results
    parts = [f"# {text.markdown(name)}: standard and robust accuracy", DEFINITIONS]
    if left_out:
        parts.append(f"Left out: {left_out} results in this folder that are of other recipes.")
    parts += _matched_section(tables)
    parts += _aware_section(results)
    parts += ["## All settings", "### clean", standard_grid(results).markdown()]
    for attack, members in tables.by_attack.items():
        parts += [f"### {text.markdown(attack)}", accuracy_grid(members).markdown(), *_caption(members)]
    parts += ["## What was not run", "\n".join(f"- {line}" for line in [*not_run(results), *map(text.markdown, notes)])]
    return "\n\n".join(parts) + "\n"


def standard_grid(results: Results) -> Grid:
    """Standard accuracy over all clean images, a column a classifier."""
    names = results.classifiers
    head = ["purifier", "n", *([MEAN] if len(names) > 1 else []), *map(display, names)]
    body = []
    for setting in results.settings:
        everyone = results.accuracy(STANDARD, setting, names)
        own = [results.accuracy(STANDARD, setting, [name]) for name in names]
        numbers = [everyone, *own] if len(names) > 1 else own
        body.append([setting.label, _count(everyone), *map(_accuracy, numbers)])
    return Grid(head, body, words=1, right=(1,))


def accuracy_grid(members: Iterable[Row]) -> Grid:
    """Standard and robust accuracy under one attack, a row a purifier and classifier."""
    head = ["purifier", "classifier", "n", "standard", "robust, blind", "robust, aware", "n aware"]
    body = [
        [
            row.setting.label,
            row.classifier if row.classifier == MEAN else display(row.classifier),
            _count(row.blind),
            _accuracy(row.standard),
            _accuracy(row.blind),
            _accuracy(row.aware),
            _count(row.aware),
        ]
        for row in members
    ]
    return Grid(head, body, words=2, right=(2, 6))


def _caption(members: Sequence[Row]) -> list[str]:
    by = sorted({row.aware_by for row in members if row.aware_by and row.aware_by != row.attack})
    return [f"The aware column is of {text.markdown(', '.join(by))}, of the same bound."] if by else []


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "–"
    low, high = accuracy.interval.low, accuracy.interval.high
    return f"{text.percent(accuracy.value)} [{text.percent(low)}, {text.percent(high)}]"


def _count(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else str(accuracy.n)


def _matched_section(tables: Tables) -> list[str]:
    results, reference = tables.results, tables.reference
    parts = ["## Robust accuracy at matched standard accuracy"]
    if reference not in results.families:
        return [*parts, f"There is no result of the reference family {text.markdown(reference)}."]
    parts.append(
        f"Each setting of {text.markdown(reference)} beside the setting of every other method whose standard accuracy (mean "
        f"over the classifiers, all clean images) is within {100 * TOLERANCE:g} points of its own; of several, the one of "
        "highest robust accuracy. "
        "Difference: reference − other, in points, paired over images, with the 95 % interval of a bootstrap over images: above "
        f"0 it is *ahead*, below 0 *behind*, and over fewer than {FEWEST} images neither is said (*{TOO_FEW}*). Each classifier: "
        "its difference, Newcombe's interval and McNemar's exact p. matched.csv has every pair."
    )
    for threat, (found, lacking) in tables.matched.items():
        if not found and not lacking:
            continue
        best = comparison.strongest(found)
        parts += [f"### {text.markdown(threat.label)}", *_verdicts(best, reference)]
        if best:
            parts.append(_matched_table(results, best))
        if lacking:
            parts.append("No setting within the tolerance:\n\n" + "\n".join(_lacking(lacking)))
    return parts


def _verdicts(matches: Sequence[Match], reference: str) -> list[str]:
    lines = []
    for family in dict.fromkeys(match.rival.family for match in matches):
        said = [match.verdict for match in matches if match.rival.family == family]
        counted = ", ".join(f"{said.count(word)} {word}" for word in VERDICTS if word != TOO_FEW or word in said)
        other = "no purifier" if family == NONE else family
        lines.append(
            f"- {text.markdown(reference)} beside {text.markdown(other)}, {len(said)} matched settings: {counted}"
        )
    return ["\n".join(lines)] if lines else []


def _matched_table(results: Results, matches: Sequence[Match]) -> str:
    head = ["reference", "other", "n", "standard", "robust", "difference", "each classifier"]
    body = [
        [
            text.markdown(match.reference.label),
            text.markdown(match.rival.label),
            str(match.n),
            f"{text.percent(match.standard[0])} / {text.percent(match.standard[1])}",
            f"{text.percent(match.robust[0])} / {text.percent(match.robust[1])}",
            f"{_points(match.difference)} [{_points(match.interval.low)}, {_points(match.interval.high)}] {match.verdict}",
            "; ".join(
                f"{text.markdown(display(one.classifier))} {_points(one.difference)} "
                f"[{_points(one.interval.low)}, {_points(one.interval.high)}] p {one.p:.2g}"
                for one in comparison.each_classifier(results, match)
            ),
        ]
        for match in matches
    ]
    return text.table(head, body, right=(2,))


def _lacking(lacking: Sequence[NoMatch]) -> list[str]:
    lines = []
    for family in dict.fromkeys(one.family for one in lacking):
        named = [
            f"{text.markdown(one.reference.label)} (nearest {text.markdown(one.nearest.label)}, {_points(one.gap)})"
            for one in lacking
            if one.family == family
        ]
        lines.append(f"- {'no purifier' if family == NONE else text.markdown(family)}: {', '.join(named)}")
    return lines


def _points(share: float) -> str:
    return ("+" if round(1000 * share) > 0 else "") + text.percent(share)


def _aware_section(results: Results) -> list[str]:
    """Aware beside blind on the same images."""
    body = [
        _aware_row(results, threat, setting, classifier)
        for threat in results.threats
        if threat.aware
        for setting in results.settings
        for classifier in results.asked(threat, setting)
    ]
    if not body:
        return []
    head = ["aware attack", "purifier", "classifier", "n", "standard", "robust, blind", "robust, aware", "blind attack"]
    about = (
        "All numbers of a row are over the same images. The blind attack is the same one where it was run, else the one of the "
        "same bound that leaves the least."
    )
    return ["## Purifier-aware beside purifier-blind", about, text.table(head, body, right=(3,))]


def _aware_row(results: Results, threat: Threat, setting: Setting, classifier: str) -> list[str]:
    images = results.shares(threat, setting, [classifier])
    candidates = {
        other: accuracy
        for other in results.threats
        if not other.aware and other.bound == threat.bound
        if (accuracy := results.accuracy(other, setting, [classifier], images)) is not None
    }
    blind = min(candidates, key=lambda t: (t.attack != threat.attack, candidates[t].value, t), default=None)
    return [
        text.markdown(threat.attack),
        text.markdown(setting.label),
        text.markdown(display(classifier)),
        str(len(known(images))),
        _accuracy(results.accuracy(STANDARD, setting, [classifier], images)),
        _accuracy(candidates[blind] if blind else None),
        _accuracy(results.accuracy(threat, setting, [classifier])),
        text.markdown(blind.attack) if blind else "–",
    ]


def not_run(results: Results) -> list[str]:
    """What a reader may look for and not find, a line each."""
    lines = []
    purifiers = [setting for setting in results.settings if setting.family != NONE]
    for bound in sorted({threat.bound for threat in results.threats if not threat.aware}):
        of_bound = [threat for threat in results.threats if threat.aware and threat.bound == bound]
        lacking = [s.label for s in purifiers if not any(results.asked(threat, s) for threat in of_bound)]
        if lacking:
            lines.append(f"purifier-aware, {text.markdown(bound)}: {text.markdown(', '.join(lacking))}")
    for threat in results.threats:
        lines += [f"{text.markdown(threat.label)}: {part}" for part in _partial(results, threat)]
    return lines or ["nothing that the results tell of"]


def _partial(results: Results, threat: Threat) -> list[str]:
    """How a threat fell short of all images and all classifiers."""
    parts = []
    asked = sorted({name for setting in results.settings for name in results.asked(threat, setting)})
    others = [display(name) for name in results.classifiers if name not in asked]
    if others:
        parts.append(f"not on {text.markdown(', '.join(others))}")
    sizes = {
        (len(known(results.shares(threat, setting, [name]))), len(known(results.shares(STANDARD, setting, [name]))))
        for setting in results.settings
        for name in results.asked(threat, setting)
    }
    parts += [f"on {n} of {of} images" for n, of in sorted(sizes) if n < of]
    return parts


# --- CSV ---


def accuracy_csv(tables: Tables) -> str:
    """Every row of the accuracy tables, shares in [0, 1]; the clean images without an attack come first."""
    head = ["attack", "family", "purifier", "passes", "classifier"]
    head += [f"{kind}_{part}" for kind in ("standard", "blind", "aware") for part in ("n", "accuracy", "low", "high")]
    body: list[list[object]] = []
    results = tables.results
    for setting in results.settings:
        asked = results.asked(STANDARD, setting)
        for name, members in [*([(MEAN, asked)] if len(asked) > 1 else []), *((c, [c]) for c in asked)]:
            standard = results.accuracy(STANDARD, setting, members)
            body.append([CLEAN, *_where(setting, name), *_numbers(standard), *_numbers(None), *_numbers(None), ""])
    for row in tables.rows:
        numbers = [*_numbers(row.standard), *_numbers(row.blind), *_numbers(row.aware), row.aware_by or ""]
        body.append([row.attack, *_where(row.setting, row.classifier), *numbers])
    return csv_text([*head, "aware_attack"], body)


def matched_csv(tables: Tables) -> str:
    """Every pair within the tolerance, and for those of the report each classifier; shares in [0, 1]."""
    head = ["attack", "aware", "reference", "rival_family", "rival", "classifier", "n", "standard_reference"]
    head += ["standard_rival", "robust_reference", "robust_rival", "difference", "low", "high", "mcnemar_p"]
    body: list[list[object]] = []
    for threat, (found, _) in tables.matched.items():
        best = comparison.strongest(found)
        for match in found:
            where = [threat.attack, threat.aware, match.reference.label, match.rival.family, match.rival.label]
            of_mean = [*match.standard, *match.robust, match.difference, match.interval.low, match.interval.high]
            body.append([*where, MEAN, match.n, *map(_share, of_mean), ""])
            for one in comparison.each_classifier(tables.results, match) if match in best else []:
                own = [one.difference, one.interval.low, one.interval.high]
                body.append([*where, one.classifier, one.n, "", "", "", "", *map(_share, own), f"{one.p:.6g}"])
    return csv_text(head, body)


def _where(setting: Setting, classifier: str) -> list[object]:
    return [setting.family, setting.purifier, setting.passes, classifier]


def _numbers(accuracy: Accuracy | None) -> list[object]:
    if accuracy is None:
        return ["", "", "", ""]
    return [accuracy.n, *(_share(v) for v in (accuracy.value, accuracy.interval.low, accuracy.interval.high))]


def _share(value: float) -> str:
    return f"{value:.6f}"


def csv_text(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    # Numbers are written as they are: a minus sign of theirs is no formula.
    writer.writerows(
        [c if isinstance(c, bool | int) or _is_number(c) else text.spreadsheet(c) for c in row] for row in body
    )
    return out.getvalue()


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
