"""The same numbers by groups of a frame with one row an image: pure functions from a frame to a frame.

Flags are columns with True, False or nothing (None or NA: not known). ``by`` names the columns that make the groups: a provider,
an attack, a purifier, an epsilon, a class, or several of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from apibench.errors import ApibenchError
from apibench.metrics.pairs import mcnemar_p, newcombe_interval, pair, recovery
from apibench.metrics.shares import Proportion, wilson_interval

CLEAN, NONE = "clean", "none"


def shares(frame: pd.DataFrame, flag: str, by: Sequence[str], *, bad: bool = False) -> pd.DataFrame:
    """A row a group: ``k`` of ``n`` images with the flag, ``left_out`` of which nothing is known, the share, in [0, 1], as

    ``value`` with its Wilson interval ``low`` and ``high``, and what it would be if all left out had disagreed or agreed
    (``worst``, ``best``; with ``bad`` the flag is a harm, and worst where all left out have it). A group without a known image
    has a row with NA for its share.
    """
    known = frame[flag].astype("boolean")
    counts = pd.DataFrame({"k": known.fillna(False).astype(int), "n": known.notna().astype(int)})
    counts["left_out"] = 1 - counts["n"]
    found = pd.concat([frame[list(by)], counts], axis=1).groupby(list(by), dropna=False).sum()
    all_of_them = [Proportion(int(k), int(n), int(left_out), bad) for k, n, left_out in found.to_numpy()]
    intervals = [wilson_interval(share.k, share.n) if share.n else None for share in all_of_them]
    return found.assign(
        value=_floats(share.value for share in all_of_them),
        low=_floats(None if one is None else one.low for one in intervals),
        high=_floats(None if one is None else one.high for one in intervals),
        worst=_floats(share.worst for share in all_of_them),
        best=_floats(share.best for share in all_of_them),
    )


def costs(frame: pd.DataFrame, by: Sequence[str], flag: str = "agrees_top1") -> pd.DataFrame:
    """A row a group and purifier: the share of clean images whose first label the purifier alone changes, as :func:`shares`."""
    purified = frame[(frame["attack"] == CLEAN) & (frame["purifier"] != NONE)]
    changed = ~purified[flag].astype("boolean")
    return shares(purified.assign(changed=changed), "changed", [*by, "purifier"], bad=True)


def outcomes(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row a group: how many images were ``asked`` about, and of those ``answered`` with a label, answered with none

    (``empty``), refused (``rejected``) or never answered (``failed``). Needs the columns ``outcome`` and ``labels``, a count.
    """
    empty = (frame["outcome"] == "answered") & (frame["labels"] == 0)
    kinds = frame["outcome"].where(~empty, "empty")
    counted = {kind: (kinds == kind).astype(int) for kind in ("answered", "empty", "rejected", "failed")}
    counts = pd.DataFrame({"asked": 1, **counted}, index=frame.index)
    return pd.concat([frame[list(by)], counts], axis=1).groupby(list(by), dropna=False).sum()


def attack_success(frame: pd.DataFrame, k: int, by: Sequence[str]) -> pd.DataFrame:
    """A row a group: the share of images, correct at ``k`` when clean, that no longer are; ``n`` is the denominator.

    Needs ``correct_topK`` and ``clean_correct_topK``; an image whose clean answer is wrong, or not known, is not counted at all.
    """
    counted = frame[frame[f"clean_correct_top{k}"].astype("boolean").fillna(False)]
    return shares(counted.assign(fooled=~counted[f"correct_top{k}"].astype("boolean")), "fooled", by, bad=True)


def recoveries(frame: pd.DataFrame, by: Sequence[str], flag: str = "agrees_top1") -> pd.DataFrame:
    """A row a group, attack and purifier: what it gives back of the images that the attack took, paired image by image.

    ``by`` tells apart who answered, and in which campaign; the columns ``attack``, ``purifier`` and ``source`` (the
    photograph) are needed besides. ``attacked`` and ``purified``, shares in [0, 1], are of the ``n`` images of which both are
    known, as all else.
    ``recovery`` with ``recovery_low`` and ``recovery_high`` is NA where :func:`~apibench.metrics.recovery` is not defined;
    ``difference`` (purified less attacked), ``low``, ``high`` and ``p`` are Newcombe's and McNemar's. Raises ApibenchError
    where a group has one photograph several times.
    """
    adversarial = frame[frame["attack"] != CLEAN]
    records = []
    for key, group in adversarial.groupby([*by, "attack"], dropna=False):
        if group.duplicated(["source", "purifier"]).any():
            raise ApibenchError(
                f"recoveries by {', '.join(by)}: a photograph stands several times in a group; name what tells them apart in by, "
                "such as campaign, origin or network"
            )
        table = group.pivot(index="source", columns="purifier", values=flag).astype(object)
        if NONE not in table:
            continue
        flags = {name: [None if pd.isna(value) else bool(value) for value in table[name]] for name in table}
        for purifier in (name for name in flags if name != NONE):
            counts, found = pair(flags[NONE], flags[purifier]), recovery(flags[NONE], flags[purifier])
            interval = newcombe_interval(counts) if counts.n else None
            records.append(
                {
                    **dict(zip([*by, "attack"], key, strict=True)),
                    "purifier": purifier,
                    "n": counts.n,
                    "attacked": (counts.both + counts.before_only) / counts.n if counts.n else None,
                    "purified": (counts.both + counts.after_only) / counts.n if counts.n else None,
                    "difference": counts.difference if counts.n else None,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    "p": mcnemar_p(counts) if counts.n else None,
                    "recovery": found.value if found else None,
                    "recovery_low": found.low if found else None,
                    "recovery_high": found.high if found else None,
                }
            )
    columns = [
        "n",
        "attacked",
        "purified",
        "difference",
        "low",
        "high",
        "p",
        "recovery",
        "recovery_low",
        "recovery_high",
    ]
    return pd.DataFrame(records, columns=[*by, "attack", "purifier", *columns]).set_index([*by, "attack", "purifier"])


def _floats(values: Iterable[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
