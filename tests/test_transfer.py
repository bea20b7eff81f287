"""``apibench evaluate SET...``: clean images found, measured, resumed, reported, and mistakes refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apibench import classifiers, purifiers
from apibench._torch import torch
from apibench.attacks import stage
from apibench.attacks.loop import AttackSettings
from apibench.commands.evaluate import evaluate
from apibench.errors import ApibenchError
from apibench.evaluation import cells, measure, transfer, transfer_report
from apibench.evaluation.cells import Key
from apibench.imageset import ImageSet, SetWriter
from apibench.pixels import to_tensor
from apibench.purifiers.stage import purify
from apibench.terminal import run_command
from tests.conftest import paint, tiny_classifier

HELD_OUT = ("tiny:2", "tiny:3")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers and surrogates by the name ``tiny:SEED``."""
    for module in (classifiers, stage):
        monkeypatch.setattr(module, "canonical", lambda name: name)
        monkeypatch.setattr(module, "check_all", lambda names: None)
    monkeypatch.setattr(classifiers, "load", lambda name, device="cpu": tiny_classifier(int(name[-1])))
    monkeypatch.setattr(stage, "load_all", lambda names, device: [tiny_classifier(int(n[-1])) for n in names])


def seen_in(pixels: np.ndarray, seed: int) -> int:  # type: ignore[type-arg]
    with torch.no_grad():
        return int(tiny_classifier(seed)(to_tensor(pixels)).argmax())


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clean, mi8, mi64, i64 and mi64-blur; the labels are what tiny:2 sees, but for one; tiny:3 agrees with some."""
    folder = tmp_path_factory.mktemp("sets")
    writer = SetWriter(folder / "clean", {"stage": "import"})
    for i in range(6):
        label = seen_in(paint(i), 2) if i != 1 else (seen_in(paint(i), 2) + 1) % 10
        writer.write(f"photo{i}", paint(i), variant="clean", label=label, label_source="given")
    clean = writer.finish(f"photo{i}" for i in range(6))
    assert clean is not None
    with pytest.MonkeyPatch.context() as patch:
        tiny.__wrapped__(patch)  # type: ignore[attr-defined]
        for name, epsilon in (("mi", 8), ("mi", 64), ("i", 64)):
            settings = AttackSettings(name, epsilon, steps=2)
            made = stage.generate(clean, folder / f"{name}{epsilon}", settings, ["tiny:0", "tiny:1"])
    assert made.images is not None
    purify(ImageSet.load(folder / "mi64"), folder / "mi64-blur", purifiers.create("gaussian", 1))
    return folder


def run(sets: Path, out: Path, *names: str, targets: Sequence[str] = HELD_OUT, options: Sequence[str] = ()) -> int:
    arguments = [str(sets / name) for name in names] + [part for name in targets for part in ("--target", name)]
    return run_command(evaluate, [*arguments, "--out", str(out), *options])


# --- sets ---


def test_cells_say_what_the_classifiers_say_and_the_table_counts_them(sets: Path, tmp_path: Path) -> None:
    assert run(sets, tmp_path, "mi8", "clean", "mi64", "i64", "mi64-blur") == 0
    found = {cell.key: cell for cell in cells.read_all(tmp_path / "cells")}
    assert len(found) == 5 * len(HELD_OUT)
    clean = ImageSet.load(sets / "clean")
    labels = {record.pixels_sha256: record.label for record in clean.records}
    for folder, variant in (("clean", "clean"), ("mi64", "mi/eps64"), ("mi64-blur", "mi/eps64+gaussian/1")):
        images = ImageSet.load(sets / folder)
        for name in HELD_OUT:
            for record, said in zip(images.records, found[Key(name, variant, "none", 0)].images, strict=True):
                assert said.predicted == seen_in(images.read_pixels(record), int(name[-1]))
                assert (said.source, said.label) == (record.source, labels[record.source])
    with (tmp_path / "transfer.csv").open() as file:
        table = {(row["variant"], row["classifier"]): row for row in csv.DictReader(file)}
    right = [image.source for image in found[Key("tiny:2", "clean", "none", 0)].images if image.correct]
    assert len(right) == 5
    wrong = [i for i in found[Key("tiny:2", "mi/eps64", "none", 0)].images if i.source in right and not i.correct]
    row = table["mi/eps64", "tiny:2"]
    assert (row["right_when_clean"], row["fooled"]) == ("5", str(len(wrong)))
    assert float(row["epsilon"]) == 64
    assert {variant for variant, _ in table} == {"mi/eps8", "mi/eps64", "i/eps64", "mi/eps64+gaussian/1"}
    assert {name for _, name in table} == {"mean", *HELD_OUT}


def test_nothing_is_measured_twice_and_the_clean_set_may_be_named_apart(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(sets, tmp_path, "clean", "mi8") == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    ask = measure._ask
    asked: list[str] = []
    monkeypatch.setattr(measure, "_ask", lambda unit, *rest: (asked.append(unit.attack), ask(unit, *rest))[1])
    assert run(sets, tmp_path, "mi8", options=["--clean", str(sets / "clean")]) == 0
    assert asked == []
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert run(sets, tmp_path, "mi8", "mi64", "clean") == 0
    assert asked == ["mi/eps64"] * 6, "a set that is added is all that is measured"


def test_interrupted_and_sharded_it_ends_the_same(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("clean", "mi8", "mi64")
    run(sets, tmp_path / "whole", *names)
    ask = measure._ask
    asked: list[str] = []

    def interrupted(unit: measure.Unit, *rest: object) -> object:
        asked.append(unit.attack)
        if len(asked) == 9:
            raise KeyboardInterrupt
        return ask(unit, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(measure, "_ask", interrupted)
        assert run(sets, tmp_path / "cut", *names) == 130
        assert run(sets, tmp_path / "cut", *names) == 0
    assert len(asked) == 3 * 6 + 1
    for part in ("2/2", "1/2"):
        assert run(sets, tmp_path / "parts", *names, options=["--shard", part]) == 0
    for name in ("transfer.md", "transfer.csv", "accuracy-linf-mean.svg"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes() == whole


def test_an_unreadable_image_is_reported_left_out_and_asked_about_when_it_is_back(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sets / "mi8" / "photo2.png"
    data = path.read_bytes()
    path.write_bytes(b"broken")
    try:
        assert run(sets, tmp_path, "clean", "mi8") == 3
        assert "photo2.png: changed since it was written" in capsys.readouterr().err
        assert "- mi/eps8: 1 images could not be read and are left out." in (tmp_path / "transfer.md").read_text()
    finally:
        path.write_bytes(data)
    assert run(sets, tmp_path, "clean", "mi8") == 0
    assert "could not be read" not in (tmp_path / "transfer.md").read_text()


def rewritten(source: Path, out: Path, /, **changes: object) -> Path:
    """A set with some fields of its records changed."""
    out.mkdir()
    images = ImageSet.load(source)
    for record in images.records:
        (out / record.file).write_bytes(images.read_bytes(record))
    lines = [replace(record, **changes).to_json() + "\n" for record in images.records]  # type: ignore[arg-type]
    (out / "manifest.jsonl").write_text("".join(lines))
    return out


def test_the_labels_are_the_clean_images_and_the_gradients_the_manifests(sets: Path, tmp_path: Path) -> None:
    other = rewritten(sets / "mi8", tmp_path / "other", label=9, label_source="predicted", extra={"gradients": 40})
    bare = rewritten(sets / "mi64", tmp_path / "bare", extra={})
    assert run(sets, tmp_path / "out", "clean", str(other), str(bare)) == 0
    assert run(sets, tmp_path / "plain", "clean", "mi8", "mi64") == 0
    tables = []
    for out in ("out", "plain"):
        with (tmp_path / out / "transfer.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert [row["gradients"] for row in tables[0]] == ["40.0"] * 3 + [""] * 3
    for table in tables:
        for row in table:
            row.pop("gradients")
    assert tables[0] == tables[1]
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert any(line.startswith("| eps8") and " 40 |" in line for line in text.splitlines())


def test_what_cannot_be_paired_is_refused_in_words(sets: Path, tmp_path: Path) -> None:
    def refused(match: str, names: Sequence[Path], **options: object) -> None:
        with pytest.raises(ApibenchError, match=match) as caught:
            transfer.evaluate(names, HELD_OUT, tmp_path / "out", lambda _: None, **options)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 1

    clean, mi8, mi64 = (sets / name for name in ("clean", "mi8", "mi64"))
    refused("its clean images are in none of the sets; name their set with --clean SET", [mi8])
    refused("mi/eps8: the same images twice, in .*mi8 and in .*again", [clean, mi8, rewritten(mi8, tmp_path / "again")])
    refused("clean: two clean sets, .*clean and .*clean; name one", [clean, mi8], clean=clean)
    refused(r"is not a clean image set \(mi/eps64\)", [mi8], clean=mi64)
    refused("is the clean set; name the adversarial sets", [clean])
    strange = rewritten(mi8, tmp_path / "strange", source="0" * 64)
    refused("the clean images of 1 of its 1 are not in .*clean", [clean, strange])
    unlabelled = rewritten(clean, tmp_path / "unlabelled", label=None)
    refused("none of its images has a label", [unlabelled, mi8])
    refused("not an image set", [clean, tmp_path])
    refused("--reference pgn: none of the sets is of that attack; there are mi", [clean, mi8], reference="pgn")
    assert not (tmp_path / "out").exists(), "nothing is written before all of it is checked"


def test_sets_of_one_folder_name_do_not_share_their_progress(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are begun and killed; what is known of one is neither lost nor taken for the other's."""
    names = []
    for name in ("mi8", "mi64"):
        (tmp_path / name).mkdir()
        names.append(str(rewritten(sets / name, tmp_path / name / "adv")))
    ask = measure._ask
    asked: list[str] = []

    def interrupted(unit: measure.Unit, *rest: object) -> object:
        asked.append(unit.attack)
        if asked.count(unit.attack) == 4:
            raise KeyboardInterrupt
        return ask(unit, *rest)  # type: ignore[arg-type]

    assert run(sets, tmp_path / "out", "clean", "mi8") == 0
    with monkeypatch.context() as patch:
        patch.setattr(measure, "_ask", interrupted)
        for part in ("1/3", "2/3", "3/3"):
            run(sets, tmp_path / "cut", "clean", *names, options=["--shard", part])
        for part in ("3/3", "2/3", "1/3"):
            assert run(sets, tmp_path / "cut", "clean", *names, options=["--shard", part]) == 0
    assert len(asked) == 3 * (6 + 1), "an image is asked about again only where the kill came in between"
    run(sets, tmp_path / "whole", "clean", *names)
    whole = (tmp_path / "whole" / "transfer.csv").read_bytes()
    assert (tmp_path / "cut" / "transfer.csv").read_bytes() == whole


