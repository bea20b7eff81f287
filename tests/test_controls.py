"""Controls: mere distortion of exactly the size that an attack's is, on the 8-bit files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from apibench.attacks import controls
from apibench.attacks.controls import KINDS, ControlSettings, distort
from apibench.commands.controls import controls as command
from apibench.distortion import l2, linf, measured, ssim
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet, Pixels, SetWriter
from apibench.report.frames import epsilon
from tests.conftest import paint

NOISES = [kind for kind in KINDS if kind != "blur"]


def perturbed(clean: Pixels, size: int, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).integers(-size, size, clean.shape, endpoint=True)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def noise_of(clean: Pixels, other: Pixels) -> np.ndarray:
    return other.astype(np.int16) - clean


@pytest.fixture
def adversarial_set(clean_set: ImageSet, tmp_path: Path) -> ImageSet:
    writer = SetWriter(tmp_path / "adv", {"stage": "generate"})
    for i, record in enumerate(clean_set.records):
        pixels = perturbed(clean_set.read_pixels(record), 8, i)
        about = {"source": record.pixels_sha256, "label": record.label, "label_source": record.label_source}
        writer.write(record.id, pixels, variant="mi-di/eps8", **about)
    finished = writer.finish(record.id for record in clean_set.records)
    assert finished is not None
    return finished


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 8, 40])
def test_linf_is_exactly_that_of_the_other_image(kind: str, size: int) -> None:
    clean = paint(1)
    other = perturbed(clean, size)
    pixels, extra = distort(clean, other, ControlSettings(kind, "linf"), "x")
    assert linf(noise_of(clean, pixels)) == linf(noise_of(clean, other)) == extra["linf"] == extra["wanted"]
    assert extra["reached"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 8, 40])
def test_l2_is_within_one_per_cent_and_never_above(kind: str, size: int) -> None:
    clean = paint(2)
    other = perturbed(clean, size)
    pixels, extra = distort(clean, other, ControlSettings(kind, "l2"), "x")
    found, wanted = l2(noise_of(clean, pixels)), l2(noise_of(clean, other))
    assert 0.99 * wanted <= found <= wanted
    assert extra == {**measured(clean, pixels), "gradients": 0, "wanted": round(wanted, 6), "reached": True}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["linf", "l2"]),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(0, 60),
    st.integers(0, 999),
)
def test_however_small_the_picture_it_is_never_further(
    kind: str, match: str, height: int, width: int, size: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    clean = draw.choice(np.array([0, 3, 128, 255], np.uint8), (height, width, 3))
    other = perturbed(clean, size, seed)
    pixels, extra = distort(clean, other, ControlSettings(kind, match), "x")
    noise, wanted = noise_of(clean, pixels).astype(int), noise_of(clean, other).astype(int)
    if match == "l2":
        assert (noise**2).sum() <= (wanted**2).sum()
        assert extra["reached"] == (np.sqrt((noise**2).sum()) >= 0.99 * np.sqrt((wanted**2).sum()))
    else:
        assert np.abs(noise).max() <= np.abs(wanted).max()
        assert extra["reached"] == (np.abs(noise).max() == np.abs(wanted).max())
        assert extra["reached"] or kind == "blur", "noise always gets there"


def test_each_kind_of_noise_is_what_it_is_called() -> None:
    clean = np.full((64, 64, 3), 128, np.uint8)
    other = clean.copy()
    other[0, 0, 0] += 8  # one value says how large all may be
    noise = {k: noise_of(clean, distort(clean, other, ControlSettings(k, "linf"), "x")[0]) for k in NOISES}
    assert set(np.unique(noise["sign"])) == {-8, 8}
    levels, counts = np.unique(noise["uniform"], return_counts=True)
    assert levels.tolist() == list(range(-8, 9))
    assert counts.min() > 0.7 * counts.max(), "every level alike, the two ends too"
    assert noise["gaussian"].std() == pytest.approx(4 * 0.88, rel=0.05)  # width 4, cut off at two of them
    for one in noise.values():
        assert abs(one.mean()) < 0.2
        assert abs(np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1]) < 0.05, "nothing between neighbours"

    other = perturbed(clean, 8)
    sign = noise_of(clean, distort(clean, other, ControlSettings("sign", "l2"), "x")[0])
    assert set(np.unique(np.abs(sign))) <= {4, 5}, "one size, to the nearest levels"
    bell = noise_of(clean, distort(clean, other, ControlSettings("gaussian", "l2"), "x")[0])
    assert (np.abs(bell) > 2 * bell.std()).mean() == pytest.approx(0.0455, abs=0.02), "not cut off"


def test_blur_is_a_gaussian_blur_of_the_mirrored_picture() -> None:
    clean = paint(3, 40, 56)
    smooth = np.stack([gaussian_filter(clean[..., c].astype(float), 1.7, mode="reflect", truncate=8) for c in range(3)])
    other = np.rint(smooth).astype(np.uint8).transpose(1, 2, 0)
    pixels, _ = distort(clean, other, ControlSettings("blur", "l2"), "x")
    assert np.abs(noise_of(other, pixels)).max() <= 1
    assert (pixels != other).mean() < 0.01


def test_a_flat_picture_cannot_be_blurred_and_the_record_says_so() -> None:
    clean = np.full((16, 16, 3), 90, np.uint8)
    for match in ("linf", "l2"):
        pixels, extra = distort(clean, perturbed(clean, 8), ControlSettings("blur", match), "x")
        assert np.array_equal(pixels, clean)
        assert extra["reached"] is False
        assert extra["wanted"] > 0


def test_draws_are_the_images_own(clean_set: ImageSet, adversarial_set: ImageSet, tmp_path: Path) -> None:
    chosen = ControlSettings("sign", "l2")
    whole = controls.control(clean_set, adversarial_set, tmp_path / "whole", chosen)
    assert (whole.made, whole.kept, whole.failed, whole.short) == (5, 0, (), ())
    backwards = ImageSet(adversarial_set.folder, adversarial_set.records[:2:-1])
    part = controls.control(clean_set, backwards, tmp_path / "part", chosen)
    assert [record.id for record in part.images.records] == ["photo3", "photo4"]
    assert [r.pixels_sha256 for r in part.images.records] == [r.pixels_sha256 for r in whole.images.records[3:]]
    other = controls.control(clean_set, adversarial_set, tmp_path / "seed", ControlSettings("sign", "l2", seed=1))
    assert other.images.records[0].pixels_sha256 != whole.images.records[0].pixels_sha256


def test_a_set_of_controls_goes_on_where_it_stopped(
    clean_set: ImageSet, adversarial_set: ImageSet, tmp_path: Path
) -> None:
    chosen = ControlSettings("uniform", "linf")
    made = controls.control(clean_set, adversarial_set, tmp_path / "c", chosen).images
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    for name in ("manifest.jsonl", "photo1.json", "photo3.png"):
        (made.folder / name).unlink()
    again = controls.control(clean_set, adversarial_set, tmp_path / "c", chosen)
    assert (again.made, again.kept) == (2, 3)
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before
    record = made.records[0]
    assert (record.source, record.variant) == (clean_set.records[0].pixels_sha256, "uniform-noise/eps8")
    assert (record.label, record.label_source) == (0, "given")
    assert record.settings == {"control": {"kind": "uniform", "match": "linf", "seed": 0, "like": "mi-di/eps8"}}
    with pytest.raises(ApibenchError, match="kind"):
        controls.control(clean_set, adversarial_set, tmp_path / "c", ControlSettings("sign", "linf"))


@pytest.mark.parametrize(
    ("kind", "match", "like", "variant"),
    [
        ("sign", "linf", "mi-di/eps8", "sign-noise/eps8"),
        ("sign", "l2", "mi-di/eps8", "sign-noise/l2-as-mi-di/eps8"),
        ("blur", "l2", "mi-di/l2-3.0", "blur/l2-3.0"),
        ("blur", "linf", "mi-logit/random/l2-3.0", "blur/linf-as-mi-logit-random/l2-3.0"),
        ("uniform", "l2", "cw", "uniform-noise/l2-as-cw"),
    ],
)
def test_the_name_says_what_was_matched(kind: str, match: str, like: str, variant: str) -> None:
    assert ControlSettings(kind, match).variant(like) == variant
    assert epsilon(variant) == (8 if like.endswith("/eps8") else None), "reports read the bound"


def test_what_cannot_be_matched_is_refused_or_listed(
    clean_set: ImageSet, adversarial_set: ImageSet, tmp_path: Path
) -> None:
    chosen = ControlSettings("sign", "linf")

    def refused(clean: ImageSet, like: ImageSet, reason: str) -> None:
        with pytest.raises(ApibenchError, match=reason):
            controls.control(clean, like, tmp_path / "no", chosen)
        assert not (tmp_path / "no").exists()

    def changed(**about: object) -> ImageSet:
        first, *rest = adversarial_set.records
        return ImageSet(adversarial_set.folder, [dataclasses.replace(first, **about), *rest])  # type: ignore[arg-type]

    refused(adversarial_set, adversarial_set, "is not a clean set")
    refused(clean_set, clean_set, "is 'clean'; give a set")
    refused(clean_set, changed(variant="mi/eps8"), "more than one attack")
    refused(clean_set, ImageSet(adversarial_set.folder, changed(variant="a/eps8+ncis/1").records[:1]), "not purified")
    refused(ImageSet(clean_set.folder, clean_set.records[:1]), ImageSet(Path(), adversarial_set.records[1:]), "none of")
    for bad in ("salt", "linf"), ("sign", "l1"):
        with pytest.raises(ValueError, match="no such"):
            ControlSettings(*bad)

    adversarial_set.path(adversarial_set.records[1]).unlink()
    made = controls.control(clean_set, adversarial_set, tmp_path / "some", chosen)
    assert [name for name, _ in made.failed] == ["photo1"]
    assert len(made.images.records) == 4


def test_ssim_is_that_of_wang_et_al() -> None:
    """One window, in float64, from the paper: Gaussian weights, population moments."""
    before, after = paint(0, 11, 11), perturbed(paint(0, 11, 11), 9)
    axis = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(axis, axis)
    weights /= weights.sum()
    values = []
    for c in range(3):
        x, y = before[..., c].astype(float), after[..., c].astype(float)
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy = (weights * x * x).sum() - mx**2, (weights * y * y).sum() - my**2
        cov = (weights * x * y).sum() - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(before, after) == pytest.approx(np.mean(values), abs=2e-5)
    for height, width in (1, 1), (2, 30), (30, 10):
        small = paint(1, height, width)
        assert ssim(small, small) == pytest.approx(1, abs=1e-6)
        assert ssim(small, perturbed(small, 30)) < 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (6, 9), (9, 30), (10, 4), (1, 20)])
def test_ssim_of_a_small_image_has_the_same_window_on_the_mirrored_image(height: int, width: int) -> None:
    """By hand: the 11 x 11 Gaussian at every pixel of the image mirrored; only the middle of the shorter side counts."""
    before, after = paint(3, height, width), perturbed(paint(3, height, width), 30)
    axis = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(axis, axis) / axis.sum() ** 2
    rim = (min(height, width) - 1) // 2
    assert min(height, width) - 2 * rim in (1, 2)
    x, y = (np.pad(image.astype(float), ((5, 5), (5, 5), (0, 0)), mode="symmetric") for image in (before, after))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(rim, height - rim):
        for column in range(rim, width - rim):
            a, b = (padded[row : row + 11, column : column + 11] for padded in (x, y))
            ma, mb, aa, bb, ab = (np.einsum("ij,ijc->c", weights, v) for v in (a, b, a * a, b * b, a * b))
            va, vb, cov = aa - ma**2, bb - mb**2, ab - ma * mb
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(before, after) == pytest.approx(np.mean(values), abs=5e-5)


def test_the_command_offers_every_kind() -> None:
    (kinds,) = [option.type for option in command.params if option.name == "kind"]
    assert tuple(kinds.choices) == KINDS  # type: ignore[attr-defined]
