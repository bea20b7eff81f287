"""The rows of the API benchmark: what an attack changes in a provider's answers, and what a purifier gives back.

An image is compared with its own clean version, answered by the same provider, origin, settings, campaign and model version.
Labels that are returned parents of others are dropped first. A clean image without a label leaves the denominator; a variant
that was refused, or answered without labels, disagrees; one that failed, or was not asked about, is left out and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from apibench import metrics
from apibench.query.contract import Label
from apibench.report.frames import GROUP, StoreFrames

K = 5
NONE = "none"


@dataclass(frozen=True, order=True)
class Group:
    """What is never mixed in one row. ``network`` is the network that answered, where the answers are emulated."""

    campaign: str
    provider: str
    origin: str
    settings: str
    model_version: str
    title: str
    network: str | None

    @property
    def answered_by(self) -> str:
        """Who answered, in a table's words: of a checkpoint its file's name and hash; its options stand in the provenance."""
        unnamed = "an unnamed network" if self.origin == "emulated" else "not said"
        name = self.network or self.model_version or unnamed
        checkpoint = re.fullmatch(r"file:[^=]+=([^?#]+)(?:\?[^#]*)?(#[0-9a-f]{8})[0-9a-f]*", name)
        return "".join(checkpoint.groups()).replace(".safetensors#", "#") if checkpoint else name


@dataclass(frozen=True)
class Answer:
    """What became of one image. ``labels`` without returned parents; None unless it was answered."""

    source: str
    image_id: str
    sha256: str
    outcome: str
    error: str
    labels: tuple[Label, ...] | None


@dataclass(frozen=True)
class Agreement:
    """A variant's answers against the clean ones. ``flags`` has one entry per clean image of which the variant exists."""

    flags: dict[str, bool | None]
    top1: metrics.Proportion
    topk: metrics.Proportion
    overlap: float | None  # mean overlap@k over the images known, in [0, 1]
    ties1: int  # images in which a tie in score decides what the first label is, clean or variant
    tiesk: int  # images in which a tie decides the clean first label, or which label is the variant's k-th


@dataclass(frozen=True)
class Row:
    """One line of the table. ``attack`` is None where a group has no adversarial image.

    ``clean``: purified clean images (None without a purifier: 1 by definition); ``attacked``: adversarial images as they are;
    ``purified``: adversarial images purified. ``paired``: attacked and purified, image by image.
    """

    group: Group
    attack: str | None
    purifier: str
    clean: Agreement | None
    attacked: Agreement | None
    purified: Agreement | None
    paired: metrics.PairedCounts | None
    recovery: metrics.Recovery | None

    @property
    def cost(self) -> metrics.Proportion | None:
        """The share of clean images whose first label the purifier alone changes."""
        return None if self.clean is None else metrics.complement(self.clean.top1)


