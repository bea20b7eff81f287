"""``apibench analyze`` as a user runs it, on tiny synthetic sets."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apibench.commands.analyze import analyze
from apibench.evaluation.analysis import analyse
from apibench.evaluation.noise import Noise
from apibench.imageset import MANIFEST, ImageRecord, ImageSet, SetWriter
from apibench.terminal import run_command
from tests.conftest import paint

Streams = pytest.CaptureFixture[str]
Maker = Callable[[np.random.Generator, tuple[int, int, int]], Noise]


def symmetric(draw: np.random.Generator, shape: tuple[int, int, int]) -> Noise:
    return (4 * draw.integers(-1, 2, size=shape)).astype(np.int16)


def lopsided(draw: np.random.Generator, shape: tuple[int, int, int]) -> Noise:
    return np.where(draw.random(shape) < 0.1, 9, -1).astype(np.int16)


def nothing(draw: np.random.Generator, shape: tuple[int, int, int]) -> Noise:
    return np.zeros(shape, np.int16)


def clean(folder: Path, count: int = 20) -> ImageSet:
    """Pictures of two sizes that noise does not clip."""
    writer = SetWriter(folder, {"stage": "import"})
    for i in range(count):
        picture = paint(i, 48, 32 + 16 * (i % 2)) // 2 + 60
        writer.write(f"p{i:02}", picture.astype(np.uint8), variant="clean")
    return finish(writer, [f"p{i:02}" for i in range(count)])


def finish(writer: SetWriter, ids: list[str]) -> ImageSet:
    made = writer.finish(ids)
    assert made is not None
    return made


def attacked(folder: Path, images: ImageSet, noise: Maker, variant: str = "pgd/eps4", ids: str = "") -> ImageSet:
    writer = SetWriter(folder, {"stage": "generate", "variant": variant})
    records = [record for record in images.records if record.id.startswith(ids)]
    for number, record in enumerate(records):
        pixels = images.read_pixels(record)
        added = pixels + noise(np.random.default_rng(number), pixels.shape)
        settings = {"surrogates": ["tiny:0"]}
        writer.write(record.id, added.astype(np.uint8), variant=variant, source=record.pixels_sha256, settings=settings)
    return finish(writer, [record.id for record in records])


def run(*words: object) -> int:
    return run_command(analyze, [str(word) for word in words])


def test_two_sets(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean")
    attacked(tmp_path / "good", images, symmetric, "pgd/eps4")
    attacked(tmp_path / "bad", images, lopsided, "=odd|<b>/eps9")
    out = tmp_path / "out"
    words = ["--clean", images.folder, "--adversarial", tmp_path / "good", "--adversarial", tmp_path / "bad"]
    assert run(*words, "--out", out) == 0
    said = capsys.readouterr()
    assert said.err == ""
    good, bad = said.out.split("=odd")
    assert "pgd/eps4 (20 images)" in good
    assert good.count(": holds.") == 4
    assert "Symmetric on average: does not hold." in bad
    assert "Zero mean on average: holds." in bad

    document = (out / "analysis.md").read_text()
    assert "tiny:0" in document
    assert "<b>" not in document
    statistics = pd.read_csv(out / "statistics.csv")
    assert set(statistics["set"]) == {"pgd/eps4", "'=odd|<b>/eps9"}
    odd = statistics[(statistics["set"] != "pgd/eps4") & (statistics["patch"] == "image")]
    skewness = odd[odd["quantity"] == "skewness"].set_index(["noise", "channel"])["value"]
    assert skewness["attack", "all"] == pytest.approx(8 / 3, rel=0.05)
    assert abs(skewness["sign-flip", "all"]) < 0.1
    rms = statistics[(statistics["quantity"] == "rms") & (statistics["channel"] == "all")]
    assert rms[(rms["noise"] == "sign") & (rms["patch"] == "8")]["value"].tolist() == pytest.approx([4, 9])

    histograms = pd.read_csv(out / "histograms.csv")
    pixels = histograms[(histograms["quantity"] == "pixel") & (histograms["channel"] == "all")]
    counts = pixels[(pixels["set"] == "pgd/eps4") & (pixels["noise"] == "attack")].set_index("centre")["count"]
    assert set(counts[counts > 0].index) == {-4, 0, 4}
    assert counts.sum() == sum(3 * record.height * record.width for record in images.records)
    spectra = pd.read_csv(out / "spectra.csv")
    flat = spectra[(spectra["noise"] == "attack") & (spectra["channel"] == "all") & (spectra["set"] == "pgd/eps4")]
    assert flat["density"].median() == pytest.approx(16 * 2 / 3, rel=0.1)
    assert len(pd.read_csv(out / "smoothing.csv")) == 2 * 6 * 4 * 4

    figures = sorted(path.name for path in out.glob("*.svg"))
    assert [name.rpartition("-")[0] for name in figures] == ["1-pgd-eps4"] * 2 + ["2-odd-b-eps9"] * 2
    for name in figures:
        assert name in document
        ElementTree.fromstring((out / name).read_text())


def test_the_same_every_time_and_in_any_company(tmp_path: Path) -> None:
    images = clean(tmp_path / "clean", 3)
    attacked(tmp_path / "all", images, symmetric)
    words = ["--clean", images.folder, "--adversarial", tmp_path / "all", "--out"]
    for name in ("a", "b"):
        assert run(*words, tmp_path / name) == 0
    assert run(*words, tmp_path / "c", "--seed", "1") == 0
    contents = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in ("a", "b", "c")
    ]
    assert contents[0] == contents[1]
    assert contents[0]["statistics.csv"] != contents[2]["statistics.csv"]
    # The control of an image does not depend on the images before it.
    backwards = ImageSet(tmp_path / "all", reversed(ImageSet.load(tmp_path / "all").records))
    one, other = analyse(images, [ImageSet.load(tmp_path / "all"), backwards])
    for kind, measures in one.noises.items():
        assert measures.pixels.counts("R").tolist() == other.noises[kind].pixels.counts("R").tolist(), kind
    assert [one.name, other.name] == ["pgd/eps4 (all)", "pgd/eps4 (all) #2"]


def test_images_without_a_partner(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean", 5)
    attacked(tmp_path / "some", images, symmetric)
    fewer = ImageSet(images.folder, images.records[:3])
    (found,) = analyse(fewer, [ImageSet.load(tmp_path / "some")])
    assert [name for name, _ in found.failed] == ["p03", "p04"]
    assert found.attack.images == 3
    attacked(tmp_path / "first", images, symmetric, ids="p00")
    capsys.readouterr()
    out = tmp_path / "out"
    assert run("--clean", images.folder, "--adversarial", tmp_path / "first", "--out", out) == 0
    said = capsys.readouterr()
    assert said.err == "4 clean images have no partner in it: p01, p02, p03, p04\n"
    assert "cannot be told (too few images: 1, at least 20 are needed)" in said.out
    assert "4 clean images have no partner in this set: p01, p02, p03, p04." in (out / "analysis.md").read_text()


def test_one_photograph_under_two_names_counts_once(tmp_path: Path) -> None:
    writer = SetWriter(tmp_path / "clean", {})
    for name in ("a", "b"):
        writer.write(name, paint(0), variant="clean")
    images = finish(writer, ["a", "b"])
    (found,) = analyse(images, [attacked(tmp_path / "adv", images, symmetric)])
    assert (found.attack.images, found.repeated, found.unattacked) == (1, 1, ())


def test_single_images_that_cannot_be_measured(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean", 4)
    writer = SetWriter(tmp_path / "adv", {})
    for number, record in enumerate(images.records):
        picture = images.read_pixels(record)
        picture = picture[:-1] if number == 0 else picture ^ np.uint8(1)
        writer.write(record.id, picture, variant="pgd/eps1", source=record.pixels_sha256)
    changed = finish(writer, [record.id for record in images.records])
    changed.path(changed.records[1]).write_bytes(b"not what it was")
    images.path(images.records[2]).unlink()
    out = tmp_path / "out"
    assert run("--clean", images.folder, "--adversarial", changed.folder, "--out", out) == 3
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert "p00.png: is 32×47, its clean image 32×48" in lines[0]
    assert "changed since it was written" in lines[1]
    assert "p02.png: cannot be read" in lines[2]
    assert "(1 images)" in said.out
    assert "3 images of this set could not be measured: p00, p01, p02." in (out / "analysis.md").read_text()


def test_one_set_of_two_that_cannot_be_measured(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean", 2)
    attacked(tmp_path / "good", images, symmetric)
    stranger = attacked(tmp_path / "bad", clean_other(tmp_path / "other"), symmetric, "cw")
    words = ["--clean", images.folder, "--adversarial", stranger.folder]
    assert run(*words, "--out", tmp_path / "out") == 2
    assert "no image can be compared with its clean one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*words, "--adversarial", tmp_path / "good", "--out", tmp_path / "out") == 3
    assert "No image of this set could be measured." in (tmp_path / "out" / "analysis.md").read_text()


def clean_other(folder: Path) -> ImageSet:
    writer = SetWriter(folder, {})
    writer.write("x", paint(99), variant="clean")
    return finish(writer, ["x"])


def test_wrong_sets(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean", 2)
    good = attacked(tmp_path / "good", images, symmetric)
    purified = attacked(tmp_path / "purified", images, symmetric, "pgd/eps4+gaussian/2")
    (tmp_path / "empty").mkdir()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    records = [*good.records, *purified.records]
    (mixed / MANIFEST).write_text("".join(ImageRecord.to_json(record) + "\n" for record in records))
    for one, other, words in (
        (images.folder, images.folder, "this set is clean; there is no noise in it"),
        (images.folder, purified.folder, "this set is purified (pgd/eps4+gaussian/2)"),
        (images.folder, mixed, "holds several variants (pgd/eps4, pgd/eps4+gaussian/2)"),
        (images.folder, tmp_path / "empty", "not an image set"),
        (images.folder, tmp_path / "missing", "not an image set"),
        (good.folder, good.folder, "is not clean but pgd/eps4"),
    ):
        assert run("--clean", one, "--adversarial", other, "--out", tmp_path / "out") == 2, words
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) <= 3
    assert run("--clean", images.folder, "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_an_attack_that_did_nothing(tmp_path: Path, capsys: Streams) -> None:
    images = clean(tmp_path / "clean", 3)
    idle = attacked(tmp_path / "idle", images, nothing)
    out = tmp_path / "out"
    assert run("--clean", images.folder, "--adversarial", idle.folder, "--no-controls", "--out", out) == 0
    said = capsys.readouterr()
    assert said.out.count("cannot be told (no 16×16 patch has this quantity") == 4
    assert set(pd.read_csv(out / "statistics.csv")["noise"]) == {"attack", "sign-flip"}
    for path in out.glob("*.svg"):
        assert "nan" not in path.read_text().lower()
    assert "nan" not in (out / "analysis.md").read_text()


def test_no_torch() -> None:
    code = (
        "import sys, apibench.commands.analyze, apibench.evaluation.noise_report; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'kornia', 'foolbox')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
