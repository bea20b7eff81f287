"""Why a label names a class, or does not: what ``apibench labels explain`` says."""

from __future__ import annotations

import re

from apibench.errors import ApibenchError
from apibench.labels import spelling
from apibench.labels.imagenet import CLASSES, ImageNetClass, vocabulary
from apibench.labels.match import MOST_CLASSES, MOST_STEPS, Match, match
from apibench.labels.tree import tree


def find_class(given: str) -> ImageNetClass:
    """A class by its index, its WordNet id, or a name that only one class has. Raises ApibenchError for anything else."""
    classes = vocabulary().classes
    if re.fullmatch(r"[0-9]{1,9}", given):
        if int(given) >= CLASSES:
            raise ApibenchError(f"class {given}: ImageNet's classes are numbered 0 to {CLASSES - 1}")
        return classes[int(given)]
    keys = spelling.keys(given)
    for same in (
        [entry for entry in classes if entry.synset == given.strip().lower()],
        [entry for entry in classes if spelling.keys(entry.name)[0] in keys],
        [entry for entry in classes if any(spelling.keys(lemma)[0] in keys for lemma in entry.lemmas)],
    ):
        if len(same) == 1:
            return same[0]
        if same:
            several = ", ".join(f"{entry.index} {entry.name}" for entry in same)
            raise ApibenchError(f"class {given[:40]!r}: several have that name ({several}); give the number")
    raise ApibenchError(
        f"class {given[:40]!r}: no ImageNet class has that name; give its number (0 to {CLASSES - 1}), WordNet id or name"
    )


def matches(label: str) -> list[tuple[ImageNetClass, Match]]:
    """All classes that the label names, by index."""
    found = ((entry, match(label, entry.index)) for entry in vocabulary().classes)
    return [(entry, matched) for entry, matched in found if matched.matched]


def why_not(label: str, index: int | None = None) -> str:
    """Why the label does not name the class (or, without one, any class), in a sentence without its full stop."""
    known = tree()
    paths = known.paths[index] if index is not None else {synset: (synset,) for synset in known.covers}
    words = [word for word in map(known.find, spelling.parts(label)) if word is not None]
    if not words:
        return "no class, nothing above one and no alias has that name"
    for word in words:
        for synset in sorted((word.named | word.aliased) & paths.keys()):
            title, depth = known.titles[synset], len(paths[synset]) - 1
            if synset in known.too_general:
                return f"{title!r} ({synset}) names a kind of things, or lies above one that does: too general"
            if known.covers[synset] > MOST_CLASSES or depth > MOST_STEPS:
                return (
                    f"{title!r} ({synset}) covers {known.covers[synset]} classes and lies {depth} steps up: too general"
                )
    for word in words:
        if word.homonym is not None:
            return f"a word of several meanings: {word.homonym}"
    meant = sorted({known.titles[synset] for word in words for synset in word.named | word.aliased})
    return f"it stands for {', '.join(meant[:6])}{', …' if len(meant) > 6 else ''}, and that is not above the class"
