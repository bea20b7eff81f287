"""What a vendor without a taxonomy says of an image: classes and more general terms, each with a score of its own.

Rekognition names each label's parents, so apibench can leave out what is only above another label. The other three vendors name
none: "dog" and "golden retriever" stand side by side. The emulated ones do the same, by a rule that keeps the network's own
first class the first label: a class has its probability, and a general term the score of its best class, less two per cent for
each level it is above that class. It is the emulator's choice; how the real services score general terms is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from apibench.emulator.answerer import Probabilities
from apibench.labels import vocabulary

LESS_A_LEVEL = 0.98


@dataclass(frozen=True)
class Term:
    """A label to be written in a vendor's style. ``synset`` is WordNet's id (``n02099601``), ``score`` in [0, 1]."""

    name: str  # as the vocabulary has it: "Golden Retriever"
    synset: str
    score: float


def terms(probabilities: Probabilities, least: float = 0.0) -> list[Term]:
    """Every class and general term with a score above 0 and of at least ``least``, highest first; of equal ones the class first.

    ``probabilities``: (1000,), of the ImageNet classes. Scores are float32 numbers, as networks compute them.
    """
    words = vocabulary()
    factors = _factors()
    general = (factors * probabilities[None, :].astype(np.float32)).max(axis=1)
    scores = np.concatenate([probabilities.astype(np.float32), general])
    names = [(entry.name, entry.synset) for entry in words.classes]
    names += [(group.name, group.synsets[0]) for group in words.groups.values()]
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if scores[i] >= least and scores[i] > 0]
    return [Term(name=names[i][0], synset=names[i][1], score=float(scores[i])) for i in order]


@cache
def _factors() -> npt.NDArray[np.float32]:
    """(groups, 1000): what share of a class's probability a term above it has; 0 where it is not above it."""
    words = vocabulary()
    rows = {name: row for row, name in enumerate(words.groups)}
    factors = np.zeros((len(rows), len(words.classes)), dtype=np.float32)
    for entry in words.classes:
        for level, parent in enumerate(entry.parents, start=1):
            factors[rows[parent], entry.index] = LESS_A_LEVEL**level
    return factors
