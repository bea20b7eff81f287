"""``apibench tune``: which setting of each purifier, chosen on images that are kept for choosing, with the same budget for each.

A family is a method. Every family, the baselines included, tries as many settings (fewer only where a method has no more: bit
depth has seven). Those of a method without weights are spread evenly over its *grid*, which goes from mild to strong; a method
with weights tries each of its files with one pass, then each with two, and so on, until they are spent.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from apibench import text
from apibench.errors import ApibenchError
from apibench.evaluation import cells, plots
from apibench.evaluation.cells import CLEAN, NONE, display
from apibench.evaluation.comparison import NOTHING, STANDARD, TOLERANCE, Accuracy, Results, Setting, Threat, matching
from apibench.imageset import ImageSet, write_atomically

if TYPE_CHECKING:
    from apibench.evaluation.measure import Unit
    from apibench.purifiers.contract import Purifier

Objective = Literal["cost", "matched"]
Trial = tuple[str, int]  # purifier, passes

MOST = 24  # settings a family can be given
BUDGET = 12
MAX_COST = 0.05  # of standard accuracy, as a share


def _each(kind: str, values: Sequence[float | str]) -> tuple[Trial, ...]:
    return tuple((f"{kind}:{value}", 1) for value in values)


def _by(strength: Callable[[list[float], int], float], trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """From mild to strong. ``strength``: of the numbers after the colon and the passes."""
    return tuple(
        sorted(trials, key=lambda trial: strength([float(n) for n in trial[0].partition(":")[2].split(",")], trial[1]))
    )


# The kernel is wide enough for its sigma.
_GAUSSIAN = {
    "3,0.4": (1,),
    "3,0.5": (1, 2),
    "3,0.6": (1, 2),
    "3,0.8": (1,),
    "5,0.8": (1, 2, 3, 4),
    "5,1": (1, 2, 3, 4, 6, 8, 10),
    "7,1.5": (1, 2, 4, 8),
    "11,2": (1, 2, 4),
}
_COLOURS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
_PASSES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44, 48)
GRIDS: Mapping[str, tuple[Trial, ...]] = {
    "gaussian": _by(
        lambda values, passes: values[1] ** 2 * passes,
        ((f"gaussian:{argument}", count) for argument, counts in _GAUSSIAN.items() for count in counts),
    ),
    "jpeg": _each(
        "jpeg", (95, 92, 90, 87, 85, 82, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 17, 15, 12, 10, 5)
    ),
    "bits": _each("bits", (7, 6, 5, 4, 3, 2, 1)),
    "median": _by(
        lambda values, passes: (values[0] - 1) ** 2 * passes,
        ((f"median:{size}", count) for size, count in product((3, 5, 7, 9), (1, 2, 3, 4, 6, 8))),
    ),
    "bilateral": _by(
        lambda values, _: values[1] * values[2],
        ((f"bilateral:{size},{c},{s}", 1) for size, s in ((5, 1), (5, 2), (9, 2), (9, 3)) for c in _COLOURS),
    ),
    "tv": _each("tv", [round(0.01 * 1.2**i, 4) for i in range(MOST)]),
    "nlm": _each("nlm", [round(0.01 * 1.15**i, 4) for i in range(MOST)]),
    "wavelet": _each("wavelet", [round(0.01 * 1.17**i, 4) for i in range(MOST)]),
    "crop-resize": _each("crop-resize", [round(0.98 - 0.02 * i, 2) for i in range(MOST)]),
    "resize-pad": _each("resize-pad", [round(0.98 - 0.02 * i, 2) for i in range(MOST)]),
}
WEIGHTED = ("ncis", "ncis-noise", "ncis-affine", "bsn")  # their grid: each file of weights × passes


def families() -> list[str]:
    return [*WEIGHTED, *GRIDS]


def settings(family: str, weights: Sequence[Path] = (), budget: int = BUDGET) -> list[Trial]:
    """What a family tries: at most ``budget`` of its grid, the ends and evenly between, in the grid's order.

    A family of ``WEIGHTED`` has no ends to go between: each file of ``weights`` (else the one that comes with apibench) is
    tried with one pass, then each with two, and so on, as far as ``budget`` goes. Raises ApibenchError for a family that there
    is not.
    """
    if family in WEIGHTED:
        # A plus in a relative path's first folder would end its part of a chain.
        names = [f"{family}:{'./' * ('+' in str(path) and not path.is_absolute())}{path}" for path in weights]
        names = names or [family]
        return [(name, passes) for passes in _PASSES for name in names][:budget]
    if family not in GRIDS:
        raise ApibenchError(f"{family}: no such family to tune; there are {', '.join(families())}")
    if weights:
        raise ApibenchError(f"--weights {family}=...: {family} has no weights; there are {', '.join(WEIGHTED)}")
    grid = GRIDS[family]
    if budget >= len(grid):
        return list(grid)
    if budget == 1:
        return [grid[len(grid) // 2]]
    return [grid[round(i * (len(grid) - 1) / (budget - 1))] for i in range(budget)]


def parse_weights(pairs: Sequence[str]) -> dict[str, list[Path]]:
    """``FAMILY=FILE``, repeated. Raises ApibenchError for anything else, and for a file that is not there."""
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        family, equals, name = pair.partition("=")
        if not equals or not name or family not in families():
            raise ApibenchError(f"--weights {pair}: write FAMILY=FILE.safetensors, with one of {', '.join(WEIGHTED)}")
        path = Path(name).expanduser()
        if not path.is_file():
            raise ApibenchError(f"--weights {pair}: no file {path}")
        found.setdefault(family, []).append(path)
    return found


# --- choosing ---


@dataclass(frozen=True)
class Choice:
    """What a family got. ``setting`` is None where none meets the objective, and ``why`` says so."""

    family: str
    setting: Setting | None
    why: str = ""


def choose(results: Results, threat: Threat, objective: Objective, max_cost: float, reference: str) -> list[Choice]:
    """For each family the setting that the objective picks, mean over the classifiers.

    ``cost``: of those that lose at most ``max_cost`` of the standard accuracy without a purifier, the one of highest robust
    accuracy (ties: the higher standard accuracy). ``matched``: ``reference`` gets that; every other family, of those within
    two points of the reference's standard accuracy, the one of highest robust accuracy.
    """
    scores = _scores(results, threat)
    plain = scores[NOTHING][0].value
    chosen = {family: _cheap(scores, family, plain, max_cost) for family in results.families}
    if objective == "matched":
        ours = chosen.get(reference)
        if ours is None or ours.setting is None:
            raise ApibenchError(
                f"--reference {reference}: " + (ours.why if ours else f"is not among {', '.join(results.families)}")
            )
        standard = scores[ours.setting][0].value
        chosen |= {f: _near(scores, f, standard) for f in chosen if f != reference}
    return list(chosen.values())


Scores = Mapping[Setting, tuple[Accuracy, Accuracy]]  # standard and robust


def _scores(results: Results, threat: Threat) -> dict[Setting, tuple[Accuracy, Accuracy]]:
    found = {}
    for setting in results.settings:
        standard = results.accuracy(STANDARD, setting, results.classifiers)
        robust = results.accuracy(threat, setting, results.classifiers)
        if standard is not None and robust is not None:
            found[setting] = standard, robust
    return found


def _best(scores: Scores, among: Sequence[Setting]) -> Setting:
    return max(among, key=lambda s: (scores[s][1].value, scores[s][0].value, -s.passes, s.purifier))


def _cheap(scores: Scores, family: str, plain: float, max_cost: float) -> Choice:
    own = [setting for setting in scores if setting.family == family]
    allowed = [s for s in own if plain - scores[s][0].value <= max_cost + 1e-9]
    if allowed:
        return Choice(family, _best(scores, allowed))
    mildest = max(own, key=lambda s: scores[s][0].value)
    lost = 100 * (plain - scores[mildest][0].value)
    return Choice(family, None, f"none loses at most {100 * max_cost:g} points; {mildest.label} loses {lost:.1f}")


def _near(scores: Scores, family: str, standard: float) -> Choice:
    gaps = {s: scores[s][0].value - standard for s in scores if s.family == family}
    near, nearest = matching(gaps)
    if near:
        return Choice(family, _best(scores, near))
    gap = f"{100 * gaps[nearest]:+.1f}"
    return Choice(family, None, f"none is within {100 * TOLERANCE:g} points; {nearest.label} is {gap}")


def state(objective: Objective, max_cost: float, reference: str) -> str:
    """The objective in words: it stands in everything that is written."""
    cost = f"the highest robust accuracy with at most {100 * max_cost:g} points of standard accuracy lost"
    if objective == "cost":
        return f"{cost}, mean over the classifiers"
    return (
        f"for {reference} {cost}; for every other family the highest robust accuracy with a standard accuracy within "
        f"{100 * TOLERANCE:g} points of {reference}'s; mean over the classifiers"
    )


# --- running ---


@dataclass(frozen=True)
class Tuning:
    """What to tune and how. ``trials``: by family."""

    trials: Mapping[str, Sequence[Trial]]
    objective: Objective = "cost"
    max_cost: float = MAX_COST
    budget: int = BUDGET
    reference: str = "ncis"
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    choices: tuple[Choice, ...]
    problems: tuple[str, ...]
    table: str


def tune(
    clean: ImageSet,
    adversarial: ImageSet,
    targets: Sequence[str],
    tuning: Tuning,
    out: Path,
    say: Callable[[str], None],
    device: str = "cpu",
) -> Tuned:
    """Measure every trial on both sets into ``out/cells`` (what is there stays) and write the choice, its curve and a plot.

    Raises ApibenchError where a name is wrong, the sets do not belong together, or ``out`` holds other results.
    """
    from apibench.evaluation.measure import Classifiers, labelled, measure

    if tuning.objective == "matched" and tuning.reference not in tuning.trials:
        raise ApibenchError(f"--reference {tuning.reference}: is not among {', '.join(tuning.trials)}")
    classifiers = Classifiers(targets, device)
    clean, unlabelled = labelled(clean)
    problems = [reason for _, reason in unlabelled]
    attacked, attack = _belonging(clean, adversarial)
    for name in classifiers.names:
        if name in attacked.records[0].settings.get("surrogates", ()):
            raise ApibenchError(f"{name}: {adversarial.folder} was made on it; transfer to it would say nothing")
    made = _purifiers(tuning)
    units = _units(clean, attacked, attack, classifiers.names, tuning, made)
    for number, unit in enumerate(units, 1):
        problems += [reason for _, reason in measure(unit, out, classifiers)]
        say(f"measure: {number}/{len(units)}: {unit.attack} behind {unit.name}")
    # Of the folder's cells only those of this tuning: another one may have tried more.
    wanted = {key.file for unit in units for key in unit.cells()}
    results = Results(cells.read_all(out / "cells", wanted))
    threat = Threat(attack)
    choices = choose(results, threat, tuning.objective, tuning.max_cost, tuning.reference)
    uses = {purifier.name: name for name, purifier in made.items()}
    table = _write(results, threat, choices, tuning, out, (clean, attacked), uses)
    return Tuned(tuple(choices), tuple(problems), table)


def _belonging(clean: ImageSet, adversarial: ImageSet) -> tuple[ImageSet, str]:
    """The adversarial images of the clean ones, and their attack."""
    if any(record.variant != CLEAN for record in clean.records):
        raise ApibenchError(f"{clean.folder}: --clean must be a clean set, this one is {clean.records[0].variant}")
    sources = {record.pixels_sha256: record for record in clean.records}
    kept = [record for record in adversarial.records if record.source in sources]
    if not kept:
        raise ApibenchError(f"{adversarial.folder}: none of its images was made from one of {clean.folder}")
    variants = sorted({record.variant for record in kept})
    if len(variants) > 1 or variants == [CLEAN] or "+" in variants[0]:
        raise ApibenchError(f"{adversarial.folder}: --adversarial must be images of one attack, unpurified: {variants}")
    for record in kept:
        if record.label != sources[record.source].label:
            raise ApibenchError(f"{adversarial.folder}: {record.file} has another label than the clean image")
    return ImageSet(adversarial.folder, kept), variants[0]


def _purifiers(tuning: Tuning) -> dict[str, Purifier]:
    """Those of the trials, by the names given there."""
    from apibench import purifiers

    return {name: purifiers.create(name) for trials in tuning.trials.values() for name, _ in trials}


def _units(
    clean: ImageSet,
    attacked: ImageSet,
    attack: str,
    names: tuple[str, ...],
    tuning: Tuning,
    made: Mapping[str, Purifier],
) -> list[Unit]:
    """A unit for each set without a purifier and behind each purifier of the trials, with all its pass counts."""
    from apibench.evaluation.measure import Unit as Measured

    pairs = ((clean, CLEAN), (attacked, attack))
    units = [Measured(images, variant, names) for images, variant in pairs]
    for family, trials in tuning.trials.items():
        passes: dict[str, list[int]] = {}
        for name, count in trials:
            passes.setdefault(name, []).append(count)
        for name, counts in passes.items():
            for images, variant in pairs:
                units.append(
                    Measured(images, variant, names, made[name], tuple(sorted(counts)), family, seed=tuning.seed)
                )
    return units


def _write(
    results: Results,
    threat: Threat,
    choices: Sequence[Choice],
    tuning: Tuning,
    out: Path,
    sets: tuple[ImageSet, ImageSet],
    uses: Mapping[str, str],
) -> str:
    """Write ``choice.json``, ``curve.csv``, ``tuning.md`` and ``frontier.svg``; the table, in Markdown.

    ``uses``: by the names that results carry, those that make the purifiers again.
    """
    scores = _scores(results, threat)
    objective = state(tuning.objective, tuning.max_cost, tuning.reference)
    content = {
        "objective": objective,
        "attack": threat.attack,
        "images": [len(images.records) for images in sets],
        "classifiers": results.classifiers,
        "budget": tuning.budget,
        "tried": {family: len(trials) for family, trials in tuning.trials.items()},
        "no purifier": _numbers(scores[NOTHING]),
        "choices": {choice.family: _chosen(choice, scores, uses) for choice in choices},
    }
    table = _table(choices, scores, tuning)
    about = (
        f"Objective: {objective}. {threat.attack}; {len(sets[0].records)} clean and {len(sets[1].records)} adversarial images; "
        f"{', '.join(map(display, results.classifiers))}. Each family tried at most {tuning.budget} settings. Accuracies in per "
        "cent with 95 % intervals; the numbers of a chosen setting are better than it is: it was chosen by them."
    )
    svg = plots.frontier_svg(plots.points(results, threat), f"tuning, {threat.label}", objective, tuning.reference)
    write_atomically(out / "frontier.svg", svg.encode())
    write_atomically(out / "curve.csv", _curve(scores, choices).encode())
    document = f"# Tuning\n\n{text.markdown(about)}\n\n{table}\n\n![frontier](frontier.svg)\n"
    write_atomically(out / "tuning.md", document.encode())
    write_atomically(out / "choice.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return table


def _numbers(pair: tuple[Accuracy, Accuracy]) -> dict[str, float]:
    return {"standard": round(pair[0].value, 6), "robust": round(pair[1].value, 6)}


def _chosen(choice: Choice, scores: Scores, uses: Mapping[str, str]) -> dict[str, object]:
    if choice.setting is None:
        return {"purifier": None, "why": choice.why}
    own = choice.setting
    return {"purifier": own.purifier, "passes": own.passes, "use": uses[own.purifier], **_numbers(scores[own])}


def _table(choices: Sequence[Choice], scores: Scores, tuning: Tuning) -> str:
    head = ["family", "tried", "chosen", "standard", "robust"]
    body = [["no purifier", "–", "–", *map(_percent, scores[NOTHING])]]
    for choice in choices:
        tried = str(len(tuning.trials[choice.family]))
        if choice.setting is None:
            body.append([choice.family, tried, text.markdown(choice.why), "–", "–"])
        else:
            label = text.markdown(choice.setting.label)
            body.append([choice.family, tried, label, *map(_percent, scores[choice.setting])])
    return text.table(head, body, right=(1,))


def _percent(accuracy: Accuracy) -> str:
    low, high = accuracy.interval.low, accuracy.interval.high
    return f"{text.percent(accuracy.value)} [{text.percent(low)}, {text.percent(high)}]"


def _curve(scores: Scores, choices: Sequence[Choice]) -> str:
    """Every setting that was tried; shares in [0, 1]."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [f"{kind}{part}" for kind in ("standard", "robust") for part in ("", "_low", "_high")]
    writer.writerow(["family", "purifier", "passes", "images", *parts, "chosen"])
    chosen = {choice.setting for choice in choices}
    for setting, (standard, robust) in scores.items():
        numbers = [v for a in (standard, robust) for v in (a.value, a.interval.low, a.interval.high)]
        family = "" if setting.family == NONE else setting.family
        own = [family, text.spreadsheet(setting.purifier), setting.passes, robust.n]
        writer.writerow([*own, *(f"{number:.6f}" for number in numbers), int(setting in chosen)])
    return out.getvalue()
