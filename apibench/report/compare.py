"""The rows of the API benchmark: what an attack changes in a provider's answers, and what a purifier gives back.

An image is compared with its own clean version, answered by the same provider, origin, settings, campaign and model version.
Labels that are returned parents of others are dropped first. A clean image without a label leaves the denominator; a variant
that was refused, or answered without labels, disagrees; one that failed, or was not asked about, is left out and bounded.
Where a photograph's ImageNet class was given, answers are compared with that too (:mod:`apibench.labels.match`); a clean image
without a label then is as wrong as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from apibench import metrics
from apibench.labels.match import names_class
from apibench.query.contract import Label
from apibench.report.frames import GROUP, StoreFrames, epsilon

K = 5
NONE = "none"
REPLAY = "replay of "  # what stands before the origin of a recording that is played back
ABOUT = (
    "campaign",
    "provider",
    "title",
    "origin",
    "network",
    "model_version",
    "settings",
)  # of a group, in a CSV's columns


def is_emulated(origin: str) -> bool:
    """Whether a network answered in a vendor's place, be it now or when what is played back was recorded."""
    return origin.removeprefix(REPLAY) == "emulated"


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
        unnamed = "an unnamed network" if is_emulated(self.origin) else "not said"
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
class Correctness:
    """A variant's answers against the photographs' classes. ``flags``, for 1 and for ``K``: one entry per photograph of which a

    class was given and the variant exists. ``success``: of those correct when clean, the share that no longer is.
    """

    flags: dict[int, dict[str, bool | None]]
    top1: metrics.Proportion
    topk: metrics.Proportion
    success1: metrics.Proportion
    successk: metrics.Proportion


