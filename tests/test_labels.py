"""The vocabulary: complete, unambiguous, a hierarchy without circles, and made again from WordNet by the builder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from apibench import data
from apibench.errors import ApibenchError
from apibench.labels import display_name, vocabulary, wordnet

# A class and its parents, most specific first, checked by hand: animals, vehicles, food, furniture, music, nature, objects.
SAMPLES = [
    (1, "Goldfish", "Fish Animal"),
    (2, "Great White Shark", "Shark Fish Animal"),
    (84, "Peacock", "Bird Animal"),
    (207, "Golden Retriever", "Retriever Dog Canine Mammal Pet Animal"),
    (281, "Tabby Cat", "Cat Feline Mammal Pet Animal"),
    (291, "Lion", "Big_Cat Feline Mammal Animal"),
    (323, "Monarch", "Butterfly Insect Invertebrate Animal"),
    (402, "Acoustic Guitar", "Guitar Stringed_Instrument Musical_Instrument"),
    (409, "Analog Clock", "Clock Measuring_Instrument"),
    (414, "Backpack", "Bag Container"),
    (532, "Dining Table", "Table Furniture"),
    (650, "Microphone", ""),
    (779, "School Bus", "Bus Vehicle Transportation"),
    (817, "Sports Car", "Car Vehicle Transportation"),
    (914, "Yawl", "Boat Watercraft Vehicle Transportation"),
    (950, "Orange", "Citrus_Fruit Fruit Produce Food Plant"),
    (963, "Pizza", "Food"),
    (980, "Volcano", "Mountain Geological_Formation"),
    (983, "Scuba Diver", "Person"),
]


@pytest.mark.parametrize(("index", "name", "parents"), SAMPLES)
def test_a_class_has_the_parents_a_labelling_api_would_give_it(index: int, name: str, parents: str) -> None:
    entry = vocabulary().classes[index]
    assert entry.index == index
    assert entry.name == name
    assert entry.parents == tuple(parent.replace("_", " ") for parent in parents.split())


def test_there_are_1000_classes_in_the_order_of_their_synsets() -> None:
    synsets = [entry.synset for entry in vocabulary().classes]
    assert len(set(synsets)) == 1000
    assert synsets == sorted(synsets)
    assert [entry.index for entry in vocabulary().classes] == list(range(1000))


def test_synsets_and_lemmas_are_those_that_classifiers_are_trained_with() -> None:
    timm_data = pytest.importorskip("timm.data")
    info = timm_data.ImageNetInfo()
    for entry in vocabulary().classes:
        assert entry.synset == info.index_to_label_name(entry.index)
        assert ", ".join(entry.lemmas) == info.label_name_to_description(entry.synset, detailed=False)


def test_no_two_labels_have_one_name() -> None:
    words = vocabulary()
    names = [entry.name.casefold() for entry in words.classes] + [name.casefold() for name in words.groups]
    assert len(names) == len(set(names))
    assert all(name == name.strip() and name for name in names)


def test_groups_are_a_hierarchy_that_holds_its_members() -> None:
    groups = vocabulary().groups
    for group in groups.values():
        assert group.members, f"{group.name} is above no class"
        assert group.name not in group.parents
        for parent in group.parents:
            assert set(group.members) <= set(groups[parent].members)
            assert set(groups[parent].parents) < set(group.parents)


def test_parents_are_closed_and_specific_first() -> None:
    words = vocabulary()
    for entry in words.classes:
        for specific, general in itertools.combinations(entry.parents, 2):
            assert specific not in words.groups[general].parents, entry
        for parent in entry.parents:
            assert set(words.groups[parent].parents) <= set(entry.parents)
            assert entry.index in words.groups[parent].members


@pytest.mark.parametrize(
    ("lemma", "name"),
    [
        ("golden retriever", "Golden Retriever"),
        ("bird of prey", "Bird of Prey"),
        ("CD player", "CD Player"),
        ("a", "A"),
    ],
)
def test_names_are_written_as_labelling_apis_do(lemma: str, name: str) -> None:
    assert display_name(lemma) == name


def test_the_file_names_its_source_and_carries_its_licence() -> None:
    content = json.loads(data.path("imagenet_classes.json").read_text(encoding="utf-8"))
    assert "WordNet 3.0" in content["source"]
    assert "Copyright 2006 by Princeton University" in content["licence"]
    assert "hypernym" in content["rule"]
    assert all(reason for _, _, reason in content["cut"])


def test_a_file_that_is_cut_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "imagenet_classes.json"
    broken.write_text(data.path("imagenet_classes.json").read_text(encoding="utf-8")[:5000], encoding="utf-8")
    monkeypatch.setattr("apibench.data.path", lambda _: broken)
    with pytest.raises(ApibenchError, match=r"imagenet_classes\.json"):
        vocabulary.__wrapped__()


# --- the builder, on a WordNet of six nouns ---

NOUNS = """\
  1 the licence is indented
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | what is
00000002 05 n 02 animal 0 beast 1 001 @ 00000001 n 0000 | moves
00000003 05 n 01 canine 0 002 @ 00000002 n 0000 ~ 00000006 n 0000 | has fangs
00000004 05 n 01 domestic_animal 0 002 @ 00000002 n 0000 + 00000009 v 0101 | is kept
00000005 06 n 01 container 0 001 @ 00000001 n 0000 | holds
00000006 05 n 02 lap_dog 0 Canis_familiaris 0 003 @ 00000003 n 0000 @ 00000004 n 0000 @ 00000005 n 0000 | barks
"""


def small_content() -> wordnet.Content:
    return {
        "renamed": {},
        "cut": [["n00000006", "n00000005", "a dog holds nothing"]],
        "groups": [
            ["Pet", ["n00000004"], []],
            ["Container", ["n00000005"], []],
            ["Canine", ["n00000003"], []],
            ["Animal", ["n00000002"], []],
        ],
        "classes": [["n00000006", "", [], []]],
    }


def test_building_follows_every_path_but_those_cut() -> None:
    built = wordnet.build(wordnet.read_nouns(NOUNS.splitlines()), small_content())
    assert built["classes"] == [["n00000006", "Lap Dog", ["lap dog", "Canis familiaris"], ["Canine", "Pet", "Animal"]]]
    assert built["groups"] == [
        ["Animal", ["n00000002"], []],
        ["Canine", ["n00000003"], ["Animal"]],
        ["Container", ["n00000005"], []],
        ["Pet", ["n00000004"], ["Animal"]],
    ]
    assert json.loads(wordnet.dump(built)) == built


def test_synsets_of_one_label_share_its_parents() -> None:
    content = small_content()
    content["groups"] = [["Beast", ["n00000003", "n00000005"], []], ["Animal", ["n00000002"], []]]
    content["classes"] = [["n00000005", "", [], []], ["n00000006", "", [], []]]
    built = wordnet.build(wordnet.read_nouns(NOUNS.splitlines()), content)
    assert built["groups"][1] == ["Beast", ["n00000003", "n00000005"], ["Animal"]]
    assert built["classes"][1][3] == ["Beast", "Animal"]


def test_a_label_above_itself_is_refused() -> None:
    content = small_content()
    content["groups"] = [["A", ["n00000001", "n00000003"], []], ["B", ["n00000002"], []]]
    with pytest.raises(ApibenchError, match="above itself"):
        wordnet.build(wordnet.read_nouns(NOUNS.splitlines()), content)


def test_renaming_and_the_shipped_form_are_kept() -> None:
    content = small_content() | {"renamed": {"n00000006": "Lapdog"}, "source": "WordNet"}
    built = wordnet.build(wordnet.read_nouns(NOUNS.splitlines()), content)
    assert built["classes"][0][1] == "Lapdog"
    text = data.path("imagenet_classes.json").read_text(encoding="utf-8")
    assert wordnet.dump(json.loads(text)) == text
