"""Table and plots of held-out classifiers on adversarial sets, from result files alone: no image, no network, no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apibench import text
from apibench.errors import ApibenchError
from apibench.evaluation import cells, transfer_plots
from apibench.evaluation.cells import CLEAN, display
from apibench.evaluation.comparison import Accuracy
from apibench.evaluation.tables import MEAN, csv_text
from apibench.evaluation.transfer_rates import Study, Success, Variant, Versus
from apibench.grid import Grid, emphasised
from apibench.imageset import write_atomically
from apibench.metrics import Interval

TRANSFER = "transfer.json"  # beside the folder of cells: which of them belong to the report, and what the manifests say
WHITE_BOX = "white-box"
DEFINITIONS = (
    "Accuracy: the share of images whose class is right, in per cent. Attack success: of the images that the classifier has "
    "right when clean, the share that it has wrong under attack; the numbers of images are in parentheses. Target hit, of "
    "attacks with an aim: of the same images, the share for which the class that was aimed at is answered. Intervals are 95 %: "
    "Wilson's for one classifier, a bootstrap over images (10,000, fixed seed) for the mean over classifiers; where all images "
    "are alike it has nothing to vary, and as many as Wilson's upper limit of 0 of *n* are taken to be as far off as can be. "
    "The mean of successes is that of the classifiers' rates, its numbers are sums. Gradients: of one network, an image. The "
    "strongest attack, by its success, comes first among those of its aim; a purified set is a row of its own."
)
LATEX_CAPTION = (
    "Transfer of attacks, in per cent with 95 % intervals (Wilson's; of a mean over classifiers, a bootstrap over images). "
    "*Attack success*: of the images that are right when clean, the share that is wrong under attack."
)
COMPARED = (
    "Attack success less that of *{}*, in points, paired over the images right when clean that both attacks have, with its 95 % "
    "interval: Newcombe's for one classifier, which has McNemar's exact p too, a bootstrap over images for the mean. Below 0 the "
    "attack is the weaker. Neither p nor intervals are corrected for the number of comparisons{}."
)


@dataclass(frozen=True)
class Written:
    """What was written: ``transfer.md``, ``transfer.csv``, ``transfer.tex``, the plots; ``main_table`` is for the terminal."""

    report: Path
    table: Path
    plots: tuple[Path, ...]
    main_table: str


def write(out: Path) -> Written:
    """Make the report of ``out`` from its result files. The same files give the same bytes.

    Raises ApibenchError where there are none, or one cannot be read.
    """
    try:
        run = json.loads((out / TRANSFER).read_text(encoding="utf-8"))
        reference, gradients, wanted = run["reference"], dict(run["gradients"]), list(run["cells"])
        targets = {variant: dict(of_source) for variant, of_source in run["targets"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApibenchError(
            f"{out / TRANSFER}: not readable; run 'apibench evaluate SET...' on this folder again"
        ) from error
    study = Study(cells.read_all(out / "cells", wanted), gradients, reference, targets)
    drawn = []
    for name, svg in transfer_plots.plots(study):
        write_atomically(out / name, svg.encode())
        drawn.append(out / name)
    document = markdown(study, reference)
    if drawn:
        document += "\n## Plots\n\n" + "\n\n".join(f"![{path.stem}]({path.name})" for path in drawn) + "\n"
    write_atomically(out / "transfer.csv", csv_text(*rows(study)).encode())
    write_atomically(out / "transfer.tex", latex(study).encode())
    write_atomically(out / "transfer.md", document.encode())
    return Written(out / "transfer.md", out / "transfer.csv", tuple(drawn), main_table(study))


def main_grid(study: Study) -> Grid:
    """A row a set, over the held-out classifiers, and over all where there is but one."""
    head = ["bound", "attack", "gradients", "n", "accuracy, %", "attack success, %", "target hit, %", WHITE_BOX]
    clean = study.clean(study.held_out)
    body = [["", CLEAN, "–", _n(clean), _accuracy(clean), "–", "–", ""]]
    for bound in _bounds(study.variants):
        for variant in study.ranked(v for v in study.variants if v.bound == bound):
            accuracy = study.accuracy(variant, study.held_out)
            numbers = [_n(accuracy), _accuracy(accuracy), _success(study.success(variant, study.held_out))]
            numbers.append(_success(study.target_hit(variant, study.held_out)))
            warning = WHITE_BOX if study.white_box(variant, *study.held_out) else ""
            body.append([bound or "–", variant.label, _gradients(study, variant), *numbers, warning])
    # Columns that say nothing of any set are left out.
    kept = [place for place, name in enumerate(head) if place < 6 or any(row[place] not in ("", "–") for row in body)]
    named = ["" if head[place] == WHITE_BOX else head[place] for place in kept]
    return Grid(named, [[row[place] for place in kept] for row in body], words=2, right=(2, 3))


def main_table(study: Study) -> str:
    return main_grid(study).markdown()


def latex(study: Study) -> str:
    """The main table for a paper."""
    who = f"Over {', '.join(map(display, study.held_out))}."
    return main_grid(study).latex(f"{emphasised(LATEX_CAPTION)} {text.latex(who)}", "tab:transfer")


def markdown(study: Study, reference: str | None) -> str:
    """The whole document."""
    who = ", ".join(text.markdown(display(name)) for name in study.held_out)
    mean = f"The mean is over {who}." if len(study.held_out) > 1 else f"Over {who}."
    parts = ["# Transfer: accuracy and attack success of classifiers on adversarial images", f"{DEFINITIONS} {mean}"]
    parts += [*_warnings(study), main_table(study)]
    for bound in _bounds(study.variants):
        variants = study.ranked(v for v in study.variants if v.bound == bound)
        parts.append(f"## {text.markdown(bound) if bound else 'Without a bound'}")
        parts += ["### Accuracy", _accuracies(study, variants), "### Attack success"]
        parts.append(_successes(study, variants, study.success))
        aimed = [variant for variant in variants if study.target_hit(variant, study.held_out)]
        parts += ["### Target hit", _successes(study, aimed, study.target_hit)] if aimed else []
        parts += _compared(study, variants, reference)
    return "\n\n".join(parts) + "\n"


def rows(study: Study) -> tuple[list[str], list[list[object]]]:
    """The table for programs, a row a set and classifier, the mean over the held-out ones besides; shares in [0, 1]."""
    head = ["variant", "attack", "norm", "epsilon", "purifier", "classifier", "white_box", "gradients"]
    head += [
        f"{kind}{part}"
        for kind in ("clean_", "")
        for part in ("accuracy", "accuracy_n", "accuracy_low", "accuracy_high")
    ]
    head += ["fooled", "right_when_clean", "success", "success_low", "success_high"]
    head += ["aim", "target_hits", "target_hit_n", "target_hit", "target_hit_low", "target_hit_high"]
    head += ["reference", "difference", "difference_n", "difference_low", "difference_high", "mcnemar_p"]
    body: list[list[object]] = []
    for variant in study.variants:
        gradients = study.gradients.get(variant.name)
        for name, members in _groups(study):
            where: list[Any] = [
                variant.name,
                variant.attack,
                variant.norm,
                "" if variant.epsilon is None else variant.epsilon,
            ]
            where += [
                variant.purified,
                name,
                study.white_box(variant, *members),
                "" if gradients is None else gradients,
            ]
            for accuracy in (study.clean(members, variant), study.accuracy(variant, members)):
                where += (
                    ["", 0, "", ""]
                    if accuracy is None
                    else [_share(accuracy.value), accuracy.n, *_ends(accuracy.interval)]
                )
            success, hit, versus = (
                study.success(variant, members),
                study.target_hit(variant, members),
                study.versus(variant, members),
            )
            where += [*_counted(success), variant.aim, *(_counted(hit) if variant.aim else [""] * 5)]
            where += (
                [""] * 6
                if versus is None
                else [
                    versus.reference.attack,
                    _share(versus.difference),
                    versus.n,
                    *_ends(versus.interval),
                    _p(versus.p),
                ]
            )
            body.append(where)
    return head, body


def _counted(success: Success | None) -> list[object]:
    if success is None:
        return ["", 0, "", "", ""]
    return [success.fooled, success.n, _share(success.value), *_ends(success.interval)]


def _groups(study: Study) -> list[tuple[str, list[str]]]:
    """The columns: the mean over the held-out classifiers, where there are several, and each."""
    mean = [(MEAN, study.held_out)] if len(study.held_out) > 1 else []
    return [*mean, *((name, [name]) for name in study.classifiers)]


def _bounds(variants: Iterable[Variant]) -> list[str]:
    return list(dict.fromkeys(variant.bound for variant in variants))


def _warnings(study: Study) -> list[str]:
    lines = []
    for name in study.classifiers:
        seen = [variant.name for variant in study.variants if study.white_box(variant, name)]
        sure = any(study.surrogate(variant, name) for variant in study.variants)
        if seen:
            which = "every set" if len(seen) == len(study.variants) else text.markdown(", ".join(seen))
            lines.append(
                f"- **{WHITE_BOX}**: {text.markdown(display(name))} {'is' if sure else 'may be the same network as'} a surrogate "
                f"of {which}; its numbers there say nothing of "
                "transfer" + ("." if name in study.held_out else ", and no mean has it in.")
            )
    for attack, failed in study.unreadable.items():
        lines.append(f"- {text.markdown(attack)}: {failed} images could not be read and are left out.")
    return ["\n".join(lines)] if lines else []


def _head(study: Study, *first: str) -> list[str]:
    return [*first, *(name if name == MEAN else text.markdown(display(name)) for name, _ in _groups(study))]


def _accuracies(study: Study, variants: Sequence[Variant]) -> str:
    body = [
        [
            CLEAN,
            "–",
            _n(study.clean(study.held_out)),
            *(_accuracy(study.clean(members)) for _, members in _groups(study)),
        ]
    ]
    for variant in variants:
        n = _n(study.accuracy(variant, study.held_out))
        numbers = [_accuracy(study.accuracy(variant, m)) + _flag(study, variant, m) for _, m in _groups(study)]
        body.append([text.markdown(variant.label), _gradients(study, variant), n, *numbers])
    return text.table(_head(study, "attack", "gradients", "n"), body, right=(1, 2))


def _successes(
    study: Study, variants: Sequence[Variant], share: Callable[[Variant, Sequence[str]], Success | None]
) -> str:
    body = [
        [
            text.markdown(variant.label),
            *(_success(share(variant, m)) + _flag(study, variant, m) for _, m in _groups(study)),
        ]
        for variant in variants
    ]
    return text.table(_head(study, "attack"), body)


def _compared(study: Study, variants: Sequence[Variant], named: str | None) -> list[str]:
    """A table for each reference of a bound: of its own images and those behind each purifier, of each aim."""
    parts: list[str] = []
    for reference in dict.fromkeys(found for v in variants if (found := study.reference(v)) is not None):
        chosen = "" if named else ", nor for the reference being the strongest on these very images"
        others = [v for v in variants if study.reference(v) == reference and v != reference]
        if not others:
            continue
        body = [[text.markdown(v.label), *(_versus(study.versus(v, m)) for _, m in _groups(study))] for v in others]
        parts += [
            f"### Compared with {text.markdown(reference.label)}",
            COMPARED.format(text.markdown(reference.label), chosen),
        ]
        parts.append(text.table(_head(study, "attack"), body))
    if named and not all(study.reference(v) for v in variants if v.bound):
        parts.append(f"Where there is no set of {text.markdown(named)}, nothing is compared.")
    return parts


def _flag(study: Study, variant: Variant, classifiers: Sequence[str]) -> str:
    return f" {WHITE_BOX}" if study.white_box(variant, *classifiers) else ""


def _gradients(study: Study, variant: Variant) -> str:
    found = study.gradients.get(variant.name)
    return "–" if found is None else f"{found:.6g}"


def _n(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else str(accuracy.n)


def _accuracy(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else _percent(accuracy.value, accuracy.interval)


def _success(success: Success | None) -> str:
    return "–" if success is None else f"{_percent(success.value, success.interval)} ({success.fooled}/{success.n})"


def _versus(versus: Versus | None) -> str:
    if versus is None:
        return "–"
    p = "" if versus.p is None else ", p < 0.001" if versus.p < 0.001 else f", p = {versus.p:.2g}"
    return _percent(versus.difference, versus.interval) + p


def _percent(value: float, interval: Interval) -> str:
    return f"{text.percent(value)} [{text.percent(interval.low)}, {text.percent(interval.high)}]"


def _share(value: float) -> str:
    return f"{value:.6f}"


def _ends(interval: Interval) -> list[str]:
    return [_share(interval.low), _share(interval.high)]


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.6g}"