def test_shards_with_an_unreadable_image_end_in_a_table_and_say_so(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sets / "mi8" / "photo2.png"
    data = path.read_bytes()
    path.write_bytes(b"broken")
    try:
        assert run(sets, tmp_path, "clean", "mi8", options=["--shard", "2/2"]) == 3
        assert not (tmp_path / "transfer.md").exists()
        assert run(sets, tmp_path, "clean", "mi8", options=["--shard", "1/2"]) == 3
        assert "mi8: some of its images could not be read" in capsys.readouterr().err
        assert "mi/eps8: 1 images could not be read" in (tmp_path / "transfer.md").read_text()
    finally:
        path.write_bytes(data)
    assert run(sets, tmp_path, "clean", "mi8", options=["--shard", "2/2"]) == 0
    assert "could not be read" not in (tmp_path / "transfer.md").read_text()


def test_sets_that_differ_in_steps_are_rows_of_their_own(sets: Path, tmp_path: Path) -> None:
    settings = ImageSet.load(sets / "mi64").records[0].settings
    longer = {**settings, "attack": {**settings["attack"], "steps": 100}}
    other = rewritten(sets / "mi64", tmp_path / "longer", settings=longer)
    assert run(sets, tmp_path / "out", "clean", "mi64", str(other)) == 0
    with (tmp_path / "out" / "transfer.csv").open() as file:
        found = {row["variant"] for row in csv.DictReader(file)}
    assert found == {"mi(steps=2)/eps64", "mi(steps=100)/eps64"}


def test_targeted_sets_report_how_often_their_target_is_answered(sets: Path, tmp_path: Path) -> None:
    clean = ImageSet.load(sets / "clean")
    settings = AttackSettings("mi", 64, steps=10, target="least-likely")
    stage.generate(clean, tmp_path / "aimed", settings, ["tiny:2"])
    purify(ImageSet.load(tmp_path / "aimed"), tmp_path / "pure", purifiers.create("gaussian", 1))
    names = ("clean", "mi64", str(tmp_path / "aimed"), str(tmp_path / "pure"))
    assert run(sets, tmp_path / "out", *names, targets=["tiny:2"]) == 0
    with (tmp_path / "out" / "transfer.csv").open() as file:
        rows = {(row["variant"], row["classifier"]): row for row in csv.DictReader(file)}
    labels = {record.source: record.label for record in clean.records}
    targets = {record.source: record.extra["target"] for record in ImageSet.load(tmp_path / "aimed").records}
    for folder, variant in (("aimed", "mi/least-likely/eps64"), ("pure", "mi/least-likely/eps64+gaussian/1")):
        images = ImageSet.load(tmp_path / folder)
        right = [
            record
            for record, before in zip(images.records, clean.records, strict=True)
            if seen_in(clean.read_pixels(before), 2) == labels[record.source] != targets[record.source]
        ]
        hits = sum(seen_in(images.read_pixels(record), 2) == targets[record.source] for record in right)
        row = rows[variant, "tiny:2"]
        assert (row["aim"], row["target_hits"], row["target_hit_n"]) == ("least-likely", str(hits), str(len(right)))
    assert int(rows["mi/least-likely/eps64", "tiny:2"]["target_hits"]) > 0
    assert rows["mi/eps64", "tiny:2"]["target_hits"] == ""
    assert all(row["reference"] == "" for row in rows.values()), "neither is compared with the other"
    assert "### Target hit" in (tmp_path / "out" / "transfer.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": [1]}, "extra is not an object"),
        ({"extra": {"gradients": float("nan")}}, "extra.gradients is not a number"),
        ({"extra": {"gradients": "many"}}, "extra.gradients is not a number"),
        ({"extra": {"target": "dog"}}, "extra.target is not a class index"),
        ({"settings": {"surrogates": [1, 2]}}, "settings.surrogates are not names"),
        ({"settings": {"seed": float("nan")}}, "NaN or infinity"),
        ({"variant": "mi/eps0"}, "mi/eps0: its bound is not above 0"),
        ({"variant": "mi/l2-0.0"}, "mi/l2-0.0: its bound is not above 0"),
        ({"variant": "mi\ud800/eps8"}, "half a character"),
    ],
)
def test_a_damaged_manifest_is_one_line(
    changes: dict[str, object], message: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd").mkdir()
    images = ImageSet.load(sets / "mi8")
    lines = [json.dumps({**json.loads(record.to_json()), **changes}) + "\n" for record in images.records]
    (tmp_path / "odd" / "manifest.jsonl").write_text("".join(lines))
    assert run(sets, tmp_path / "out", "clean", str(tmp_path / "odd")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_control_characters_reach_neither_the_plots_nor_the_terminal(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = rewritten(sets / "mi8", tmp_path / "odd", variant="mi\x1b[31m\x07<b>/eps8")
    assert run(sets, tmp_path / "out", "clean", str(odd)) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    for path in (tmp_path / "out").glob("*.svg"):
        ElementTree.parse(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["SET", "--target", "tiny:2", "--recipe", "x.toml"],
            "--recipe goes with a recipe: leave it out, or leave the SETs out",
        ),
        (["SET", "--target", "tiny:2", "--no-aware"], "--aware goes with a recipe"),
        (["SET", "--target", "tiny:2", "--limit", "3"], "--limit goes with a recipe"),
        (["--clean", "SET"], "--clean goes with SETs: name SETs before it"),
        (["--reference", "mi"], "--reference goes with SETs"),
        (["SET"], "name the classifiers to ask: --target NAME"),
        (["SET", "--target", "tiny:2", "--shard", "3/2"], "write I/N"),
    ],
)
def test_the_two_ways_of_asking_are_not_mixed(
    arguments: list[str], message: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(sets / "mi8") if part == "SET" else part for part in arguments]
    assert run_command(evaluate, [*given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- documents ---


def test_the_plots_have_a_line_an_attack_from_clean_on_inside_their_frame(sets: Path, tmp_path: Path) -> None:
    run(sets, tmp_path, "clean", "mi8", "mi64", "i64", "mi64-blur")
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        *("accuracy-linf-mean.svg", "accuracy-linf-tiny-2.svg", "accuracy-linf-tiny-3.svg")
    }
    root = ElementTree.parse(tmp_path / "accuracy-linf-tiny-2.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    lines = {g.get("data-attack"): g for g in root.iter(f"{space}g") if g.get("data-attack")}
    assert lines.keys() == {"mi", "i", "mi+gaussian/1"}
    for name, count in (("mi", 3), ("i", 2), ("mi+gaussian/1", 1)):
        points = str(next(lines[name].iter(f"{space}polyline")).get("points")).split()
        assert len(points) == count, name
        for point in points:
            x, y = map(float, point.split(","))
            assert 72 <= x <= 660
            assert 64 <= y <= 492
    titles = [str(t.text) for t in root.iter(f"{space}title")]
    assert any(title.startswith("clean at 0: 83.3 [") for title in titles)
    labels = [str(t.text) for t in root.iter(f"{space}text")]
    assert {"0", "8", "64", "epsilon (L-infinity), levels of 255"} <= set(labels)


def test_the_report_comes_from_the_result_files_alone_and_needs_no_torch(sets: Path, tmp_path: Path) -> None:
    run(sets, tmp_path, "clean", "mi8", "mi64", "i64")
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in made.keys() - {transfer_report.TRANSFER}:
        (tmp_path / name).unlink()
    script = (
        "import sys; from pathlib import Path; from apibench.evaluation import transfer_report\n"
        "transfer_report.write(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == made
    (tmp_path / transfer_report.TRANSFER).write_text(json.dumps([]))
    with pytest.raises(ApibenchError, match=r"transfer.json: not readable"):
        transfer_report.write(tmp_path)
