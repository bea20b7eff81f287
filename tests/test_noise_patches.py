"""Noise by patch: known answers, the verdicts on claims, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats

from apibench.evaluation import noise, noise_controls
from apibench.evaluation.noise import Estimate, Noise
from apibench.evaluation.noise_claims import CLAIMS, Claim, Verdict, interval
from apibench.evaluation.noise_patches import QUANTITIES, WHOLE, PatchTable, image_sums, tabulate
from tests.conftest import paint

MEAN, PATCH_MEAN, SKEWNESS, PATCH_SKEWNESS = CLAIMS
NOISES = arrays(np.int16, (17, 33, 3), elements=st.integers(-255, 255))


def draw(seed: int, size: int = 64) -> Noise:
    """Uniform, independent, -8 to 8."""
    return np.random.default_rng(seed).integers(-8, 9, size=(size, size, 3)).astype(np.int16)


def table(images: list[Noise]) -> PatchTable:
    return tabulate([image_sums(image) for image in images], resamples=500)


def value(found: PatchTable, quantity: str, side: int = 16, channel: str = "all") -> float:
    number = found[quantity, side, channel].value
    assert number is not None
    return number


def test_by_patch_and_channel_as_scipy_says() -> None:
    image = np.random.default_rng(1).integers(-20, 31, size=(40, 50, 3)).astype(np.int16)
    found = table([image])
    for channel, name in enumerate("RGB"):
        cut = [image[y : y + 16, x : x + 16, channel].ravel() for y in (0, 16) for x in (0, 16, 32)]
        assert found.patches[16, name] == (6, 6)
        assert value(found, "mean", 16, name) == pytest.approx(np.mean([one.mean() for one in cut]))
        assert value(found, "absolute_mean", 16, name) == pytest.approx(np.mean([abs(one.mean()) for one in cut]))
        assert value(found, "skewness", 16, name) == pytest.approx(np.mean([stats.skew(one) for one in cut]))
        assert value(found, "excess_kurtosis", 16, name) == pytest.approx(np.mean([stats.kurtosis(one) for one in cut]))
        whole = image[..., channel].ravel().astype(float)
        assert value(found, "rms", 16, name) == pytest.approx(np.sqrt(np.mean(whole**2)))
        assert value(found, "skewness", WHOLE, name) == pytest.approx(stats.skew(whole))
        assert value(found, "mean", WHOLE, name) == pytest.approx(whole.mean())
    everything = [value(found, "mean", 16, name) for name in "RGB"]
    assert value(found, "mean") == pytest.approx(np.mean(everything))


def test_it_agrees_with_the_reports_table() -> None:
    pairs = [(paint(i, 50, 70), paint(i + 9, 50, 70)) for i in range(3)]
    one = noise.summarise([noise.patch_statistics(*pair) for pair in pairs])
    other = table([noise.difference(*pair) for pair in pairs])
    for quantity in ("mean", "absolute_mean", "skewness", "absolute_skewness"):
        assert getattr(one, quantity).value == pytest.approx(value(other, quantity)), quantity


def test_constant_noise_does_not_average_out() -> None:
    found = table([np.full((64, 64, 3), 3, np.int16)] * 2)
    assert value(found, "mean") == 3
    assert value(found, "mean_share") == 1
    # As far from independent as can be: the patch's side.
    assert [value(found, "times_independent", side) for side in (8, 16, 32, WHOLE)] == pytest.approx([8, 16, 32, 64])
    assert found.patches[8, "R"] == (2 * 64, 0)
    assert found["skewness", 8, "R"] == Estimate(None, None, None)


def test_independent_uniform_noise() -> None:
    found = table([draw(seed) for seed in range(30)])
    rms = np.sqrt(8 * 9 / 3)  # of whole numbers from -8 to 8
    assert value(found, "rms") == pytest.approx(rms, rel=0.01)
    for side in (8, 16, 32):
        assert value(found, "times_independent", side) == pytest.approx(1, abs=0.05)
        expected = np.sqrt(2 / np.pi) / side
        assert value(found, "absolute_mean_share", side) == pytest.approx(expected, rel=0.05)
    assert value(found, "excess_kurtosis", WHOLE) == pytest.approx(-1.2 * (17**2 + 1) / (17**2 - 1), abs=0.02)
    assert [claim.judge(found) for claim in CLAIMS] == [Verdict.HOLDS] * 4


def test_blurred_noise_does_not_average_out_like_independent_noise() -> None:
    images = []
    for seed in range(25):
        white = np.random.default_rng(seed).normal(size=(64, 64, 3))
        smooth = ndimage.gaussian_filter(white, (3, 3, 0), mode="wrap")
        images.append(np.rint(20 * smooth / smooth.std()).astype(np.int16))
    found = table(images)
    # The variance of a mean over n x n is sigma² / n² times the sum of the correlations that fit in: here about 4 pi 3²,
    # less than that for a patch that is not much wider than the correlation.
    assert 5 < value(found, "times_independent", 16) < np.sqrt(4 * np.pi * 9)
    assert MEAN.judge(found) is not Verdict.FAILS
    assert PATCH_MEAN.judge(found) is Verdict.FAILS
    assert "Zero mean in each patch: does not hold." in PATCH_MEAN.sentence(found)


def test_asymmetric_noise_is_told() -> None:
    # Mostly -1, now and then +9: mean zero, skewness 8 / 3.
    images = [np.where(np.random.default_rng(s).random((64, 64, 3)) < 0.1, 9, -1).astype(np.int16) for s in range(25)]
    found = table(images)
    assert value(found, "skewness", WHOLE) == pytest.approx(8 / 3, rel=0.05)
    assert [claim.judge(found) for claim in (SKEWNESS, PATCH_SKEWNESS)] == [Verdict.FAILS] * 2
    assert MEAN.judge(found) is Verdict.HOLDS
    # The mirror image of it fails as well: a margin has two sides.
    assert SKEWNESS.judge(table([-image for image in images])) is Verdict.FAILS


def test_shifted_noise_is_told() -> None:
    found = table([draw(seed) + np.int16(2) for seed in range(25)])
    assert MEAN.judge(found) is Verdict.FAILS
    assert SKEWNESS.judge(found) is Verdict.HOLDS


@pytest.mark.parametrize(
    ("low", "high", "images", "verdict"),
    [
        (-0.05, 0.05, 20, Verdict.HOLDS),
        (-0.051, 0.05, 20, Verdict.UNKNOWN),
        (0.02, 0.07, 20, Verdict.UNKNOWN),
        (-0.2, 0.2, 20, Verdict.UNKNOWN),  # not being told from zero is not being close to it
        (0.051, 0.07, 20, Verdict.FAILS),
        (-0.07, -0.051, 20, Verdict.FAILS),
        (-0.01, 0.01, 19, Verdict.UNKNOWN),
        (0.3, 0.4, 19, Verdict.UNKNOWN),
        (None, None, 30, Verdict.UNKNOWN),
    ],
)
def test_verdicts(low: float | None, high: float | None, images: int, verdict: Verdict) -> None:
    claim = Claim("Claim", "mean_share", 0.05, "%", "")
    middle = None if low is None or high is None else (low + high) / 2
    found = PatchTable(images, {}, {(16, "all"): {"mean_share": Estimate(middle, low, high)}})
    assert claim.judge(found) is verdict
    sentence = claim.sentence(found)
    assert sentence.startswith(f"Claim: {verdict}")
    assert ("too few images" in sentence) == (verdict is Verdict.UNKNOWN and low is not None)


def test_intervals_in_words() -> None:
    assert interval(Estimate(-0.01, -0.021, 0.0), "%") == "−1.0 [−2.1, 0.0] % of the noise's RMS"
    assert interval(Estimate(None, None, None), "%") == "–"


@settings(max_examples=20, deadline=None)
@given(NOISES, st.integers(-100, 100))
def test_a_shift_moves_the_mean_and_nothing_else(image: Noise, shift: int) -> None:
    before, after = table([image]), table([image + np.int16(shift)])
    assert value(after, "mean", 8) == pytest.approx(value(before, "mean", 8) + shift)
    for quantity in ("skewness", "absolute_skewness", "excess_kurtosis"):
        old, new = before[quantity, 8, "all"].value, after[quantity, 8, "all"].value
        assert new == (None if old is None else pytest.approx(old, abs=1e-6)), quantity


@settings(max_examples=20, deadline=None)
@given(NOISES)
def test_the_other_sign_turns_mean_and_skewness_round(image: Noise) -> None:
    before, after = table([image]), table([-image])
    for quantity in QUANTITIES:
        old, new = before[quantity, 8, "all"].value, after[quantity, 8, "all"].value
        sign = -1 if quantity in ("mean", "mean_share", "skewness") else 1
        assert new == (None if old is None else pytest.approx(sign * old, abs=1e-9)), quantity


def test_no_noise_and_no_images() -> None:
    for found in (table([np.zeros((32, 32, 3), np.int16)] * 30), table([])):
        assert found["mean_share", 16, "all"] == Estimate(None, None, None)
        assert [claim.judge(found) for claim in CLAIMS] == [Verdict.UNKNOWN] * 4
        assert "no noise" in MEAN.sentence(found)
    small = table([draw(0, 12)])
    assert small.patches[16, "all"] == (0, 0)
    assert small.patches[8, "all"] == (3, 3)


def test_sign_flip_keeps_sizes_and_is_seeded() -> None:
    image = np.full((32, 32, 3), 4, np.int16)
    flipped = noise_controls.sign_flip(image, noise_controls.generator(0, "sign-flip", "identity"))
    assert set(flipped.ravel().tolist()) == {-4, 4}
    assert abs(float(flipped.mean())) < 0.5
    again = noise_controls.sign_flip(image, noise_controls.generator(0, "sign-flip", "identity"))
    assert np.array_equal(flipped, again)
    for seed, identity in ((1, "identity"), (0, "another")):
        other = noise_controls.sign_flip(image, noise_controls.generator(seed, "sign-flip", identity))
        assert not np.array_equal(flipped, other)


@pytest.mark.parametrize(
    ("kind", "rms"), [("uniform", np.sqrt(8 * 9 / 3)), ("gaussian", 4 * np.sqrt(0.7737)), ("sign", 8.0)]
)
def test_synthetic_noise(kind: str, rms: float) -> None:
    """A normal cut off at two deviations has 0.7737 of its variance; rounding adds a twelfth of a level."""
    grey = np.full((128, 128, 3), 128, np.uint8)
    found = noise_controls.synthetic(kind, grey, 8, noise_controls.generator(0, kind, "x"))
    assert int(np.abs(found).max()) == 8
    assert float(np.sqrt(np.mean(found.astype(float) ** 2))) == pytest.approx(rms, rel=0.02)
    assert abs(float(found.mean())) < 0.1
    black = noise_controls.synthetic(kind, np.zeros_like(grey), 8, noise_controls.generator(0, kind, "x"))
    assert np.array_equal(black, np.maximum(found, 0))  # clipped as a file would be


def test_no_such_noise() -> None:
    with pytest.raises(ValueError, match="pink: no such noise"):
        noise_controls.synthetic("pink", np.zeros((4, 4, 3), np.uint8), 1, np.random.default_rng(0))
