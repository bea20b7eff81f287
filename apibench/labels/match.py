"""Does a vendor's label name the image's ImageNet class? The rule, in words (:data:`RULE`), versioned (:data:`RULE_VERSION`).

A label names the object in a photograph if a person who is asked what the object is would take it for an answer: at the level
at which people name things, or more precisely. "Dog" names a golden retriever; "Animal" and "Snout" do not. By that criterion
the rule's lists were written and its sample was judged (``data/labels/checked_pairs.csv``); :mod:`apibench.labels.checked`
measures how well it is met. There are three ways to match:

- *name*: the label is one of WordNet's words for the class, or the vocabulary's name of it;
- *ancestor*: it is a word for a synset above the class, at most ``MOST_STEPS`` hypernyms up, over at most ``MOST_CLASSES`` of
  the 1,000 classes (Dog: 118, Bird: 59), and neither in the list of synsets that name a kind of things (Mammal, Vehicle,
  Furniture) nor above one in it;
- *alias*: a list says so ("Smartphone", "Puppy").

Words of several meanings ("Crane", "Head", "Light") name only what a list says they do. Case, accents, punctuation, spaces and
the plural make no difference, and a label that lists synonyms ("tabby, tabby cat") names what any of them does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from apibench.labels import spelling
from apibench.labels.imagenet import CLASSES
from apibench.labels.tree import Word, tree

RULE_VERSION = "2"
MOST_CLASSES = 120
MOST_STEPS = 7
RULE = (
    "a label names the image's ImageNet class if it is one of WordNet's words for the class (name), a word for something above "
    f"it that people would call the object, at most {MOST_STEPS} steps up and over at most {MOST_CLASSES} of the 1,000 classes "
    "(ancestor: Dog, not Animal), or in a list of what vendors call it (alias); words of several meanings count only as listed"
)

Rule = Literal["name", "ancestor", "alias", "none"]
_ORDER = ("name", "ancestor", "alias")


@dataclass(frozen=True)
class Match:
    """Whether a label names a class, and why.

    ``rule``: by which rule ("none": it does not). ``via``: the way from the class up to what the label stands for, in WordNet's
    words, empty without a match. ``depth``: the steps on it (0: the class itself), None without a match.
    """

    rule: Rule
    via: str
    depth: int | None

    @property
    def matched(self) -> bool:
        return self.rule != "none"


@dataclass(frozen=True)
class Limits:
    """How general an ancestor may be: the classes it covers, the steps up; and whether the lists written by hand count."""

    classes: int = MOST_CLASSES
    steps: int = MOST_STEPS
    by_hand: bool = True


LIMITS = Limits()


def match(label: str, index: int) -> Match:
    """Does ``label`` name the ImageNet class ``index`` (0 to 999)? Raises ValueError for another index."""
    return match_within(label, index, LIMITS)


def match_within(label: str, index: int, limits: Limits) -> Match:
    """:func:`match` under other limits, for measuring them; not cached."""
    if not 0 <= index < CLASSES:
        raise ValueError(f"{index} is not an ImageNet class index (0 to {CLASSES - 1})")
    found = list(_matches(label, index, limits))
    return min(found, key=lambda each: (_ORDER.index(each.rule), each.depth or 0)) if found else Match("none", "", None)


@lru_cache(maxsize=1 << 16)  # the same label is given to many variants of an image; only what came of it is remembered
def names_class(label: str, index: int) -> bool:
    """Whether it does, for whoever does not ask why."""
    return match_within(label, index, LIMITS).matched


@lru_cache(maxsize=1 << 16)
def _words(label: str, by_hand: bool) -> tuple[Word, ...]:
    """The words that a label is, those that are known."""
    found = (tree(by_hand).find(part) for part in spelling.parts(label))
    return tuple(word for word in found if word is not None)


def _matches(label: str, index: int, limits: Limits) -> Iterator[Match]:
    """Every way in which the label names the class."""
    known = tree(limits.by_hand)
    paths = known.paths[index]
    for word in _words(label, limits.by_hand):
        for synset in (word.named | word.aliased) & paths.keys():
            depth = len(paths[synset]) - 1
            way = " → ".join(known.titles[step] for step in paths[synset])
            if synset in word.aliased:
                yield Match("alias", way, depth)
            elif depth == 0:
                yield Match("name", way, depth)
            elif depth <= limits.steps and known.covers[synset] <= limits.classes and synset not in known.too_general:
                yield Match("ancestor", way, depth)
