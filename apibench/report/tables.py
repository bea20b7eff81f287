"""The tables of a report, in Markdown for people and in CSV for programs; the HTML page shows the same cells and captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from apibench import metrics, text
from apibench.grid import Value as Cell
from apibench.grid import to_csv
from apibench.report.compare import ABOUT, NONE, REPLAY, Agreement, Answers, Group, K, Row, is_emulated, records
from apibench.report.frames import epsilon

NOTHING = "Nothing can be compared yet: no variant has an answer beside an answered clean image."
# What the columns of the main table are; *…* is emphasis.
COLUMNS = (
    "Agreement is the share of images whose first label is the one the same provider gave the clean image, as it is. "
    "*Clean*: clean images, purified. *Attacked*: adversarial images as they are. *Purified*: adversarial images, purified. "
    "*Recovery*: (purified − attacked) / (1 − attacked), over the images of which both are known, only where attacked is at "
    "most 90 %; it is not clipped. *Cost*: 100 − clean. In brackets the 95 % interval (Wilson's; of recovery, a paired "
    "bootstrap over images, too narrow where fewer than about ten labels were lost), then the number of images. The attack does "
    "not know the purifier."
)


# --- who answered ---


@dataclass(frozen=True)
class Origin:
    """Who answered, in plain text not yet escaped: ``loud`` where it was not a vendor."""

    loud: str
    rest: str


def origins(groups: Iterable[Group]) -> list[Origin]:
    """Who answered, for all that a table shows."""
    found = list(groups)
    networks = sorted({group.answered_by for group in found if is_emulated(group.origin)})
    lines = []
    if networks:
        names = ", ".join(map(text.plain, networks))
        lines.append(
            Origin(f"EMULATED: answered by {names}, not by a vendor.", "Rows that share a network are not independent.")
        )
    if any(group.origin == "custom" for group in found):
        lines.append(Origin("CUSTOM: answered by an endpoint that is not the vendor's own.", ""))
    if any(group.origin.startswith(REPLAY) for group in found):
        lines.append(Origin("REPLAYED: played from a recording, not answered by a vendor now.", ""))
    if any(group.origin == "local" for group in found):
        lines.append(Origin("LOCAL: answered by a classifier on this machine, not by a vendor.", ""))
    if any(group.origin == "live" for group in found):
        lines.append(Origin("", "Live: answered by the vendors' own hosts."))
    return lines


def origin_caption(groups: Iterable[Group]) -> str:
    """The same in Markdown. Every table has it."""
    parts = [(f"**{text.markdown(one.loud)}**" if one.loud else "", one.rest) for one in origins(groups)]
    return " ".join(part for both in parts for part in both if part)


class Naming:
    """The columns that say whose row it is: those that tell rows of this table apart, and the network behind an emulated one."""

    def __init__(self, groups: Iterable[Group]) -> None:
        found = set(groups)
        self.campaign = len({group.campaign for group in found}) > 1
        emulated = any(is_emulated(group.origin) for group in found)
        self.answered_by = emulated or len({group.model_version for group in found}) > 1
        self.settings = len({(g.provider, g.settings) for g in found}) > len({g.provider for g in found})

    def head(self) -> list[str]:
        extra = [("Campaign", self.campaign), ("Answered by", self.answered_by), ("Settings", self.settings)]
        return ["Provider", *(name for name, shown in extra if shown)]

    def names(self, group: Group) -> list[str]:
        """The cells of those columns as plain text, not yet escaped."""
        origin = "" if group.origin == "live" else f" ({text.plain(group.origin, 20)})"
        names = [text.plain(group.title, 40) + origin]
        if self.campaign:
            names.append(text.plain(group.campaign, 40))
        if self.answered_by:
            names.append(text.plain(group.answered_by, 60))
        if self.settings:
            names.append(text.plain(group.settings, 120))
        return names

    def cells(self, group: Group) -> list[str]:
        return [text.markdown(name) for name in self.names(group)]


# --- the main table ---

SHARES = 5  # the last columns of the main table: shares in per cent, with "[low, high]" and "k/n"


def main_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the API benchmark table as plain text, not yet escaped."""
    naming = Naming(row.group for row in rows)
    head = [*naming.head(), "Attack", "Purifier", "Clean, %", "Attacked, %", "Purified, %", "Recovery, %", "Cost, %"]
    body = []
    for row in rows:
        clean = "100 (by definition)" if row.purifier == NONE else share(row.clean)
        about = [*naming.names(row.group), _attack(row), text.plain(row.purifier, 40)]
        body.append([*about, clean, share(row.attacked), share(row.purified), recovery(row), cost(row)])
    return head, body


