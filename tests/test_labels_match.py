"""Which label names which class: by which rule, on what path, in every spelling; and the data files behind it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apibench import data
from apibench.errors import ApibenchError
from apibench.labels import ancestors, spelling, vocabulary, wordnet
from apibench.labels.match import LIMITS, RULE, RULE_VERSION, Limits, Match, match, match_within, names_class
from apibench.labels.tree import ALIASES, tree

# What RULE_VERSION stands for. Whoever changes a list or a limit gives the rule a new version, and enters it here: results of
# two versions are not comparable, and a report names the version.
VERSIONS = {"1": "fe56706cb3bef88c", "2": "b099a6d94cabb94b"}

NAMES = [
    ("Golden Retriever", 207, "name", 0),
    ("golden-retrievers", 207, "name", 0),
    ("Dog", 207, "ancestor", 4),
    ("Retriever", 207, "ancestor", 1),
    ("Puppy", 207, "alias", 4),
    ("Bird", 10, "ancestor", 4),
    ("Cat", 281, "ancestor", 2),
    ("tabby, tabby cat", 281, "name", 0),
    ("Bird of Prey", 22, "ancestor", 2),
    ("Car", 817, "ancestor", 1),
    ("Automobile", 817, "ancestor", 1),
    ("Couch", 831, "ancestor", 2),
    ("Sofa / Couch", 831, "ancestor", 2),
    ("Smartphone", 487, "alias", 0),
    ("Mobile Phone", 487, "name", 0),
    ("Cellphone", 487, "name", 0),
    ("Labrador", 208, "alias", 0),
    ("Crane", 134, "name", 0),
    ("Crane", 517, "name", 0),
    ("Crane (Bird)", 134, "name", 0),
    ("Mouse", 673, "name", 0),
    ("Jay", 17, "name", 0),
    ("Drumstick", 542, "name", 0),
    ("Plane", 404, "ancestor", 1),
    ("Glasses", 837, "ancestor", 1),
    ("Sunglasses", 836, "alias", 0),
    ("Consommé", 925, "name", 0),
    ("JACK O' LANTERN", 607, "name", 0),
    ("T Shirt", 610, "name", 0),
    ("strawberries", 949, "name", 0),
    ("Geese", 99, "name", 0),
]
OTHERS = [
    ("Animal", 207),
    ("Mammal", 207),
    ("Canine", 207),
    ("Snout", 207),
    ("Labrador Retriever", 207),
    ("Vehicle", 817),
    ("Furniture", 831),
    ("Food", 963),
    ("Musical Instrument", 402),
    ("Plant", 985),
    ("Person", 981),
    ("Crane (Bird)", 517),
    ("Construction Crane", 134),
    ("Plane", 726),
    ("Head", 976),
    ("Hip", 989),
    ("Cat", 291),
    ("Cardigan", 264),
    ("Monitor", 48),
    ("Glass", 837),
    ("Toy", 151),
    ("", 207),
    ("?!", 207),
    ("犬", 207),
]


@pytest.mark.parametrize(("label", "index", "rule", "depth"), NAMES)
def test_a_label_names_a_class(label: str, index: int, rule: str, depth: int) -> None:
    found = match(label, index)
    assert (found.matched, found.rule, found.depth) == (True, rule, depth)
    assert found.via.startswith(vocabulary().classes[index].name)
    assert found.via.count(" → ") == depth


@pytest.mark.parametrize(("label", "index"), OTHERS)
def test_a_label_names_something_else_or_too_much(label: str, index: int) -> None:
    assert match(label, index) == Match("none", "", None)
    assert not match(label, index).matched


def test_the_path_goes_from_the_class_up_to_the_word() -> None:
    assert match("dogs", 207).via == "Golden Retriever → retriever → sporting dog → hunting dog → dog"
    assert match("puppy", 207).via == match("dog", 207).via


def test_every_class_is_named_by_its_name() -> None:
    for entry in vocabulary().classes:
        assert match(entry.name, entry.index).rule == "name", entry


def test_names_of_classes_hardly_name_other_classes() -> None:
    """Of every tenth class, and of one whose name other classes have on purpose."""
    classes = vocabulary().classes
    some = [*classes[::10], classes[947]]
    twice = [(a.name, b.name) for a in some for b in classes if a is not b and match(a.name, b.index).matched]
    assert twice == [("Laptop", "Notebook Computer"), *(("Mushroom", classes[index].name) for index in range(992, 998))]


def test_no_ancestor_is_beyond_the_limits() -> None:
    known = tree()
    assert str(LIMITS.classes) in RULE
    assert str(LIMITS.steps) in RULE
    for index in range(0, 1000, 7):
        for synset, path in known.paths[index].items():
            found = match(known.titles[synset], index)
            if found.rule == "ancestor" and found.depth == len(path) - 1:
                assert known.covers[synset] <= LIMITS.classes
                assert found.depth <= LIMITS.steps


def test_limits_decide() -> None:
    assert match_within("Dog", 207, Limits(classes=118, steps=4)).matched
    assert not match_within("Dog", 207, Limits(classes=117, steps=4)).matched
    assert not match_within("Dog", 207, Limits(classes=118, steps=3)).matched
    assert match_within("Mammal", 207, Limits(classes=1000, steps=17, by_hand=False)).rule == "ancestor"
    assert not match_within("Mammal", 207, Limits(classes=1000, steps=17)).matched
    assert not match_within("Puppy", 207, Limits(by_hand=False)).matched
    assert match_within("Head", 976, Limits(by_hand=False)).rule == "name"


@pytest.mark.parametrize("index", [-1, 1000])
def test_a_class_that_there_is_not_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"{index} is not an ImageNet class index"):
        match("Dog", index)


def test_hostile_labels_match_nothing_and_take_no_time() -> None:
    started = time.perf_counter()
    for label in (
        "\x00",
        "a" * 10**6,
        "," * 10**6,
        "<script>",
        "'; --",
        "dog\u202e",
        "\ud800",
        "=Dog()",
        "Dog" + " " * 10**6,
    ):
        match(label, 207)
    assert not match("a" * 10**6, 207).matched
    assert time.perf_counter() - started < 1


def test_it_is_fast() -> None:
    assert names_class("Dog", 207)
    assert not names_class("Wolf", 207)
    started = time.perf_counter()
    for _ in range(100_000):
        names_class("Dog", 207)
    assert time.perf_counter() - started < 1


def test_it_needs_no_torch() -> None:
    code = "import sys; from apibench.labels.match import match; match('Dog', 1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


# --- spelling ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("T-Shirts", "tshirt"),
        ("Jack-O'-Lantern", "jack o lantern"),
        ("Crème Brûlée", "creme brulee"),
        ("Crêpes", "crepe"),
        ("ice cream", "Icecream"),
        ("Saint-Bernard", "SAINT BERNARD"),
        ("wolves", "wolf"),
        ("boxes", "box"),
        ("watches", "watch"),
        ("firemen", "fireman"),
        ("Ｄｏｇ", "dog"),
    ],
)
def test_spellings_of_one_word_share_a_key(one: str, other: str) -> None:
    assert set(spelling.keys(one)) & set(spelling.keys(other))


@pytest.mark.parametrize("word", ["glass", "bus", "octopus", "tennis", "gas", "iris"])
def test_a_word_that_only_looks_like_a_plural_is_left_alone(word: str) -> None:
    assert spelling.singular(word) == word


def test_a_label_that_lists_synonyms_is_taken_apart() -> None:
    assert spelling.parts("sofa, couch/ lounge") == ("sofa, couch/ lounge", "sofa", "couch", "lounge")
    assert spelling.parts("dog") == ("dog",)
    assert spelling.keys("–") == ()


# --- the data files ---


def test_the_files_are_small_and_say_where_they_come_from() -> None:
    above = json.loads(data.path(ancestors.FILE).read_text(encoding="utf-8"))
    by_hand = json.loads(data.path(ALIASES).read_text(encoding="utf-8"))
    assert "WordNet 3.0" in above["source"]
    assert "Copyright 2006 by Princeton University" in above["licence"]
    assert "person" in by_hand["criterion"]
    assert sum(path.stat().st_size for path in data.path("labels").iterdir()) < 500_000


def test_what_is_written_by_hand_is_known_and_said_once() -> None:
    by_hand = json.loads(data.path(ALIASES).read_text(encoding="utf-8"))
    known = tree()
    for synset, title in by_hand["too_general"]:
        assert known.titles[synset] == title
    for table in ("homonyms", "aliases"):
        for word, synsets, reason in by_hand[table]:
            assert reason, word
            assert set(synsets) <= known.covers.keys(), word
        spelt = [spelling.keys(word)[0] for word, _, _ in by_hand[table]]
        assert table == "aliases" or len(set(spelt)) == len(spelt)
    without = tree(by_hand=False)
    for word, _, _ in by_hand["homonyms"]:
        assert without.find(word) is not None, f"{word} would match nothing anyway"
    for word, synsets, _ in by_hand["aliases"]:
        named = known.words[spelling.keys(word)[0]].named
        assert not set(synsets) <= named, f"{word} names that without an alias"


def test_what_lies_above_a_kind_of_things_is_one_too() -> None:
    known = tree()
    above = {synset: found for synset, _, found in json.loads(data.path(ancestors.FILE).read_text("utf-8"))["synsets"]}
    for synset in known.too_general:
        assert set(above[synset]) <= known.too_general


def test_a_change_of_the_lists_or_limits_is_a_new_version() -> None:
    digest = hashlib.sha256(repr((LIMITS, RULE)).encode())
    for name in (ancestors.FILE, ALIASES):
        digest.update(data.path(name).read_bytes())
    assert VERSIONS[RULE_VERSION] == digest.hexdigest()[:16], "give the rule a new version, and measure it again"


@pytest.mark.parametrize("text", ['{"version": 1', '{"version": 1}', '{"classes": [1], "synsets": []}'])
def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    vocabulary()
    broken = tmp_path / "ancestors.json"
    broken.write_text(text, encoding="utf-8")
    monkeypatch.setattr("apibench.data.path", lambda _: broken)
    with pytest.raises(ApibenchError, match="not readable as a label map; install apibench again"):
        tree.__wrapped__()


NOUNS = """\
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | what is
00000002 05 n 02 animal 0 beast 1 001 @ 00000001 n 0000 | moves
00000003 05 n 01 canine 0 002 @ 00000002 n 0000 ~ 00000006 n 0000 | has fangs
00000004 05 n 01 domestic_animal 0 002 @ 00000002 n 0000 + 00000009 v 0101 | is kept
00000005 06 n 01 container 0 001 @ 00000001 n 0000 | holds
00000006 05 n 02 lap_dog 0 Canis_familiaris 0 003 @ 00000003 n 0000 @ 00000004 n 0000 @ 00000005 n 0000 | barks
00000007 05 n 01 plant 0 001 @ 00000001 n 0000 | grows
"""


def test_the_builder_keeps_what_is_above_a_class_and_no_cut_link() -> None:
    words = {
        "source": "WordNet",
        "licence": "free",
        "cut": [["n00000006", "n00000005", "a dog holds nothing"]],
        "classes": [["n00000006", "Lap Dog", [], []]],
    }
    built = ancestors.build(wordnet.read_nouns(NOUNS.splitlines()), words)
    assert built["classes"] == [["n00000006", ["n00000003", "n00000004"]]]
    assert built["synsets"] == [
        ["n00000001", ["entity"], []],
        ["n00000002", ["animal", "beast"], ["n00000001"]],
        ["n00000003", ["canine"], ["n00000002"]],
        ["n00000004", ["domestic animal"], ["n00000002"]],
    ]
    assert (built["source"], built["licence"]) == ("WordNet", "free")


def test_the_file_is_what_the_builder_makes_of_wordnet() -> None:
    nouns = Path(os.environ.get("WORDNET", "/usr/share/wordnet")) / "data.noun"
    if not nouns.is_file():
        pytest.skip(f"no WordNet in {nouns.parent} (Debian: wordnet-base; or set WORDNET to its folder)")
    words = json.loads(data.path("imagenet_classes.json").read_text(encoding="utf-8"))
    built = ancestors.build(wordnet.read_nouns(nouns.read_text(encoding="latin-1").splitlines()), words)
    assert wordnet.dump(built) == data.path(ancestors.FILE).read_text(encoding="utf-8")
