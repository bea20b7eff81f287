"""``apibench generate``: aims, what is measured, images mixed into others, and mistakes that are told in a line."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from apibench import defaults, recipe
from apibench._torch import torch
from apibench.attacks import others as other_images
from apibench.attacks import stage
from apibench.attacks.attacker import Attacker
from apibench.attacks.loop import AttackSettings, attack
from apibench.attacks.others import OtherImages
from apibench.attacks.surrogates import Surrogates
from apibench.attacks.targets import target
from apibench.cli import cli
from apibench.distortion import ssim
from apibench.draws import Draws, generator
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, SetWriter
from apibench.photographs import possible_ids
from apibench.pixels import to_pixels, to_tensor
from apibench.terminal import run_command
from tests.conftest import paint, tiny_classifier

Streams = pytest.CaptureFixture[str]
ENSEMBLE = Surrogates([tiny_classifier(0), tiny_classifier(1)])
NAMES = ["tiny:0", "tiny:1"]


@pytest.fixture(autouse=True)
def tiny_surrogates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "canonical", lambda name: name)
    monkeypatch.setattr(stage, "check_all", lambda names: None)
    monkeypatch.setattr(stage, "load_all", lambda names, device: [tiny_classifier(0), tiny_classifier(1)])


def generate(images: ImageSet, out: Path, targets: Path | None = None, **about: object) -> tuple[ImageRecord, ...]:
    chosen = AttackSettings(**{"name": "mi-di", "epsilon": 8, "steps": 2, **about})  # type: ignore[arg-type]
    made = stage.generate(images, out, chosen, NAMES, targets=targets).images
    assert made is not None
    return made.records


def given_targets(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["file,target", *lines]) + "\n")
    return path


def logits(pixels: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = ENSEMBLE(to_tensor(pixels))[0].double()
    return found


def test_the_manifest_has_what_was_measured(clean_set: ImageSet, tmp_path: Path) -> None:
    for clean, record in zip(clean_set.records, generate(clean_set, tmp_path / "adv"), strict=True):
        before = clean_set.read_pixels(clean)
        after = ImageSet(tmp_path / "adv", []).read_pixels(record)
        noise = after.astype(int) - before
        extra = record.extra
        assert set(extra) == {"linf", "l2", "ssim", "gradients", "loss_before", "loss_after"}
        assert extra["linf"] == np.abs(noise).max()
        assert extra["l2"] == pytest.approx(math.sqrt((noise**2).sum()) / 255, abs=1e-6)
        assert extra["ssim"] == pytest.approx(ssim(before, after), abs=1e-6)
        assert extra["gradients"] == 2 * 2
        for when, pixels in (("before", before), ("after", after)):
            scores = logits(pixels)
            loss = math.log(sum(math.exp(s - scores[clean.label]) for s in scores.tolist()))
            assert extra[f"loss_{when}"] == pytest.approx(loss, abs=1e-5)
        assert extra["loss_after"] > extra["loss_before"]


def test_the_least_likely_class_is_the_ensembles_on_the_clean_image(clean_set: ImageSet, tmp_path: Path) -> None:
    records = generate(clean_set, tmp_path / "adv", name="mi-logit", target="least-likely")
    for clean, record in zip(clean_set.records, records, strict=True):
        order = [c for c in logits(clean_set.read_pixels(clean)).argsort().tolist() if c != clean.label]
        assert record.extra["target"] == order[0]
        assert record.variant == "mi-logit/least-likely/eps8"
        assert record.label == clean.label, "the label stays the image's own"
        assert record.extra["target_loss_after"] < record.extra["target_loss_before"]


def test_a_random_target_is_any_other_class_and_takes_none_of_the_attacks_draws(
    clean_set: ImageSet, tmp_path: Path
) -> None:
    clean = clean_set.records[2]
    assert clean.label is not None
    scores = torch.zeros(10)
    targets = [target("random", clean, clean.label, scores, seed, {}) for seed in range(300)]
    counts = np.bincount(targets, minlength=10)
    assert counts[clean.label] == 0
    assert np.delete(counts, clean.label).min() > 15, "evenly"
    for seed in range(2):  # the same as for whoever knew the class beforehand, with draws (DI's) begun anew
        chosen = AttackSettings("mi-di", epsilon=8, steps=2, seed=seed, target="random")
        made = Attacker(clean_set, clean_set.records, chosen, list(ENSEMBLE.classifiers), {})  # type: ignore[arg-type]
        (one,) = made.attack([clean], [clean_set.read_pixels(clean)])
        assert one.extra["target"] == targets[seed]
        x, aim = to_tensor(clean_set.read_pixels(clean)), torch.tensor([targets[seed]])
        alone = attack(x, aim, ENSEMBLE, chosen, [generator(seed, clean.pixels_sha256)])
        assert np.array_equal(one.pixels, to_pixels(alone.images))
    again = generate(ImageSet(clean_set.folder, clean_set.records[2:3]), tmp_path / "one", target="random", seed=5)
    assert again[0].extra["target"] == targets[5], "whatever the epsilon, the steps and the rest of the set"


def test_given_targets_go_by_id_or_file_name(clean_set: ImageSet, tmp_path: Path) -> None:
    targets = given_targets(
        tmp_path / "t.csv", *(f"photo{i}{'.jpeg' * (i % 2)},{(i + 4) % 10}" for i in range(5)), "x,1"
    )
    records = generate(clean_set, tmp_path / "adv", targets, target="given")
    assert [record.extra["target"] for record in records] == [4, 5, 6, 7, 8]
    targets.write_text(targets.read_text().replace("photo0,4", "photo0,5"))
    with pytest.raises(ApibenchError, match="targets_sha256"):
        generate(clean_set, tmp_path / "adv", targets, target="given")


def test_ids_that_were_made_from_file_names_are_found(tmp_path: Path) -> None:
    from PIL import Image

    from apibench.photographs import import_folder

    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["plain.png", "a b.png", "twice.png", "twice.bmp"]
    for name in names:
        Image.fromarray(paint(1, 16, 16)).save(folder / name)
    ids = {record.id for record in import_folder(folder, tmp_path / "clean").images.records}
    assert [len(ids.intersection(possible_ids(name))) for name in names] == [1, 1, 1, 1]
    assert ids.issubset(id for name in names for id in possible_ids(name))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["photo0,3"], "names no target for 4 of 5 images, such as photo1"),
        ([f"photo{i},{i}" for i in range(5)], "photo0: its target, 0, is its own class"),
        (["photo0,3", "photo0.png,4"], "a second, different target for photo0"),
        (["photo0,1000"], "is not a class index"),
        ([f"photo{i},700" for i in range(5)], "the surrogates have 10 classes"),
    ],
)
def test_wrong_targets_are_refused(clean_set: ImageSet, tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(ApibenchError, match=reason):
        generate(clean_set, tmp_path / "adv", given_targets(tmp_path / "t.csv", *lines), target="given")
    assert not (tmp_path / "adv").exists()


def test_a_given_target_that_the_surrogates_see_already_is_refused_before_anything_is_made(
    clean_set: ImageSet, tmp_path: Path
) -> None:
    unlabelled = ImageSet(clean_set.folder, [dataclasses.replace(r, label=None) for r in clean_set.records])
    seen = [int(logits(clean_set.read_pixels(record)).argmax()) for record in clean_set.records]
    lines = [f"photo{i},{(label + 1) % 10}" for i, label in enumerate(seen)]
    wrong = given_targets(tmp_path / "t.csv", *lines[:-1], f"photo4,{seen[4]}")
    with pytest.raises(ApibenchError, match=f"photo4: its target, {seen[4]}, is the class that the surrogates see"):
        generate(unlabelled, tmp_path / "adv", wrong, target="given")
    assert not list(tmp_path.glob("adv/*.png"))
    right = given_targets(tmp_path / "t.csv", *lines)
    assert [r.label for r in generate(unlabelled, tmp_path / "adv", right, target="given")] == seen
    labelled = ImageSet(clean_set.folder, [*clean_set.records])
    own = given_targets(tmp_path / "t.csv", *(f"photo{i},{(i + 1) % 10}" for i in range(4)), "photo4,700")
    with pytest.raises(ApibenchError, match="photo4: target 700"):
        generate(labelled, tmp_path / "late", own, target="given")
    assert not list(tmp_path.glob("late/*.png"))


def test_an_image_that_cannot_be_read_does_not_stop_the_check_of_targets(clean_set: ImageSet, tmp_path: Path) -> None:
    clean_set.path(clean_set.records[1]).unlink()
    targets = given_targets(tmp_path / "t.csv", *(f"photo{i},{9 - i}" for i in range(5)))
    assert len(generate(clean_set, tmp_path / "adv", targets, target="given")) == 4


def test_a_radius_that_no_two_images_are_apart_is_refused(tmp_path: Path) -> None:
    assert AttackSettings(norm="l2", epsilon=900).epsilon == 900.0
    for epsilon in (0, 10_001, math.inf, math.nan):
        with pytest.raises(ValueError, match="epsilon must be a radius above 0 and at most 10000, for pixels in"):
            AttackSettings(norm="l2", epsilon=epsilon)
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\n[generate]\nnorm = "l2"\nepsilon = [3.5, 900]')
    assert recipe.load(path).generate.settings(900).variant == f"{defaults.ATTACK}/l2-900.0"
    path.write_text('name = "x"\n[generate]\nnorm = "l2"\nepsilon = [3.5, 10001]')
    with pytest.raises(ApibenchError, match=r"generate.epsilon\[2\]\S*: Input should be less than or equal to 10000"):
        recipe.load(path)
    path.write_text('name = "x"\n[generate]\nepsilon = [8, 256]')
    with pytest.raises(ApibenchError, match=r"generate.epsilon\[2\]: Input should be less than or equal to 255"):
        recipe.load(path)


def test_targets_and_the_aim_go_together(clean_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="target given: give targets"):
        generate(clean_set, tmp_path / "adv", target="given")
    with pytest.raises(ApibenchError, match="has no use for it"):
        generate(clean_set, tmp_path / "adv", given_targets(tmp_path / "t.csv"))


def test_in_l2_the_bound_holds_on_the_files(clean_set: ImageSet, tmp_path: Path) -> None:
    for clean, record in zip(
        clean_set.records, generate(clean_set, tmp_path / "adv", norm="l2", epsilon=1.5), strict=True
    ):
        noise = ImageSet(tmp_path / "adv", []).read_pixels(record).astype(int) - clean_set.read_pixels(clean)
        assert 0.9 * 1.5 <= math.sqrt((noise**2).sum()) / 255 <= 1.5
        assert record.variant == "mi-di/l2-1.5"


# --- other images of the set ---


def drawn(images: ImageSet, record: ImageRecord, seed: int, size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    return OtherImages(images, images.records).of([record])(Draws([generator(seed, "x")]), size)


def which(images: ImageSet, x: torch.Tensor) -> int:
    (found,) = [i for i, r in enumerate(images.records) if torch.equal(x[0], to_tensor(images.read_pixels(r))[0])]
    return found


def test_others_are_other_images_of_other_classes_drawn_evenly(clean_set: ImageSet) -> None:
    labels = [0, 1, 0, None, 4]
    images = ImageSet(
        clean_set.folder, [dataclasses.replace(r, label=n) for r, n in zip(clean_set.records, labels, strict=True)]
    )
    counts = np.bincount([which(images, drawn(images, images.records[0], seed)) for seed in range(120)], minlength=5)
    assert counts[0] == 0, "never itself"
    assert counts[2] == 0, "never of its class"
    assert counts[[1, 3, 4]].min() > 20
    alike = ImageSet(clean_set.folder, [dataclasses.replace(r, label=1) for r in clean_set.records])
    assert which(alike, drawn(alike, alike.records[0], 0)) != 0, "another of its class, where there is no other class"


def test_others_belong_to_the_image_and_are_resized_to_it(clean_set: ImageSet) -> None:
    one, other = clean_set.records[:2]
    both = OtherImages(clean_set, clean_set.records).of([one, other])
    together = both(Draws([generator(1, "a"), generator(2, "b")]), (20, 30))
    assert together.shape == (2, 3, 20, 30)
    for place, (record, draws) in enumerate(((one, generator(1, "a")), (other, generator(2, "b")))):
        alone = OtherImages(clean_set, clean_set.records).of([record])(Draws([draws]), (20, 30))
        assert torch.equal(alone[0], together[place])
    whole = drawn(clean_set, one, 1)
    small = torch.nn.functional.interpolate(whole, (20, 30), mode="bilinear", antialias=True)
    assert torch.allclose(drawn(clean_set, one, 1, (20, 30)), small)


def test_others_are_drawn_as_from_a_list_of_all_that_may_be(clean_set: ImageSet) -> None:
    """Whatever is alike: classes, pixels, no class at all. What is unreadable is drawn again, and not once more."""
    records = [dataclasses.replace(clean_set.records[i % 5], id=f"r{i}", label=(1, 2, None)[i % 3]) for i in range(12)]
    images = ImageSet(clean_set.folder, records)
    for record in records:
        others = [r for r in records if r.pixels_sha256 != record.pixels_sha256]
        pool = [r for r in others if None in (r.label, record.label) or r.label != record.label]
        found = OtherImages(images, records)
        gone = {pool[0].id, pool[3].id}

        def read(chosen: ImageRecord, gone: set[str] = gone) -> np.ndarray:
            if chosen.id in gone:
                raise ApibenchError("cannot be read")
            return np.full((2, 2, 3), records.index(chosen), np.uint8)

        found._read = read  # type: ignore[method-assign, assignment]
        source, draws, same = found.of([record]), Draws([generator(0, record.id)]), Draws([generator(0, record.id)])
        for _ in range(30):
            wanted = pool[same.whole(len(pool))[0]]
            while wanted.id in gone:
                pool.remove(wanted)
                wanted = pool[same.whole(len(pool))[0]]
            assert round(float(source(draws, (2, 2)).mean() * 255)) == records.index(wanted)


def test_a_set_is_looked_through_once_not_once_an_image(clean_set: ImageSet) -> None:
    class Counted(list[ImageRecord]):
        seen = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            for record in super().__iter__():
                Counted.seen += 1
                yield record

    records = Counted(clean_set.records)
    found = OtherImages(clean_set, records)
    for record in clean_set.records:
        found.of([record])(Draws([generator(0, "x")]), (8, 8))
    assert Counted.seen == len(clean_set.records)


def test_few_decoded_images_are_kept_and_unreadable_ones_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = 32
    monkeypatch.setattr(other_images, "KEPT_BYTES", few * 8 * 8 * 3 + 100)
    writer = SetWriter(tmp_path / "many", {"stage": "import"})
    for i in range(few + 9):
        writer.write(f"p{i}", paint(i, 8, 8), variant="clean", label=i, label_source="given")
    images = writer.finish(f"p{i}" for i in range(few + 9))
    assert images is not None
    others = OtherImages(images, images.records)
    source, draws = others.of(images.records[:1]), Draws([generator(0, "x")])
    shown = [source(draws, (8, 8)) for _ in range(200)]
    assert len(others._decoded) == few
    assert len({x.numpy().tobytes() for x in shown}) > few
    monkeypatch.setattr(other_images, "KEPT_BYTES", 100)
    source(draws, (8, 8))
    while len(others._decoded) > 1:  # one that is there already drives none out
        source(draws, (8, 8))
    assert len(others._decoded) == 1, "the last, however large"
    for record in images.records[1:-1]:
        images.path(record).unlink()
    assert which(ImageSet(images.folder, images.records[-1:]), drawn(images, images.records[0], 0, (8, 8))) == 0
    images.path(images.records[-1]).unlink()
    with pytest.raises(ApibenchError, match="cannot be read"):
        drawn(images, images.records[0], 0)


def test_a_set_of_one_has_no_others(clean_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="has no other image than photo0"):
        generate(ImageSet(clean_set.folder, clean_set.records[:1]), tmp_path / "adv", name="mi-admix")


def test_mixing_others_in_gives_the_same_bytes_after_an_interruption(clean_set: ImageSet, tmp_path: Path) -> None:
    generate(clean_set, tmp_path / "adv", name="mi-admix:1,2")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "adv").iterdir()}
    for name in ("photo3.json", "photo1.png", "manifest.jsonl"):
        (tmp_path / "adv" / name).unlink()
    generate(clean_set, tmp_path / "adv", name="mi-admix:1,2")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adv").iterdir()} == whole


# --- the command ---


def command(photographs: Path, *words: str) -> int:
    return run_command(cli, ["generate", "--images", str(photographs), "--steps", "1", *words])


def test_the_command_makes_a_targeted_set_in_l2(photographs: Path, tmp_path: Path, capsys: Streams) -> None:
    out = str(tmp_path / "adv")
    words = ["--out", out, "--attack", "di-logit", "--norm", "l2", "--epsilon", "2", "--aim", "random"]
    assert command(photographs, *words) == 0
    records = ImageSet.load(tmp_path / "adv").records
    assert {record.variant for record in records} == {"mi-di-logit/random/l2-2.0"}
    targets = given_targets(tmp_path / "t.csv", *(f"photo{i}.png,{9 - i}" for i in range(5)))
    words = ["--out", str(tmp_path / "given"), "--aim", "given", "--targets", str(targets)]
    assert command(photographs, *words) == 0
    assert [r.extra["target"] for r in ImageSet.load(tmp_path / "given").records] == [9, 8, 7, 6, 5]
    assert "5 made, 0 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--attack", "mi-dii"], "dii: no such part of an attack; there are"),
        (["--attack", "mi-ni"], "mi and ni: an attack has one part of the kind gradient"),
        (["--attack", "logit"], "logit is a loss of targeted attacks; give an aim"),
        (["--attack", "di:2"], "PROBABILITY must be a number from 0 to 1"),
        (["--epsilon", "300"], "epsilon must be a whole number from 1 to 255 levels, got 300"),
        (["--epsilon", "2.5"], "epsilon must be a whole number from 1 to 255 levels, got 2.5"),
        (["--epsilon", "0"], "--epsilon"),
        (["--norm", "l2"], "--norm l2: give --epsilon"),
        (["--norm", "l2", "--epsilon", "1e6"], "epsilon must be a radius above 0 and at most 10000"),
        (["--norm", "l1"], "--norm"),
        (["--aim", "given"], "--aim given: give --targets"),
        (["--targets", "t.csv"], "--targets t.csv: the attack has no use for it; give --aim given"),
        (["--aim", "given", "--targets", "t.csv"], "t.csv: no such file"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    photographs: Path, tmp_path: Path, capsys: Streams, words: list[str], reason: str
) -> None:
    assert command(photographs, "--out", str(tmp_path / "adv"), *words) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.strip().splitlines()) <= 2
    assert not (tmp_path / "adv").exists()