# --- Markdown ---


def main_table(rows: Sequence[Row]) -> str:
    """The API benchmark table with its caption. In per cent; ``[low, high]`` is the 95 % interval, then k/n images."""
    if not rows:
        return NOTHING
    head, cells = main_cells(rows)
    first = len(head) - SHARES
    body = [[*map(text.markdown, row[:first]), *row[first:]] for row in cells]
    return text.table(head, body, right=range(first, len(head))) + "\n\n" + caption(row.group for row in rows)


def caption(groups: Iterable[Group]) -> str:
    return f"{origin_caption(groups)}\n\n{COLUMNS}"


def adjusted(rows: Sequence[Row]) -> dict[int, float]:
    """Holm's p of what each purifier changes, by ``id`` of the row: all rows of a report are one family."""
    tested = [(row, row.paired) for row in rows if row.paired is not None and row.paired.n]
    p_values = metrics.holm([metrics.mcnemar_p(paired) for _, paired in tested])
    return {id(row): p for (row, _), p in zip(tested, p_values, strict=True)}


def change_table(rows: Sequence[Row]) -> str:
    """What each purifier changes for the same adversarial images: paired difference, its interval and its test. May be empty."""
    shown = [(row, row.paired) for row in rows if row.paired is not None and row.paired.n]
    if not shown:
        return ""
    naming = Naming(row.group for row in rows)
    head = [*naming.head(), "Attack", "Purifier", "Images", "Won", "Lost", "Purified − attacked, points", "McNemar p"]
    head += ["p, Holm", "Could show, points"]
    p_values = adjusted(rows)
    body = []
    for row, paired in shown:
        interval = metrics.newcombe_interval(paired)
        bounds = f"[{text.percent(interval.low)}, {text.percent(interval.high)}]"
        body.append(
            [
                *naming.cells(row.group),
                text.markdown(_attack(row)),
                text.markdown(row.purifier, 40),
                str(paired.n),
                str(paired.after_only),
                str(paired.before_only),
                f"{text.percent(paired.difference)} {bounds}",
                p_value(metrics.mcnemar_p(paired)),
                p_value(p_values[id(row)]),
                text.percent(could_show(paired)),
            ]
        )
    note = (
        f"{origin_caption(row.group for row, _ in shown)} *Won*: images that agree only when purified; *lost*: only when not. "
        "The difference has Newcombe's score interval for paired proportions (95 %); p is exact, beside it corrected by Holm for "
        "the rows of this table. *Could show*: the smallest true difference that so many images, of which as large a share "
        f"changes one way or the other as here, show with a power of {metrics.POWER:.0%} at {metrics.ALPHA:.0%}; a dash: none."
    )
    return text.table(head, body, right=range(len(head) - 7, len(head))) + "\n\n" + note


def could_show(paired: metrics.PairedCounts) -> float | None:
    """The smallest difference that so many images can show where as many are discordant; None where there is none."""
    return metrics.smallest_difference(paired.n, (paired.after_only + paired.before_only) / paired.n)


def bounds_table(rows: Sequence[Row]) -> str:
    """What the shares of images left out could have been. Empty where none was left out."""
    naming = Naming(row.group for row in rows)
    body = []
    for row in rows:
        for name, agreement in (("clean", row.clean), ("attacked", row.attacked), ("purified", row.purified)):
            if agreement is None or not agreement.top1.left_out or (name == "attacked" and row.purifier != NONE):
                continue
            share = agreement.top1
            cells = [name, str(share.left_out), text.percent(share.worst), text.percent(share.best)]
            body.append(
                [*naming.cells(row.group), text.markdown(_attack(row)), text.markdown(row.purifier, 40), *cells]
            )
    if not body:
        return ""
    head = [*naming.head(), "Attack", "Purifier", "Column", "Left out", "Worst case, %", "Best case, %"]
    note = (
        f"{origin_caption(row.group for row in rows)} Images that failed or were not asked about are in no share above; here is "
        "what the share would be if all of them had disagreed, or agreed."
    )
    return text.table(head, body, right=range(len(head) - 3, len(head))) + "\n\n" + note


