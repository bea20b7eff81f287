"""How a label is spelt: one key for all spellings of a word, so that "T-Shirts", "t shirt" and "tshirt" are one."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 200  # characters of a label that are read; no vendor's is longer than a line

_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "hooves": "hoof",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "mice": "mouse",
    "oxen": "ox",
    "people": "person",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "wives": "wife",
    "wolves": "wolf",
}
_ENDINGS = (("men", "man"), ("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("zzes", "zz"))


def keys(label: str) -> tuple[str, ...]:
    """The keys of a label, to be tried in order: as it is written, then with its last word in the singular.

    A key has no case, accents, apostrophes, punctuation or spaces ("Jack-O'-Lantern": ``jackolantern``). None for a label without
    a letter or digit.
    """
    words = _words(label)
    if not words:
        return ()
    return tuple(dict.fromkeys(("".join(words), "".join((*words[:-1], singular(words[-1]))))))


def parts(label: str) -> tuple[str, ...]:
    """A label and, where it lists synonyms ("tabby, tabby cat"; "Sofa / Couch"), each of them."""
    listed = [part.strip() for part in re.split(r"[,;|/]", label[:LONGEST])]
    return tuple(dict.fromkeys(part for part in (label[:LONGEST], *listed) if part))


def singular(word: str) -> str:
    """An English noun in the singular, by its ending; a word that only looks like a plural ("Glass", "Bus") is left alone."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3:
        return word
    for plural, ending in _ENDINGS:
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word[: -len(plural)] + ending
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _words(label: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", label[:LONGEST].casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c) and c not in "'’ʼ`")
    return re.findall(r"[^\W_]+", bare)
