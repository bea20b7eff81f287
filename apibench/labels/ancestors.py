"""Make ``data/labels/ancestors.json`` from WordNet 3.0's ``data.noun``: ``python -m apibench.labels.ancestors DATA.NOUN``.

Only for whoever changes the rule; nothing at run time needs WordNet. The file holds what :mod:`apibench.labels.match` has to
know of WordNet: for each of the 1,000 classes its hypernyms, and for each synset above one its words and its hypernyms. The links
that the vocabulary (``data/imagenet_classes.json``) does not follow are left out here too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from apibench import data
from apibench.labels import imagenet, wordnet
from apibench.labels.wordnet import Content, Synset

FILE = "labels/ancestors.json"
VERSION = 1
CONTENT = (
    "What lies above the 1,000 classes of ImageNet-1k in WordNet's noun hierarchy. classes: the class's synset, its hypernyms. "
    "synsets: a synset above a class, its words in WordNet's order, its hypernyms. Links that the vocabulary cuts "
    "(data/imagenet_classes.json, 'cut') are left out. What a word of these may match is decided by apibench.labels.match."
)


def build(nouns: Mapping[str, Synset], vocabulary: Content) -> Content:
    """The file's content. ``vocabulary`` is that of ``data/imagenet_classes.json``."""
    cut = {(child, parent) for child, parent, _ in vocabulary["cut"]}

    def parents(synset: str) -> list[str]:
        return [parent for parent in nouns[synset].hypernyms if (synset, parent) not in cut]

    classes = [[entry[0], parents(entry[0])] for entry in vocabulary["classes"]]
    above: set[str] = set()
    waiting = [parent for _, found in classes for parent in found]
    while waiting:
        synset = waiting.pop()
        if synset not in above:
            above.add(synset)
            waiting.extend(parents(synset))
    return {
        "source": vocabulary["source"],
        "content": CONTENT,
        "version": VERSION,
        "licence": vocabulary["licence"],
        "classes": classes,
        "synsets": [[synset, list(nouns[synset].lemmas), parents(synset)] for synset in sorted(above)],
    }


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m apibench.labels.ancestors DATA.NOUN", file=sys.stderr)
        return 2
    with Path(arguments[0]).open(encoding="latin-1") as lines:
        nouns = wordnet.read_nouns(lines)
    vocabulary = json.loads(data.path(imagenet.FILE).read_text(encoding="utf-8"))
    target = data.root() / FILE
    target.parent.mkdir(exist_ok=True)
    target.write_text(wordnet.dump(build(nouns, vocabulary)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
