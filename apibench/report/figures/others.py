"""The noise of the attacks, level by level; and how long each provider took to answer, at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from apibench import text
from apibench.report.compare import NONE, Answers, Group, natural
from apibench.report.figures import canvas
from apibench.report.figures.canvas import Figure
from apibench.report.frames import GROUP
from apibench.report.picture import Files

MOST_PAIRS = 200  # of an attack: more change nothing that can be seen
_LEVELS = 255


# --- noise ---


def noise(images: pd.DataFrame, files: Files) -> list[Figure]:
    """A panel an attack: how often each level was added, over all pixels and channels. None where no files are at hand."""
    adversarial = images[(images["attack"] != "clean") & (images["purifier"] == NONE)]
    found = []
    for attack in sorted(set(adversarial["attack"]), key=natural):
        sources = adversarial.loc[adversarial["attack"] == attack, "source"]
        counts, pairs = _levels(attack, sorted(set(sources))[:MOST_PAIRS], files)
        if pairs:
            found.append((attack, counts, pairs))
    if not found:
        return []
    shown = found[: canvas.MOST_PANELS]
    sheet, axes = canvas.panels(len(shown))
    for axis, (attack, counts, pairs) in zip(axes, shown, strict=True):
        levels = np.flatnonzero(counts) - _LEVELS
        furthest = max(1, int(np.abs(levels).max()))
        x = np.arange(-furthest, furthest + 1)
        shares = counts[x + _LEVELS] / counts.sum()
        axis.bar(x, shares, width=0.9 if furthest < 40 else 1.0, color=canvas.COLOURS[0])
        mean = float((x * shares).sum())
        axis.axvline(mean, color=canvas.COLOURS[1], linestyle="--", linewidth=1)
        axis.set_title(f"{text.plain(attack, 40)}\n{pairs} pairs, mean {text.number(mean, 2)}")
        axis.set_xlabel("adversarial − clean, levels of 255")
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    sheet.supylabel("share of pixels and channels", fontsize=9)
    which = "the pairs" if all(pairs < MOST_PAIRS for *_, pairs in found) else f"the first {MOST_PAIRS} pairs"
    caption = (
        f"How often an attack changed a value by so many levels, over all pixels and channels of {which} at hand; dashed: the "
        "mean. A purifier that averages takes out what is as often above as below."
        f"{canvas.left_out(len(found) - len(shown), 'attacks')}"
    )
    return [canvas.finish(sheet, "noise", "Noise of the attacks", caption, [])]


def _levels(
    attack: str, sources: Sequence[str], files: Files
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """How often each of −255 to 255 was added, and in how many pairs."""
    counts, pairs = np.zeros(2 * _LEVELS + 1, np.int64), 0
    for source in sources:
        clean, changed = files.pixels("clean", NONE, source), files.pixels(attack, NONE, source)
        if clean is not None and changed is not None and clean.shape == changed.shape:
            added = changed.astype(np.int16) - clean + _LEVELS
            counts += np.bincount(added.ravel(), minlength=len(counts))
            pairs += 1
    return counts, pairs


# --- providers ---


def providers(groups: Sequence[Answers], outcomes: pd.DataFrame, names: Mapping[Group, str]) -> list[Figure]:
    """How long answers took, and the list price of a thousand images where any was paid. None where neither is known."""
    known = outcomes[outcomes["latency"].notna() & (outcomes["outcome"] == "answered")]
    shown: list[tuple[str, pd.Series[float], float]] = []
    for answers in groups:
        about = answers.group
        own = {name: getattr(about, name) for name in (*GROUP, "model_version")}
        of_group = (known[list(own)] == list(own.values())).all(axis=1)
        if of_group.any():
            shown.append((names[about], known.loc[of_group, "latency"].astype(float), _price(outcomes, about)))
    if not shown:
        return []
    shown, more = shown[:12], len(shown) - 12
    priced = any(price > 0 for *_, price in shown)
    sheet, axes = canvas.panels(1 + priced, wide=6.0, high=0.45 * len(shown) + 0.9)
    latency = axes[0]
    places = range(len(shown), 0, -1)  # the first at the top
    parts = latency.boxplot(
        [seconds for _, seconds, _ in shown],
        orientation="horizontal",
        positions=list(places),
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        widths=0.55,
        medianprops={"color": "black"},
    )
    for box in parts["boxes"]:
        box.set(facecolor="#cfe3f1", edgecolor=canvas.COLOURS[0])
    latency.set_yticks(list(places), [f"{name}, {len(seconds)} answers" for name, seconds, _ in shown])
    latency.set_xlim(left=0)
    latency.set_xlabel("seconds until the answer")
    if priced:
        axes[1].barh(list(places), [price for *_, price in shown], height=0.55, color=canvas.COLOURS[4])
        axes[1].set_yticks(list(places), ["" for _ in shown])
        axes[1].set_xlabel("USD a thousand images, list price")
        for place, (*_, price) in zip(places, shown, strict=True):
            axes[1].annotate(f" {price:.2f}", (price, place), va="center", fontsize=8)
    caption = (
        "The time until an answer came: the middle half of all answers, their median, and the 5th and 95th percentile. "
        + (
            "The price is that of the list, of all that was billed or may have been, a thousand images. "
            if priced
            else ""
        )
        + ("" if priced else "Nothing was paid, or no price is known. ")
        + "What is emulated takes the time of this machine, not of a vendor, and costs nothing."
        + canvas.left_out(more, "providers")
    )
    return [
        canvas.finish(
            sheet,
            "providers",
            f"Time {'and price ' if priced else ''}of an answer",
            caption,
            [one.group for one in groups],
        )
    ]


def _price(outcomes: pd.DataFrame, group: Group) -> float:
    """USD a thousand images; 0 where nothing was paid, or it is not known."""
    if group.origin != "live":
        return 0.0
    own = outcomes[(outcomes[GROUP] == [getattr(group, name) for name in GROUP]).all(axis=1)]
    priced = own["price"].dropna().astype(float)
    return 1000 * float(priced.sum()) / len(priced) if len(priced) else 0.0
