"""What words may name a class and how far above it they lie: the label map's two data files, read once.

``data/labels/ancestors.json`` is made from WordNet 3.0 by :mod:`apibench.labels.ancestors`; ``data/labels/aliases.json`` is
written by hand. What follows from them is decided by :mod:`apibench.labels.match`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from apibench import data
from apibench.errors import ApibenchError
from apibench.labels import ancestors, spelling
from apibench.labels.imagenet import vocabulary

ALIASES = "labels/aliases.json"


@dataclass(frozen=True)
class Word:
    """The synsets a word may stand for: by WordNet or the vocabulary (``named``), by the list of aliases (``aliased``).

    ``homonym``: why the word stands for nothing else, where that was decided by hand.
    """

    named: frozenset[str] = frozenset()
    aliased: frozenset[str] = frozenset()
    homonym: str | None = None


@dataclass(frozen=True)
class Tree:
    """The classes and what lies above them.

    ``paths``: by class index, from each synset above the class, and the class itself, to the shortest way there (the class
    first). ``covers``: the number of classes below a synset. ``titles``: a synset's first word. ``words``: by
    :func:`spelling.keys`. ``too_general``: synsets that name a kind of things, not the thing.
    """

    paths: tuple[Mapping[str, tuple[str, ...]], ...]
    covers: Mapping[str, int]
    titles: Mapping[str, str]
    words: Mapping[str, Word]
    too_general: frozenset[str]

    def find(self, label: str) -> Word | None:
        """The word a label is; None if it is none that is known."""
        return next((self.words[key] for key in spelling.keys(label) if key in self.words), None)


@cache
def tree(by_hand: bool = True) -> Tree:
    """The label map; ``by_hand=False`` leaves out what was written by hand, to measure what that is worth.

    Raises ApibenchError if a data file is missing or not what it should be.
    """
    try:
        return _tree(_read(ancestors.FILE), _read(ALIASES) if by_hand else {})
    except (KeyError, TypeError, ValueError) as error:
        raise ApibenchError(f"{data.root() / 'labels'}: not readable as a label map; install apibench again") from error


def _tree(above: Mapping[str, Any], by_hand: Mapping[str, Any]) -> Tree:
    classes = vocabulary().classes
    parents: dict[str, Sequence[str]] = dict(above["classes"])
    parents |= {synset: found for synset, _, found in above["synsets"]}
    paths = tuple(_paths(entry.synset, parents) for entry in classes)
    covers: dict[str, int] = {}
    for found in paths:
        for synset in found:
            covers[synset] = covers.get(synset, 0) + 1
    titles = {synset: lemmas[0] for synset, lemmas, _ in above["synsets"]} | {e.synset: e.name for e in classes}
    too_general = _and_above([synset for synset, _ in by_hand.get("too_general", ())], parents)
    return Tree(
        paths,
        MappingProxyType(covers),
        MappingProxyType(titles),
        MappingProxyType(_words(above, by_hand)),
        frozenset(too_general),
    )


def _paths(synset: str, parents: Mapping[str, Sequence[str]]) -> Mapping[str, tuple[str, ...]]:
    """The shortest way up from a class to each synset above it."""
    found: dict[str, tuple[str, ...]] = {synset: (synset,)}
    waiting = [synset]
    for current in waiting:
        for parent in parents[current]:
            if parent not in found:
                found[parent] = (*found[current], parent)
                waiting.append(parent)
    return MappingProxyType(found)


def _and_above(synsets: Sequence[str], parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The synsets and everything above them."""
    found = list(synsets)
    for synset in found:
        found.extend(parent for parent in parents[synset] if parent not in found)
    return found


def _words(above: Mapping[str, Any], by_hand: Mapping[str, Any]) -> dict[str, Word]:
    """Every word that may match, by its key."""
    named = _named(above)
    homonyms = {spelling.keys(word)[0]: (synsets, why) for word, synsets, why in by_hand.get("homonyms", ())}
    named |= {key: set(synsets) for key, (synsets, _) in homonyms.items()}
    aliased: dict[str, set[str]] = {}
    for word, synsets, _ in by_hand.get("aliases", ()):
        aliased.setdefault(spelling.keys(word)[0], set()).update(synsets)
    return {
        key: Word(
            frozenset(named.get(key, ())),
            frozenset(aliased.get(key, set()) - named.get(key, set())),
            homonyms[key][1] if key in homonyms else None,
        )
        for key in named.keys() | aliased.keys()
    }


def _named(above: Mapping[str, Any]) -> dict[str, set[str]]:
    """The synsets of each word of WordNet and of the vocabulary, by the word's key."""
    exact: dict[str, set[str]] = {}
    singular: dict[str, set[str]] = {}

    def add(word: str, synset: str) -> None:
        key, *others = spelling.keys(word)
        exact.setdefault(key, set()).add(synset)
        for other in others:
            singular.setdefault(other, set()).add(synset)

    known = vocabulary()
    for entry in known.classes:
        for word in {entry.name, *entry.lemmas}:
            add(word, entry.synset)
    of_classes = frozenset(exact)
    for synset, lemmas, _ in above["synsets"]:
        for word in lemmas:
            # A word that names a class stands for that alone: "Monitor" is the screen, not the lizards.
            if spelling.keys(word)[0] not in of_classes:
                add(word, synset)
    for group in known.groups.values():
        for synset in group.synsets:
            add(group.name, synset)
    return singular | exact  # "Glasses" is on a nose, though the singular stands in a cupboard


def _read(name: str) -> dict[str, Any]:
    path = data.path(name)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ApibenchError(f"{path}: not readable as a label map; install apibench again") from error
    return content
