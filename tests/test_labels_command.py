"""``apibench labels explain``: whether a label names a class, by which rule, on what path, and why not."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.labels.explain import find_class, matches, why_not
from apibench.labels.match import RULE_VERSION
from apibench.terminal import run_command


def explain(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["labels", "explain", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("given", ["207", "n02099601", "golden retriever", "Golden-Retrievers"])
def test_a_match_is_shown_with_rule_and_path(given: str) -> None:
    said = explain("Dog", "--class", given)
    assert said.startswith("Dog names 207 Golden Retriever:\n")
    row = next(line for line in said.splitlines() if "n02099601" in line)
    assert "| ancestor |" in row
    assert "Golden Retriever → retriever → sporting dog → hunting dog → dog" in row
    assert f"version {RULE_VERSION}" in said


@pytest.mark.parametrize(
    ("label", "given", "why"),
    [
        ("Animal", "207", "'animal' (n00015388) names a kind of things, or lies above one that does: too general."),
        ("Head", "promontory", "a word of several meanings: of a body, not a promontory."),
        ("Cat", "lion", "a word of several meanings: a house cat, not a big cat."),
        ("Poodle", "207", "it stands for poodle, and that is not above the class."),
        ("Snout", "207", "no class, nothing above one and no alias has that name."),
    ],
)
def test_what_does_not_match_is_told_why(label: str, given: str, why: str) -> None:
    assert f"does not name {find_class(given).index} " in explain(label, "--class", given)
    assert why in explain(label, "--class", given)


def test_without_a_class_all_that_match_are_listed() -> None:
    said = explain("Crane")
    assert "Crane names 2 of 1,000 classes" in said
    assert "134" in said
    assert "517" in said
    assert "Dog names 118 of 1,000 classes" in explain("Dog")
    assert "Animal does not name any class: 'animal'" in explain("Animal")
    assert "Xyzzy does not name any class: no class," in explain("Xyzzy")
    assert [entry.index for entry, _ in matches("mouse")] == [673]


def test_json_says_the_same() -> None:
    said = json.loads(explain("Puppy", "--class", "207", "--json"))
    assert said == {
        "label": "Puppy",
        "rule_version": RULE_VERSION,
        "classes": [
            {
                "index": 207,
                "synset": "n02099601",
                "name": "Golden Retriever",
                "matched": True,
                "rule": "alias",
                "via": "Golden Retriever → retriever → sporting dog → hunting dog → dog",
                "depth": 4,
            }
        ],
        "why_not": None,
    }
    refused = json.loads(explain("Animal", "--json"))
    assert refused["classes"] == []
    assert "too general" in refused["why_not"]
    assert json.loads(explain("Animal", "--class", "1", "--json"))["classes"][0]["matched"] is False


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        ("1000", "class 1000: ImageNet's classes are numbered 0 to 999"),
        ("99999999999", "class '99999999999'"),
        ("-1", "class '-1'"),
        ("nope", "class 'nope': no ImageNet class has that name"),
        ("", "class ''"),
        ("n00000001", "class 'n00000001'"),
        ("grass snake", "several have that name (55 Green Snake, 57 Garter Snake); give the number"),
    ],
)
def test_a_class_that_there_is_not_is_named_in_few_lines(
    given: str, culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ApibenchError):
        find_class(given)
    assert run_command(cli, ["labels", "explain", "Dog", f"--class={given}"]) == 2
    said = capsys.readouterr().err
    assert culprit in said
    assert 1 <= len(said.strip().splitlines()) <= 3


def test_a_hostile_label_is_shown_as_text() -> None:
    said = explain("\x1b[31mred\u202e" + "x" * 500)
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said.splitlines()[0]) < 250


def test_every_refusal_has_a_reason() -> None:
    for label in ("Animal", "Toy", "Vehicle", "Brass", "", "Dog"):
        assert why_not(label, 954)


def test_the_rule_stands_in_the_help() -> None:
    said = " ".join(CliRunner().invoke(cli, ["labels", "--help"]).output.split())
    assert f"The rule, version {RULE_VERSION}: a label names" in said
    assert "explain" in said
