"""How good the label map is: its precision and recall on pairs of a label and a class that were judged by hand.

``data/labels/checked_pairs.csv`` has the columns ``label``, ``class`` (index), ``names_it`` (1 or 0, by the criterion in
:mod:`apibench.labels.match`), ``origin`` and ``half``. Origin: ``drawn`` by chance, by a word in common, from the label names of
Open Images (Google's vocabulary), for classes drawn by chance; ``vendor``, what labelling APIs say of classes drawn by chance,
right and wrong; ``hard``, near classes, homonyms, general terms and plurals, of classes picked for them. Half: ``choose`` was
measured while the limits and lists were made; ``measure`` was not, but was judged before, by whoever wrote them; ``blind`` was
drawn and judged after they were fixed. No pair was judged with the rule's answer in view.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apibench import data
from apibench.labels.match import LIMITS, Limits, Rule, match_within
from apibench.metrics import Proportion

FILE = "labels/checked_pairs.csv"
HALVES = ("choose", "measure", "blind")
RULES: tuple[Rule, ...] = ("name", "ancestor", "alias")


@dataclass(frozen=True)
class Pair:
    """A label, a class index, and whether the one names the other."""

    label: str
    index: int
    names: bool
    origin: str
    half: str


@dataclass(frozen=True)
class Score:
    """``precision``: the share of matches that are right; ``recall``: the share of right pairs that match."""

    precision: Proportion
    recall: Proportion


def pairs(half: str | None = None) -> tuple[Pair, ...]:
    """The judged pairs, of one half or all, in the file's order."""
    with data.path(FILE).open(newline="", encoding="utf-8") as file:
        found = (
            Pair(row["label"], int(row["class"]), row["names_it"] == "1", row["origin"], row["half"])
            for row in csv.DictReader(file)
        )
        return tuple(pair for pair in found if half in (None, pair.half))


def score(judged: Iterable[Pair], limits: Limits = LIMITS, rules: Sequence[Rule] = RULES) -> Score:
    """Precision and recall of the matches by ``rules``."""
    hits = wrong = missed = 0
    for pair in judged:
        matched = match_within(pair.label, pair.index, limits).rule in rules
        hits += matched and pair.names
        wrong += matched and not pair.names
        missed += pair.names and not matched
    return Score(Proportion(hits, hits + wrong), Proportion(hits, hits + missed))


def mistakes(judged: Iterable[Pair], limits: Limits = LIMITS) -> tuple[Pair, ...]:
    """The pairs of which the rule says otherwise than the judgement."""
    return tuple(pair for pair in judged if match_within(pair.label, pair.index, limits).matched != pair.names)