@dataclass(frozen=True)
class Outcomes:
    """What became of the images of a variant: answered without a label, refused, never answered; of so many asked about."""

    asked: int
    empty: int
    rejected: int
    failed: int


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
    """The answers of one group, by variant and source. ``truth``: the class (0 to 999) of each photograph that was given one."""

    def __init__(
        self,
        group: Group,
        rows: Sequence[dict[str, Any]],
        listed: pd.DataFrame,
        truth: Mapping[str, int] | None = None,
    ) -> None:
        self.group = group
        self.truth = truth or {}
        self.by_variant: dict[tuple[str, str], dict[str, Answer]] = {}
        for row in rows:
            self.by_variant.setdefault((row["attack"], row["purifier"]), {})[row["source"]] = _answer(row)
        clean = self.by_variant.get(("clean", NONE), {})
        self.clean = {source: answer.labels for source, answer in sorted(clean.items()) if answer.labels}
        self.clean_without_label = len(clean) - len(self.clean)
        self.listed_all = {
            variant: set(sources)
            for variant, sources in listed.groupby(["attack", "purifier"])["source"]
            if variant in self.by_variant
        }
        self.listed = {variant: sources & self.clean.keys() for variant, sources in self.listed_all.items()}
        self._agreements: dict[tuple[str, str], Agreement] = {}
        # Of the first label that names the class, its place; K where none does.
        self._places: dict[tuple[str, str], dict[str, int]] = {}

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
        if (attack, purifier) not in self._agreements:
            self._agreements[attack, purifier] = self._agreement(attack, purifier)
        return self._agreements[attack, purifier]

    def _agreement(self, attack: str, purifier: str) -> Agreement:
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

    def correct(self, attack: str, purifier: str, source: str, k: int = 1) -> bool | None:
        """Whether one of that variant's first k labels, of at most ``K``, names the photograph's class. None: not known."""
        answer = self.by_variant.get((attack, purifier), {}).get(source)
        if source not in self.truth or answer is None or answer.outcome == "failed":
            return None
        places = self._places.setdefault((attack, purifier), {})
        if source not in places:
            names = [label.name for label in (answer.labels or ())[:K]]
            places[source] = next((i for i, name in enumerate(names) if names_class(name, self.truth[source])), K)
        return places[source] < k

    def correctness(self, attack: str, purifier: str) -> Correctness | None:
        """None where that variant was not asked about, or no photograph of it was given a class."""
        sources = sorted(self.listed_all.get((attack, purifier), set()) & self.truth.keys())
        if not sources:
            return None
        flags = {k: {source: self.correct(attack, purifier, source, k) for source in sources} for k in (1, K)}
        right = {k: [source for source in sources if self.correct("clean", NONE, source, k)] for k in (1, K)}
        share = {k: metrics.proportion(list(flags[k].values())) for k in (1, K)}
        taken = {k: metrics.complement(metrics.proportion([flags[k][source] for source in right[k]])) for k in (1, K)}
        return Correctness(flags, share[1], share[K], taken[1], taken[K])

    def outcomes(self, attack: str, purifier: str) -> Outcomes:
        found = self.by_variant.get((attack, purifier), {}).values()
        return Outcomes(
            asked=len(found),
            empty=sum(answer.outcome == "answered" and not answer.labels for answer in found),
            rejected=sum(answer.outcome == "rejected" for answer in found),
            failed=sum(answer.outcome == "failed" for answer in found),
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


# Columns of what an answer is made from.
_NEEDED = ["attack", "purifier", "source", "image_id", "sha256", "outcome", "error_kind", "error_code", "labels"]


def answers(frames: StoreFrames) -> list[Answers]:
    """One :class:`Answers` per group, in the order of campaign, provider, origin, settings and model version."""
    found, truth = [], frames.truth()
    for _, part in frames.outcomes.groupby([*GROUP, "model_version"], sort=True, dropna=False):
        first = part.iloc[0]
        rows = [dict(zip(_NEEDED, values, strict=True)) for values in part[_NEEDED].itertuples(index=False, name=None)]
        names = {name: str(first[name]) for name in (*GROUP, "model_version", "title")}
        group = Group(network=first["network"] if isinstance(first["network"], str) else None, **names)
        found.append(Answers(group, rows, frames.images, truth))
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


def records(groups: Iterable[Answers]) -> Iterator[dict[str, str | int | float | None]]:
    """One record an image and group: the outcome, what it agrees with, and the first labels as compared.

    ``agrees_top1`` and the like are 1, 0 or None (not known); ``class`` is the ImageNet class that the photograph was given.
    """
    for group in groups:
        about: dict[str, str | int | float | None] = {name: getattr(group.group, name) for name in ABOUT}
        for (attack, purifier), answers in sorted(group.by_variant.items()):
            for _, answer in sorted(answers.items()):
                yield about | _record(group, attack, purifier, answer)


def frame(groups: Iterable[Answers]) -> pd.DataFrame:
    """The same as a frame, for :mod:`apibench.metrics.frames`: flags are nullable booleans."""
    found = pd.DataFrame(records(groups))
    flags = [name for name in found if str(name).startswith(("agrees_", "correct_", "clean_correct_"))]
    return found.astype(dict.fromkeys(flags, "Int8")).astype(dict.fromkeys(flags, "boolean"))


def _record(group: Answers, attack: str, purifier: str, answer: Answer) -> dict[str, str | int | float | None]:
    source, labels = answer.source, answer.labels or ()
    clean = group.clean.get(source) if answer.outcome != "failed" else None
    found: dict[str, str | int | float | None] = {
        "image": answer.image_id,
        "source": source,
        "attack": attack,
        "epsilon": epsilon(attack),
        "purifier": purifier,
        "sha256": answer.sha256,
        "outcome": answer.outcome,
        "error": answer.error,
        "class": group.truth.get(source),
        "agrees_top1": _as_int(group.flag(attack, purifier, source)),
        f"agrees_top{K}": _as_int(group.flag(attack, purifier, source, K)),
        f"overlap{K}": metrics.overlap_at_k(clean, labels, K) if clean else None,
        "score_shift": metrics.score_shift(clean, labels) if clean else None,
    }
    for k in (1, K):
        found[f"correct_top{k}"] = _as_int(group.correct(attack, purifier, source, k))
        found[f"clean_correct_top{k}"] = _as_int(group.correct("clean", NONE, source, k))
    found |= {"labels": len(labels), "tied_first": int(metrics.tied_at(labels, 1))}
    for place in range(K):
        label = labels[place] if place < len(labels) else None
        found[f"label_{place + 1}"] = label.name if label else None
        found[f"score_{place + 1}"] = label.score if label else None
    return found


def _as_int(flag: bool | None) -> int | None:
    return None if flag is None else int(flag)


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
