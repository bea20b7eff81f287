"""The summary in words, of rows that are not all alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibench.report import compare, frames, words
from tests.storemaker import StoreMaker

ATTACK = "mi/eps8"
OTHERS = ["dog"], ["fox"]


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "store.sqlite")


def said(maker: StoreMaker) -> str:
    ((attack, sentences),) = words.by_attack(compare.rows(compare.answers(frames.read(maker.close()))))
    assert attack == ATTACK
    return sentences


def ask(maker: StoreMaker, photographs: int, kept: int, purified: dict[str, int], changed: int = 0, **who: str) -> None:
    """Of so many, so many keep their label attacked, and with each purifier; it changes ``changed`` of the clean ones."""
    for number in range(photographs):
        maker.ask(str(number), "clean", ["dog"], **who)  # type: ignore[arg-type]
        maker.ask(str(number), ATTACK, OTHERS[number >= kept], **who)  # type: ignore[arg-type]
        for purifier, keeps in purified.items():
            maker.ask(str(number), f"{ATTACK}+{purifier}", OTHERS[number >= keeps], **who)  # type: ignore[arg-type]
            maker.ask(str(number), f"clean+{purifier}", OTHERS[number < changed], **who)  # type: ignore[arg-type]


def test_equal_shares_of_different_numbers_are_both_told(maker: StoreMaker) -> None:
    ask(maker, 2, 1, {}, provider="acme")
    ask(maker, 10, 5, {}, provider="zeta")
    assert said(maker) == "changed the first label of 1 of 2 (50 %) to 5 of 10 photographs (50 %), by provider."


def test_a_provider_that_has_nothing_to_get_back_is_not_counted(maker: StoreMaker) -> None:
    ask(maker, 10, 10, {"jpeg:50/1": 10}, provider="acme")
    ask(maker, 10, 4, {"jpeg:50/1": 6}, provider="zeta")
    assert "jpeg:50/1 gave back the most: 2 of 6 (33 %) on balance at 1 of 2 providers (not significant)" in said(maker)


def test_one_provider_asked_twice_is_two_measurements(maker: StoreMaker) -> None:
    ask(maker, 10, 4, {"jpeg:50/1": 6}, campaign="may")
    ask(maker, 10, 2, {"jpeg:50/1": 6}, campaign="june")
    sentences = said(maker)
    assert "in the measurement that withstood it best, of 8 of 10 (80 %) in the one that did worst" in sentences
    assert "2 of 6 (33 %) to 4 of 8 (50 %) on balance, by measurement" in sentences


def test_a_purifier_asked_of_few_does_not_win_over_one_asked_of_all(maker: StoreMaker) -> None:
    ask(maker, 10, 2, {"jpeg:50/1": 4, "ncis/2": 10}, provider="acme")
    ask(maker, 10, 2, {"jpeg:50/1": 4}, provider="zeta")
    assert "Of these, jpeg:50/1 gave back the most: 2 of 8 (25 %) on balance at each provider" in said(maker)


def test_of_equals_the_cheaper_one_is_named(maker: StoreMaker) -> None:
    ask(maker, 10, 2, {"bits:3/1": 5}, changed=6)
    ask(maker, 10, 2, {"jpeg:50/1": 5}, changed=1)
    assert "jpeg:50/1 gave back the most: 3 of 8 (38 %)" in said(maker)


def test_where_none_was_asked_of_all_none_is_named(maker: StoreMaker) -> None:
    ask(maker, 10, 2, {"jpeg:50/1": 4}, provider="acme")
    ask(maker, 10, 2, {"ncis/2": 6}, provider="zeta")
    assert said(maker).endswith("No purifier was asked of all of them: the table has each.")
