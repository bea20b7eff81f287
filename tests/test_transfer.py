"""``apibench evaluate SET...``: rates and comparisons by hand, clean images found, resumed, reported, and mistakes refused."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apibench import classifiers, metrics, purifiers
from apibench._torch import torch
from apibench.attacks import stage
from apibench.attacks.loop import AttackSettings
from apibench.commands.evaluate import evaluate
from apibench.errors import ApibenchError
from apibench.evaluation import cells, measure, transfer, transfer_plots, transfer_report
from apibench.evaluation.cells import Cell, Key, Verdict
from apibench.evaluation.transfer_rates import Study, Variant
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


# --- names ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mi-di/eps16", ("mi-di", "eps16", "", "linf", 16.0)),
        ("mi-logit/random/l2-3.0", ("mi-logit/random", "l2-3.0", "", "l2", 3.0)),
        ("mi/l2-1e-05+ncis/2", ("mi", "l2-1e-05", "ncis/2", "l2", 1e-05)),
        ("mi/l2-1e+20+ncis/2", ("mi", "l2-1e+20", "ncis/2", "l2", 1e20)),
        ("vmi:5-di:0.7,0.9/eps8+jpeg:50/1+ncis/4", ("vmi:5-di:0.7,0.9", "eps8", "jpeg:50/1+ncis/4", "linf", 8.0)),
        ("clean+ncis/2", ("clean", "", "ncis/2", "", None)),
        ("cw", ("cw", "", "", "", None)),
        ("sign-noise/eps8", ("sign-noise", "eps8", "", "linf", 8.0)),
    ],
)
def test_a_variant_is_taken_apart(name: str, expected: tuple[object, ...]) -> None:
    variant = Variant.parse(name)
    assert (variant.attack, variant.bound, variant.purified, variant.norm, variant.epsilon) == expected


# --- rates ---


def cell(classifier: str, attack: str, answers: dict[int, bool], surrogates: Sequence[str] = ("s",)) -> Cell:
    """``answers``: whether the photograph of that number is seen right."""
    verdicts = tuple(Verdict(f"i{n}", f"{n:064x}", 5, 5 if right else 6) for n, right in answers.items())
    settings = {"set": {} if attack == "clean" else {"surrogates": list(surrogates)}}
    return Cell(Key(classifier, attack, "none", 0), "none", 8.0, verdicts, settings)


def drawn(seed: int, names: Sequence[str] = ("a", "b", "c")) -> dict[tuple[str, str], dict[int, bool]]:
    """Random answers on 60 photographs; ``vmi`` lacks some, and they come in another order."""
    draw = random.Random(seed)
    found: dict[tuple[str, str], dict[int, bool]] = {}
    for name in names:
        for attack, share in (("clean", 0.8), ("mi/eps8", 0.5), ("vmi/eps8", 0.3), ("mi/eps16", 0.2)):
            photographs = [n for n in range(60) if attack != "vmi/eps8" or n % 7]
            draw.shuffle(photographs)
            found[name, attack] = {n: draw.random() < share for n in photographs}
    return found


def study(answers: dict[tuple[str, str], dict[int, bool]], reference: str | None = None) -> Study:
    return Study([cell(*key, found) for key, found in answers.items()], reference=reference)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_and_paired_comparisons_are_those_counted_by_hand(seed: int) -> None:
    answers = drawn(seed)
    found = study(answers, "mi")
    vmi, mi = Variant.parse("vmi/eps8"), Variant.parse("mi/eps8")
    rates, gaps = [], []
    for name in "abc":
        clean, ours, theirs = (answers[name, attack] for attack in ("clean", "vmi/eps8", "mi/eps8"))
        right = [n for n in ours if clean[n]]
        k = sum(not ours[n] for n in right)
        success = found.success(vmi, [name])
        assert success is not None
        assert (success.fooled, success.n, success.value) == (k, len(right), k / len(right))
        assert success.interval == metrics.wilson_interval(k, len(right))
        accuracy = found.accuracy(vmi, [name])
        assert accuracy is not None
        assert (accuracy.value, accuracy.n) == (sum(ours.values()) / len(ours), len(ours))
        kinds = [(not ours[n], not theirs[n]) for n in right]
        counts = metrics.PairedCounts(
            *(kinds.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False)))
        )
        versus = found.versus(vmi, [name])
        assert versus is not None
        assert (versus.reference, versus.n) == (mi, len(right))
        assert versus.difference == pytest.approx(counts.difference)
        assert (versus.interval, versus.p) == (metrics.newcombe_interval(counts), metrics.mcnemar_p(counts))
        other_way = study(answers, "vmi").versus(mi, [name])
        assert other_way is not None
        assert (other_way.n, other_way.difference) == (len(right), pytest.approx(-counts.difference))
        rates.append(success.value)
        gaps.append(counts.difference)
    mean, versus = found.success(vmi, ["a", "b", "c"]), found.versus(vmi, ["a", "b", "c"])
    assert mean is not None
    assert versus is not None
    assert mean.value == pytest.approx(sum(rates) / 3)
    assert versus.difference == pytest.approx(sum(gaps) / 3)
    assert versus.p is None
    assert found.versus(mi, ["a"]) is None, "the reference itself"


def test_the_interval_of_a_mean_is_a_bootstrap_over_images() -> None:
    answers = drawn(3)
    success = study(answers).success(Variant.parse("mi/eps8"), ["a", "b", "c"])
    assert success is not None
    right = np.array([[answers[c, "clean"][n] for c in "abc"] for n in range(60)], float)
    fooled = right * np.array([[not answers[c, "mi/eps8"][n] for c in "abc"] for n in range(60)])
    right, fooled = right[right.any(axis=1)], fooled[right.any(axis=1)]
    draws = np.random.default_rng(5).integers(len(right), size=(4000, len(right)))
    means = (fooled[draws].sum(axis=1) / right[draws].sum(axis=1)).mean(axis=1)
    assert [success.interval.low, success.interval.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_neither_the_order_of_images_nor_other_sets_change_a_rate() -> None:
    answers = drawn(4)
    shuffled = {key: dict(sorted(found.items())) for key, found in answers.items()}
    fewer = {key: found for key, found in answers.items() if key[1] != "mi/eps16"}
    vmi = Variant.parse("vmi/eps8")
    first = study(answers)
    for other in (study(shuffled), study(fewer)):
        assert other.success(vmi, ["a", "b"]) == first.success(vmi, ["a", "b"])
        assert other.versus(vmi, ["a", "b"]) == first.versus(vmi, ["a", "b"])


def test_all_fooled_none_right_when_clean_and_few_images_have_no_nan() -> None:
    every = dict.fromkeys(range(20), True)
    none = dict.fromkeys(range(20), False)
    found = study({(c, a): every if a == "clean" else none for c in "ab" for a in ("clean", "mi/eps8", "vmi/eps8")})
    mean = found.success(Variant.parse("mi/eps8"), ["a", "b"])
    assert mean is not None
    assert (mean.value, mean.interval.high) == (1.0, 1.0)
    assert mean.interval.low == pytest.approx(1 - metrics.wilson_interval(0, 20).high)
    versus = found.versus(Variant.parse("vmi/eps8"), ["a", "b"])
    assert versus is not None
    assert versus.interval.low < versus.difference == 0 < versus.interval.high
    blind = study(
        {("a", "clean"): none, ("a", "mi/eps8"): none, ("b", "clean"): {0: True}, ("b", "mi/eps8"): {0: False}}
    )
    assert blind.success(Variant.parse("mi/eps8"), ["a"]) is None
    assert blind.success(Variant.parse("mi/eps8"), ["a", "b"]) is None
    assert "nan" not in transfer_report.markdown(blind, None)
    assert "nan" not in str(transfer_report.rows(blind))


def test_the_strongest_comes_first_and_is_what_the_others_of_its_epsilon_and_purifier_are_compared_with() -> None:
    answers = drawn(0)
    for name in "abc":
        for attack in ("mi/eps8", "vmi/eps8"):
            answers[name, f"{attack}+ncis/2"] = {n: n % 3 > (attack == "mi/eps8") for n in range(60)}
    found = study(answers)
    assert [v.name for v in found.ranked(v for v in found.variants if v.bound == "eps8")] == [
        *("vmi/eps8", "mi/eps8", "mi/eps8+ncis/2", "vmi/eps8+ncis/2")
    ]
    references = {v.name: getattr(found.reference(v), "name", None) for v in found.variants}
    assert references == {
        "mi/eps8": "vmi/eps8",
        "vmi/eps8": "vmi/eps8",
        "mi/eps8+ncis/2": "mi/eps8+ncis/2",
        "vmi/eps8+ncis/2": "mi/eps8+ncis/2",
        "mi/eps16": "mi/eps16",
    }
    assert study(answers, "vmi").reference(Variant.parse("mi/eps16")) is None
    text = transfer_report.markdown(study(answers, "vmi"), "vmi")
    assert "Where there is no set of vmi, nothing is compared." in text
    with pytest.raises(ApibenchError, match="none of the sets is of that attack; there are mi, vmi"):
        study(answers, "pgn")


def test_a_surrogate_among_the_targets_is_flagged_and_in_no_mean() -> None:
    answers = drawn(1)
    weights, renamed = "file:resnet=a.pth#0123456789ab", "file:resnet=b.pth?size=32#0123456789ab"
    made = []
    for (name, attack), found in answers.items():
        surrogates = [weights] if attack == "mi/eps8" else ["s"]
        made.append(cell(renamed if name == "a" else name, attack, found, surrogates))
    found_ = Study(made)
    white = {v.name: [c for c in found_.classifiers if found_.white_box(v, c)] for v in found_.variants}
    assert white == {"mi/eps8": [renamed], "vmi/eps8": [], "mi/eps16": []}
    assert found_.held_out == ["b", "c"]
    text = transfer_report.markdown(found_, None)
    assert "- **white-box**: b is a surrogate of mi/eps8" in text
    assert text.count(" white-box ") == 2, "accuracy and success"
    head, body = transfer_report.rows(found_)
    flags = {(row[0], row[5]): row[head.index("white_box")] for row in body}
    assert [key for key, flag in flags.items() if flag] == [("mi/eps8", renamed)]
    only = Study([c for c in made if c.key.classifier == renamed])
    assert only.held_out == [renamed], "without any other, its own numbers stand"
    assert "white-box" in transfer_report.main_table(only)


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
    refused(
        "mi/eps8: the same variant twice, in .*mi8 and in .*again", [clean, mi8, rewritten(mi8, tmp_path / "again")]
    )
    refused("clean: the same variant twice", [clean, mi8], clean=clean)
    refused(r"is not a clean image set \(mi/eps64\)", [mi8], clean=mi64)
    refused("is the clean set; name the adversarial sets", [clean])
    strange = rewritten(mi8, tmp_path / "strange", source="0" * 64)
    refused("the clean images of 1 of its 1 are not in .*clean", [clean, strange])
    unlabelled = rewritten(clean, tmp_path / "unlabelled", label=None)
    refused("none of its images has a label", [unlabelled, mi8])
    refused("not an image set", [clean, tmp_path])
    refused("--reference pgn: none of the sets is of that attack; there are mi", [clean, mi8], reference="pgn")
    assert not (tmp_path / "out").exists(), "nothing is written before all of it is checked"


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


def test_norms_have_plots_of_their_own_and_a_purified_clean_set_begins_its_line() -> None:
    answers = {("a", "clean"): {n: n < 9 for n in range(10)}, ("a", "clean+ncis/2"): {n: n < 8 for n in range(10)}}
    answers |= {("a", name): {n: n < 3 for n in range(10)} for name in ("mi/eps8+ncis/2", "mi/l2-3.0", "cw")}
    found = study(answers)
    assert [name for name, _ in transfer_plots.plots(found)] == ["accuracy-linf-a.svg", "accuracy-l2-a.svg"]
    line = transfer_plots.marks(found, "mi+ncis/2", "linf", ["a"])
    assert [(mark.epsilon, mark.accuracy.value) for mark in line] == [(0.0, 0.8), (8.0, 0.3)]
    text = transfer_report.markdown(found, None)
    order = [text.index(head) for head in ("## eps8\n", "## l2-3.0\n", "## Without a bound\n")]
    assert order == sorted(order)
    assert "clean+ncis/2" in text[order[2] :]


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
