"""Labels of the emulated vendors that have no taxonomy: the network's order, every term once, general ones below their class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.emulator.terms import LESS_A_LEVEL, terms
from apibench.labels import vocabulary

RETRIEVER = 207


def test_a_class_comes_before_what_is_above_it() -> None:
    probabilities = np.zeros(1000)
    probabilities[RETRIEVER] = 0.5
    found = terms(probabilities)
    assert [term.name for term in found] == [
        "Golden Retriever",
        *vocabulary().classes[RETRIEVER].parents,
    ]
    scores = [term.score for term in found]
    assert scores == pytest.approx([0.5 * LESS_A_LEVEL**level for level in range(len(found))], rel=1e-6)
    assert found[0].synset == vocabulary().classes[RETRIEVER].synset


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.integers(0, 2**32), st.integers(0, 100))
def test_the_first_term_is_the_networks_first_class(weights: list[int], seed: int, percent: int) -> None:
    probabilities = np.zeros(1000)
    places = np.random.default_rng(seed).permutation(1000)[: len(weights)]
    probabilities[places] = np.array(weights) / sum(weights)
    least = percent / 100
    found = terms(probabilities, least)
    scores = [term.score for term in found]
    assert scores == sorted(scores, reverse=True)
    assert all(max(least, 1e-12) <= score <= 1 for score in scores)
    if found:
        best = {vocabulary().classes[i].name for i in np.flatnonzero(probabilities == probabilities.max())}
        assert found[0].name in best


def test_no_two_terms_are_written_alike_or_have_one_id() -> None:
    """Azure and Clarifai write names in lower case, and Google's and Clarifai's ids are made of the synset's."""
    found = terms(np.full(1000, 0.001))
    assert len(found) == 1000 + len(vocabulary().groups)
    assert len({term.name.lower() for term in found}) == len(found)
    assert len({term.synset for term in found}) == len(found)
