"""The 1,000 classes of ImageNet-1k with their names, and the labels above them that a labelling API also says.

Everything comes from ``data/imagenet_classes.json``, which :mod:`apibench.labels.wordnet` makes from WordNet 3.0; the rule by
which parents were chosen stands in that file. Needs neither torch nor WordNet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from apibench import data
from apibench.errors import ApibenchError

FILE = "imagenet_classes.json"
CLASSES = 1000

_SMALL_WORDS = frozenset({"a", "and", "for", "in", "of", "the"})


@dataclass(frozen=True)
class ImageNetClass:
    """One class. ``index`` is its place in a classifier's logits (classes are sorted by WordNet id).

    ``lemmas`` are WordNet's words for it, in WordNet's order; ``name`` is one of them as a labelling API writes it, and no
    other class or group has the same. ``parents`` are names of groups, most specific first, all ancestors included.
    """

    index: int
    synset: str
    name: str
    lemmas: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A label above classes ("Dog"). ``members`` are the indices of all classes under it, ascending.

    ``synsets`` are the WordNet ids the label stands for (more than one where WordNet splits what people call the same).
    A group's members are a subset of those of each of its ``parents``.
    """

    name: str
    synsets: tuple[str, ...]
    parents: tuple[str, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """All labels: ``classes`` by index, ``groups`` by name (in the order of their names)."""

    classes: tuple[ImageNetClass, ...]
    groups: Mapping[str, Group]
    rule: str


@cache
def vocabulary() -> Vocabulary:
    """Read the vocabulary. Raises ApibenchError if the data file is missing or not what it should be."""
    path = data.path(FILE)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(
            ImageNetClass(index, synset, name, tuple(lemmas), tuple(parents))
            for index, (synset, name, lemmas, parents) in enumerate(content["classes"])
        )
        members: dict[str, list[int]] = {name: [] for name, _, _ in content["groups"]}
        for entry in classes:
            for parent in entry.parents:
                members[parent].append(entry.index)
        groups = {
            name: Group(name, tuple(synsets), tuple(parents), tuple(members[name]))
            for name, synsets, parents in content["groups"]
        }
        rule = str(content["rule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApibenchError(f"{path}: not readable as a vocabulary; install apibench again") from error
    if len(classes) != CLASSES:
        raise ApibenchError(f"{path}: {len(classes)} classes instead of {CLASSES}; install apibench again")
    return Vocabulary(classes, MappingProxyType(groups), rule)


def display_name(lemma: str) -> str:
    """A WordNet lemma as a labelling API writes it: ``golden retriever`` -> ``Golden Retriever``."""
    words = lemma.split(" ")
    return " ".join(
        word if i > 0 and word in _SMALL_WORDS else word[:1].upper() + word[1:] for i, word in enumerate(words)
    )
