"""Agreement against a purifier's iterations, against the attack's epsilon, and by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from apibench import metrics, text
from apibench.report.cards import class_name, families
from apibench.report.classes import short
from apibench.report.compare import NONE, Answers, Group, Row, natural
from apibench.report.figures import canvas
from apibench.report.figures.canvas import Figure
from apibench.report.frames import epsilon
from apibench.report.sheets import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer

MOST_CLASSES = 40
MOST_PURIFIERS = 12  # columns of a heat map's panel
SENT = "as sent"
Handles = dict[str, "ErrorbarContainer"]
Point = tuple[float, metrics.Proportion]
_CAPTION = "The whiskers are Wilson's 95 % intervals. Points at the same place are drawn a little apart."


# --- iterations ---


def iterations(rows: Sequence[Row], names: Mapping[Group, str]) -> list[Figure]:
    """A figure an attack, a panel a provider: agreement purified, and beside it what purifying costs clean images."""
    figures: list[Figure] = []
    taken: list[str] = []
    for attack in dict.fromkeys(row.attack for row in rows if row.attack is not None):
        own = [row for row in rows if row.attack == attack]
        if not any(len(family.purifiers) > 1 for family in families(_purifiers(own))):
            continue
        groups = list(dict.fromkeys(row.group for row in own))
        shown = groups[: canvas.MOST_PANELS]
        sheet, axes = canvas.panels(len(shown))
        handles: Handles = {}
        for axis, group in zip(axes, shown, strict=True):
            _iterations(axis, {row.purifier: row for row in own if row.group == group}, _purifiers(own), handles)
            axis.set_title(names[group])
        sheet.supylabel("share of images", fontsize=9)
        canvas.legend(sheet, handles)
        name = text.plain(attack, 40)
        caption = (
            f"Adversarial images of {name}, purified so many times: the share whose first label is the clean image's (solid; at "
            "0 as they were sent), and the cost, the share of clean images whose first label the purifier alone changes (dashed, "
            f"hollow). {_CAPTION}{canvas.left_out(len(groups) - len(shown), 'providers')}"
        )
        file = file_name("iterations", attack, taken=taken)
        taken.append(file)
        figures.append(canvas.finish(sheet, file, f"Agreement and cost by iterations: {name}", caption, shown))
    return figures


def _purifiers(rows: Sequence[Row]) -> list[str]:
    return sorted({row.purifier for row in rows} - {NONE}, key=natural)


def _iterations(axis: Axes, rows: Mapping[str, Row], purifiers: Sequence[str], handles: Handles) -> None:
    from matplotlib.ticker import MaxNLocator

    found = [family for family in families(purifiers) if any(family.steps)]
    for place, family in enumerate(found):
        shift = 0.08 * (place - (len(found) - 1) / 2)
        counts = {purifier: int(purifier.rpartition("/")[2]) for purifier in family.purifiers}
        known = {count: rows[purifier] for purifier, count in counts.items() if purifier in rows}
        kept: list[Point] = []
        if NONE in rows and (attacked := rows[NONE].attacked):
            kept.append((shift, attacked.top1))
        kept += [(count + shift, row.purified.top1) for count, row in known.items() if row.purified]
        costs = [(count + shift + 0.03, row.cost) for count, row in known.items() if row.cost]
        _line(axis, kept, handles, f"{family.name}: agreement", place)
        _line(axis, costs, handles, f"{family.name}: cost", place, linestyle="--", markerfacecolor="white")
    canvas.share_axis(axis)
    axis.set_xlabel("iterations")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _line(axis: Axes, points: Sequence[Point], handles: Handles, name: str, place: int, **style: str) -> None:
    """A line through shares. Nothing where none of them is of any image."""
    some = [(x, share) for x, share in points if share.n]
    if some:
        shares = [share for _, share in some]
        drawn = axis.errorbar(
            [x for x, _ in some],
            [share.value or 0.0 for share in shares],
            yerr=canvas.whiskers(shares),
            elinewidth=0.8,
            **{**canvas.look(place), **style},  # type: ignore[arg-type]
        )
        handles.setdefault(name, drawn)


# --- epsilon ---


def epsilons(rows: Sequence[Row], names: Mapping[Group, str]) -> list[Figure]:
    """A figure an attack that was made with several bounds, a panel a provider, a line a purifier."""
    figures: list[Figure] = []
    taken: list[str] = []
    attacks = dict.fromkeys(row.attack for row in rows if row.attack is not None and epsilon(row.attack) is not None)
    for base, several in Counter(attack.rpartition("/")[0] for attack in attacks).items():
        if several < 2:
            continue
        own = [row for row in rows if row.attack in attacks and str(row.attack).rpartition("/")[0] == base]
        groups = list(dict.fromkeys(row.group for row in own))
        shown = groups[: canvas.MOST_PANELS]
        purifiers = [NONE, *_purifiers(own)]
        sheet, axes = canvas.panels(len(shown))
        handles: Handles = {}
        apart = 0.012 * max(epsilon(str(row.attack)) or 0 for row in own)
        for axis, group in zip(axes, shown, strict=True):
            for place, purifier in enumerate(purifiers):
                shift = apart * (place - (len(purifiers) - 1) / 2)
                name = SENT if purifier == NONE else short(purifier)
                points = [_at_epsilon(row, shift) for row in own if row.group == group and row.purifier == purifier]
                style = {"linestyle": ":", "linewidth": "2.2"} if purifier == NONE else {}
                _line(
                    axis, sorted((one for one in points if one), key=lambda one: one[0]), handles, name, place, **style
                )
            axis.set_title(names[group])
            axis.set_xlabel("epsilon, levels of 255")
            axis.set_xticks(sorted({epsilon(str(row.attack)) or 0 for row in own}))
            canvas.share_axis(axis)
        sheet.supylabel("share of images that agree with the clean one", fontsize=9)
        canvas.legend(sheet, handles)
        title = text.plain(base, 40)
        caption = (
            f"Adversarial images of {title} with each bound, as they were sent (dotted) and after each purifier: the share whose "
            f"first label is the clean image's. {_CAPTION}{canvas.left_out(len(groups) - len(shown), 'providers')}"
        )
        file = file_name("epsilon", base, taken=taken)
        taken.append(file)
        figures.append(canvas.finish(sheet, file, f"Agreement by the attack's bound: {title}", caption, shown))
    return figures


def _at_epsilon(row: Row, shift: float) -> Point | None:
    agreement = row.attacked if row.purifier == NONE else row.purified
    return ((epsilon(str(row.attack)) or 0) + shift, agreement.top1) if agreement else None


# --- classes ---


def classes(groups: Sequence[Answers], names: Mapping[Group, str]) -> list[Figure]:
    """A heat map an attack, a panel a provider: agreement of attacked images by class and purifier."""
    figures: list[Figure] = []
    taken: list[str] = []
    for attack in sorted({attack for answers in groups for attack in answers.attacks}, key=natural):
        own = [answers for answers in groups if (attack, NONE) in answers.by_variant]
        counted = {answers.group: _by_class(answers, attack) for answers in own}
        own = [answers for answers in own if counted[answers.group]]
        if not own:
            continue
        shown = own[:4]
        lost: Counter[int] = Counter()
        for answers in shown:
            for (purifier, index), share in counted[answers.group].items():
                lost[index] += share.n - share.k if purifier == NONE else 0
        order = sorted(lost, key=lambda index: (-lost[index], index))
        rows = order[:MOST_CLASSES]
        sheet, axes = canvas.panels(len(shown), wide=2.6, high=max(2.2, 0.19 * len(rows) + 1.4), most_columns=4)
        for place, (axis, answers) in enumerate(zip(axes, shown, strict=True)):
            _heat(axis, counted[answers.group], rows, first=place == 0)
            axis.set_title(names[answers.group], fontsize=8)
        image = axes[-1].images[-1]
        sheet.colorbar(
            image, ax=axes, shrink=0.6, label="agreement", ticks=[0, 0.5, 1], format=lambda x, _: f"{100 * x:.0f} %"
        )
        name = text.plain(attack, 40)
        dropped = {one for answers in shown for one in answers.purifiers(attack)[MOST_PURIFIERS:]}
        caption = (
            f"Adversarial images of {name} by the class of the photograph, as they were sent and after each purifier: the share "
            "whose first label is the clean image's, over so many of so many images. Classes that lost the most labels are first."
            f"{canvas.left_out(len(order) - len(rows), 'classes')}{canvas.left_out(len(own) - len(shown), 'providers')}"
            f"{canvas.left_out(len(dropped), 'purifiers')}"
        )
        file = file_name("classes", attack, taken=taken)
        taken.append(file)
        figures.append(canvas.finish(sheet, file, f"Agreement by class: {name}", caption, [one.group for one in shown]))
    return figures


def _by_class(answers: Answers, attack: str) -> dict[tuple[str, int], metrics.Proportion]:
    """By purifier and class; only where any image is known."""
    found: dict[tuple[str, int], metrics.Proportion] = {}
    for purifier in [NONE, *answers.purifiers(attack)][: MOST_PURIFIERS + 1]:
        flags: dict[int, list[bool | None]] = {}
        for source, flag in (((agreement := answers.agreement(attack, purifier)) and agreement.flags) or {}).items():
            if source in answers.truth:
                flags.setdefault(answers.truth[source], []).append(flag)
        shares = {index: metrics.proportion(own) for index, own in flags.items()}
        found |= {(purifier, index): share for index, share in shares.items() if share.n}
    return found


def _heat(axis: Axes, found: Mapping[tuple[str, int], metrics.Proportion], rows: Sequence[int], *, first: bool) -> None:
    columns = sorted({purifier for purifier, _ in found}, key=lambda one: (one != NONE, natural(one)))
    nothing = metrics.Proportion(0, 0)
    cells = [[found.get((purifier, index), nothing) for purifier in columns] for index in rows]
    values = [[float("nan") if share.value is None else share.value for share in row] for row in cells]
    axis.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for y, row in enumerate(cells):
        for x, share in enumerate(row):
            if share.n:
                ink = "black" if (share.value or 0) > 0.4 else "white"
                axis.text(
                    x, y, f"{share.k}/{share.n}", ha="center", va="center", fontsize=6, color=ink, in_layout=False
                )
    heads = [SENT if purifier == NONE else short(purifier, 24) for purifier in columns]
    axis.set_xticks(range(len(columns)), heads, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axis.set_yticks(range(len(rows)), [class_name(index) for index in rows] if first else [], fontsize=7)
    axis.grid(visible=False)
    axis.tick_params(length=0)
