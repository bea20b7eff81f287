"""Make ``data/imagenet_classes.json`` again from WordNet 3.0's ``data.noun``: ``python -m apibench.labels.wordnet DATA.NOUN``.

Only for whoever changes the vocabulary; nothing at run time needs WordNet. What was chosen by hand (which synsets are labels
and what they are called, which classes are renamed, which of WordNet's links are not followed) is read from the file itself;
names, parents and lemmas are computed. The format of ``data.noun`` is wndb(5WN).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from apibench import data
from apibench.errors import ApibenchError
from apibench.labels.imagenet import FILE, display_name

Content = dict[str, Any]


@dataclass(frozen=True)
class Synset:
    """A noun synset: its words, and the ids of its hypernyms."""

    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...]


def read_nouns(lines: Iterable[str]) -> dict[str, Synset]:
    """Read ``data.noun``: offset, lexicographer's file, type, word count (hex), words, pointer count, pointers, ``|``, gloss."""
    nouns = {}
    for line in lines:
        if line.startswith("  ") or not line.strip():  # the licence at the top is indented
            continue
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        lemmas = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
        pointers = fields[5 + 2 * count :]
        hypernyms = tuple(
            "n" + target
            for kind, target, part in zip(pointers[0::4], pointers[1::4], pointers[2::4], strict=True)
            if kind == "@" and part == "n"
        )
        nouns["n" + fields[0]] = Synset(lemmas, hypernyms)
    return nouns


def build(nouns: Mapping[str, Synset], content: Content) -> Content:
    """The file's content with everything that follows from WordNet computed anew."""
    labels: dict[str, str] = {synset: name for name, synsets, _ in content["groups"] for synset in synsets}
    cut = {(child, parent) for child, parent, _ in content["cut"]}

    @cache
    def above(synset: str) -> frozenset[str]:
        """The labels of all ancestors, on every path."""
        found: set[str] = set()
        for parent in nouns[synset].hypernyms:
            if (synset, parent) not in cut:
                found |= above(parent) | ({labels[parent]} if parent in labels else set())
        return frozenset(found)

    direct = {name: frozenset().union(*(above(s) for s in synsets)) - {name} for name, synsets, _ in content["groups"]}
    ordered = _Order(direct)
    groups = [
        [name, sorted(synsets), ordered.closure(direct[name])]
        for name, synsets, _ in sorted(content["groups"], key=lambda group: str(group[0]))
    ]
    classes = [
        [
            synset,
            content["renamed"].get(synset, display_name(nouns[synset].lemmas[0])),
            list(nouns[synset].lemmas),
            ordered.closure(above(synset)),
        ]
        for synset in sorted(entry[0] for entry in content["classes"])
    ]
    return {**content, "groups": groups, "classes": classes}


class _Order:
    """The labels as a hierarchy of their own: a label that stands for two synsets has the parents of both."""

    def __init__(self, direct: Mapping[str, frozenset[str]]) -> None:
        self._direct = direct
        self._depths: dict[str, int] = {}

    def closure(self, names: Iterable[str]) -> list[str]:
        """The labels and all their ancestors, most specific first (by the longest path up, then by name)."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._direct[name])
        return sorted(found, key=lambda name: (-self._depth(name, ()), name))

    def _depth(self, name: str, below: tuple[str, ...]) -> int:
        if name in below:
            raise ApibenchError(f"{name}: a label may not be above itself ({' < '.join((*below, name))})")
        if name not in self._depths:
            path = (*below, name)
            self._depths[name] = 1 + max((self._depth(parent, path) for parent in self._direct[name]), default=-1)
        return self._depths[name]


def dump(content: Content) -> str:
    """The file's text: a header, then one group, link or class a line."""
    header, tables = [], []
    for key, value in content.items():
        line = json.dumps(key) + ": "
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value)
            tables.append(f"{line}[\n  {rows}\n]")
        else:
            header.append(line + json.dumps(value, ensure_ascii=False, indent=1))
    return "{\n" + ",\n".join(header + tables) + "\n}\n"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m apibench.labels.wordnet DATA.NOUN", file=sys.stderr)
        return 2
    target = data.path(FILE)
    with Path(arguments[0]).open(encoding="latin-1") as lines:
        nouns = read_nouns(lines)
    target.write_text(dump(build(nouns, json.loads(target.read_text(encoding="utf-8")))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