def _attack(row: Row) -> str:
    return "–" if row.attack is None else text.plain(row.attack, 40)


def share(agreement: Agreement | None) -> str:
    found = agreement.top1 if agreement else None
    return "–" if found is None or not found.n else f"{bounds(found)} {found.k}/{found.n}"


def cost(row: Row) -> str:
    return "–" if row.cost is None or not row.cost.n else bounds(row.cost)


def bounds(share: metrics.Proportion) -> str:
    interval = metrics.wilson_interval(share.k, share.n)
    return f"{text.percent(share.value)} [{text.percent(interval.low)}, {text.percent(interval.high)}]"


def recovery(row: Row) -> str:
    found = row.recovery
    if found is None:
        return "–"
    bounds = f"[{text.percent(found.low)}, {text.percent(found.high)}]"
    return f"{text.percent(found.value)} {bounds} {text.number(found.numerator, 0)}/{found.denominator}"


def p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


# --- CSV ---


def table_csv(rows: Sequence[Row]) -> str:
    """One line per row of the table, with all that was computed. Shares are in [0, 1]; empty: not defined, or not measured."""
    nothing = Row(Group("", "", "", "", "", "", None), None, NONE, None, None, None, None, None)
    p_values = adjusted(rows)
    return to_csv([_record(row, p_values.get(id(row))) for row in rows], list(_record(nothing)))


def _record(row: Row, adjusted: float | None = None) -> dict[str, Cell]:
    record: dict[str, Cell] = {**_group_cells(row.group), "attack": row.attack, "epsilon": epsilon(row.attack or "")}
    record["purifier"] = row.purifier
    for name, agreement in (("clean", row.clean), ("attacked", row.attacked), ("purified", row.purified)):
        record |= _agreement_cells(name, agreement)
    paired = row.paired if row.paired is not None and row.paired.n else None
    gain = metrics.newcombe_interval(paired) if paired else None
    record |= {
        "gain": _get(paired, "difference"),
        "gain_n": _get(paired, "n"),
        "gain_won": _get(paired, "after_only"),
        "gain_lost": _get(paired, "before_only"),
        "gain_low": _get(gain, "low"),
        "gain_high": _get(gain, "high"),
        "gain_mcnemar_p": metrics.mcnemar_p(paired) if paired else None,
        "gain_holm_p": adjusted,
        "gain_could_show": could_show(paired) if paired else None,
    }
    record |= {"recovery": _get(row.recovery, "value")}
    parts = ("n", "numerator", "denominator", "low", "high", "undefined_resamples")
    record |= {f"recovery_{part}": _get(row.recovery, part) for part in parts}
    return record | share_cells("cost", row.cost)


def _group_cells(group: Group) -> dict[str, Cell]:
    return {name: getattr(group, name) for name in ABOUT}


def _agreement_cells(name: str, agreement: Agreement | None) -> dict[str, Cell]:
    return {
        **share_cells(f"{name}_top1", agreement.top1 if agreement else None),
        f"{name}_top1_ties": _get(agreement, "ties1"),
        **share_cells(f"{name}_top{K}", agreement.topk if agreement else None),
        f"{name}_top{K}_ties": _get(agreement, "tiesk"),
        f"{name}_overlap{K}": _get(agreement, "overlap"),
    }


def share_cells(name: str, share: metrics.Proportion | None) -> dict[str, Cell]:
    interval = share.interval if share else None
    return {
        name: _get(share, "value"),
        f"{name}_k": _get(share, "k"),
        f"{name}_n": _get(share, "n"),
        f"{name}_low": _get(interval, "low"),
        f"{name}_high": _get(interval, "high"),
        f"{name}_left_out": _get(share, "left_out"),
        f"{name}_worst": _get(share, "worst"),
        f"{name}_best": _get(share, "best"),
    }


def _get(of: object | None, attribute: str) -> Cell:
    """The attribute, or an empty cell where there is no object to have it."""
    value: Cell = None if of is None else getattr(of, attribute)
    return value


def answers_csv(groups: Iterable[Answers]) -> str:
    """One line per image and group, of at least one: the outcome, the first labels as compared, and whether they agree."""
    found = records(groups)
    first = next(found)
    return to_csv(chain([first], found), list(first))