class Answers:
    """The answers of one group, by variant and source."""

    def __init__(self, group: Group, rows: Sequence[dict[str, Any]], listed: pd.DataFrame) -> None:
        self.group = group
        self.by_variant: dict[tuple[str, str], dict[str, Answer]] = {}
        for row in rows:
            self.by_variant.setdefault((row["attack"], row["purifier"]), {})[row["source"]] = _answer(row)
        clean = self.by_variant.get(("clean", NONE), {})
        self.clean = {source: answer.labels for source, answer in sorted(clean.items()) if answer.labels}
        self.clean_without_label = len(clean) - len(self.clean)
        self.listed = {
            variant: set(sources) & self.clean.keys()
            for variant, sources in listed.groupby(["attack", "purifier"])["source"]
            if variant in self.by_variant
        }

    @property
    def attacks(self) -> list[str]:
        return sorted({attack for attack, _ in self.by_variant} - {"clean"}, key=natural)

    def purifiers(self, attack: str | None) -> list[str]:
        found = {purifier for a, purifier in self.by_variant if a in ("clean", attack)} - {NONE}
        return sorted(found, key=natural)

    def labels(self, attack: str, purifier: str, source: str) -> tuple[Label, ...]:
        answer = self.by_variant.get((attack, purifier), {}).get(source)
        return (answer.labels if answer else None) or ()

    def flag(self, attack: str, purifier: str, source: str, k: int = 1) -> bool | None:
        """Whether that variant's first k labels have the clean image's first. None: not known."""
        answer = self.by_variant.get((attack, purifier), {}).get(source)
        if source not in self.clean or answer is None or answer.outcome == "failed":
            return None
        return bool(answer.labels) and metrics.topk_agreement(self.clean[source], answer.labels or (), k)

    def agreement(self, attack: str | None, purifier: str) -> Agreement | None:
        """None where no image of that variant was asked about."""
        if attack is None or (attack, purifier) not in self.by_variant:
            return None
        sources = sorted(self.listed.get((attack, purifier), set()))
        flags = {source: self.flag(attack, purifier, source) for source in sources}
        known = [(self.clean[s], self.labels(attack, purifier, s)) for s, flag in flags.items() if flag is not None]
        overlaps = [metrics.overlap_at_k(clean, variant, K) for clean, variant in known]
        return Agreement(
            flags=flags,
            top1=metrics.proportion(list(flags.values())),
            topk=metrics.proportion([self.flag(attack, purifier, source, K) for source in sources]),
            overlap=sum(overlaps) / len(overlaps) if overlaps else None,
            ties1=sum(metrics.tied_at(clean, 1) or metrics.tied_at(variant, 1) for clean, variant in known),
            tiesk=sum(metrics.tied_at(clean, 1) or metrics.tied_at(variant, K) for clean, variant in known),
        )

    def row(self, attack: str | None, purifier: str) -> Row:
        attacked = self.agreement(attack, NONE)
        clean = purified = paired = recovery = None
        if purifier != NONE:
            clean, purified = self.agreement("clean", purifier), self.agreement(attack, purifier)
        if attacked is not None and purified is not None:
            sources = sorted({*attacked.flags, *purified.flags})
            before, after = [attacked.flags.get(s) for s in sources], [purified.flags.get(s) for s in sources]
            paired = metrics.pair(before, after)
            recovery = metrics.recovery(before, after)
        return Row(self.group, attack, purifier, clean, attacked, purified, paired, recovery)


def answers(frames: StoreFrames) -> list[Answers]:
    """One :class:`Answers` per group, in the order of campaign, provider, origin, settings and model version."""
    found = []
    for _, part in frames.outcomes.groupby([*GROUP, "model_version"], sort=True, dropna=False):
        rows = part.to_dict("records")
        first = rows[0]
        names = {name: str(first[name]) for name in (*GROUP, "model_version", "title")}
        group = Group(network=first["network"] if isinstance(first["network"], str) else None, **names)
        found.append(Answers(group, [{str(k): v for k, v in row.items()} for row in rows], frames.images))
    return found


def rows(groups: Iterable[Answers]) -> list[Row]:
    """All rows: per group and attack, first without a purifier, then each purifier. Groups with nothing to compare have none."""
    found = []
    for group in groups:
        if not group.clean:
            continue
        attacks: list[str | None] = [*group.attacks] or [None]
        for attack in attacks:
            purifiers = group.purifiers(attack)
            if attack is not None:
                found.append(group.row(attack, NONE))
            found += [group.row(attack, purifier) for purifier in purifiers]
    return found


def natural(text: str) -> list[tuple[int, str, int]]:
    """A sort key that puts ncis/2 before ncis/10."""
    return [(1, "", int(part)) if part.isdecimal() else (0, part, 0) for part in re.split(r"(\d+)", text)]


def _answer(row: dict[str, Any]) -> Answer:
    labels = row["labels"]
    error = " ".join(str(row[name]) for name in ("error_kind", "error_code") if isinstance(row[name], str))
    return Answer(
        source=row["source"],
        image_id=str(row["image_id"]),
        sha256=row["sha256"],
        outcome=row["outcome"],
        error=error if row["outcome"] != "answered" else "",
        labels=metrics.drop_returned_parents(labels) if isinstance(labels, tuple) else None,
    )
