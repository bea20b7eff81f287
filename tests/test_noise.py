from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apibench.evaluation import noise


def test_mean_and_skewness_by_hand() -> None:
    clean = np.full((2, 4, 1), 100, dtype=np.uint8)
    adversarial = clean.copy()
    # Left tile: noise 0, 0, 0, 4: mean 1, second moment 3, third 6, skewness 6 / 3^1.5. Right tile: all -2.
    adversarial[:, :2, 0] = [[100, 100], [100, 104]]
    adversarial[:, 2:, 0] = 98
    found = noise.patch_statistics(clean, adversarial, patch=2)
    assert found.mean.tolist() == [1.0, -2.0]
    assert found.skewness == pytest.approx([6 / 3**1.5])
    assert (found.patches, found.flat) == (2, 1)


def test_noise_is_signed_and_does_not_wrap() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert noise.patch_statistics(black, white).mean.tolist() == [255.0] * 3
    assert noise.patch_statistics(white, black).mean.tolist() == [-255.0] * 3


@pytest.mark.parametrize(
    ("height", "width", "patches"),
    [(16, 16, 3), (31, 16, 3), (32, 48, 18), (15, 100, 0)],
)
def test_incomplete_tiles_are_not_looked_at(height: int, width: int, patches: int) -> None:
    clean = np.zeros((height, width, 3), np.uint8)
    adversarial = clean.copy()
    adversarial[height // 16 * 16 :] = 200
    found = noise.patch_statistics(clean, adversarial)
    assert found.patches == patches
    assert not found.mean.any()


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        noise.patch_statistics(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_statistics_are_those_of_each_tile(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clean, adversarial = generator.integers(0, 256, size=(2, 20, 37, 3), dtype=np.uint8)
    found = noise.patch_statistics(clean, adversarial, patch=8)
    difference = adversarial.astype(float) - clean
    tiles = [difference[y : y + 8, x : x + 8, c].ravel() for y in (0, 8) for x in range(0, 32, 8) for c in range(3)]
    assert found.mean == pytest.approx([tile.mean() for tile in tiles])
    assert found.skewness == pytest.approx([stats.skew(tile) for tile in tiles])


def image(mean: list[float], skewness: list[float]) -> noise.PatchStatistics:
    return noise.PatchStatistics(np.array(mean, dtype=float), np.array(skewness, dtype=float))


def test_summary_is_the_mean_over_patches() -> None:
    # An image with more patches weighs more.
    found = noise.summarise([image([1, -3], [0.5]), image([2, 2, 2], [-1, 2])])
    assert (found.images, found.patches, found.flat_patches) == (2, 5, 2)
    assert found.mean.value == pytest.approx((1 - 3 + 6) / 5)
    assert found.absolute_mean.value == pytest.approx((1 + 3 + 6) / 5)
    assert found.skewness.value == pytest.approx(1.5 / 3)
    assert found.absolute_skewness.value == pytest.approx(3.5 / 3)
    # Two images drawn from two: the ends are one of the images alone.
    assert (found.mean.low, found.mean.high) == pytest.approx((-1.0, 2.0))


def test_interval_is_clustered_by_image() -> None:
    generator = np.random.default_rng(0)
    levels = generator.normal(size=40)
    clustered = [image([level] * 100, []) for level in levels]
    found = noise.summarise(clustered).mean
    assert found.low is not None
    assert found.high is not None
    # 40 images decide, not 4,000 patches.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * levels.std() / 40**0.5, rel=0.1)


def test_what_is_not_there_has_no_number() -> None:
    nothing = noise.Estimate(None, None, None)
    empty = noise.summarise([])
    assert (empty.images, empty.mean, empty.skewness) == (0, nothing, nothing)
    flat = noise.summarise([image([0.0, 0.0], [])])
    assert (flat.flat_patches, flat.skewness) == (2, nothing)
    assert flat.mean == noise.Estimate(0.0, 0.0, 0.0)


def test_summary_is_the_same_every_time() -> None:
    images = [image([float(i)], [i / 7]) for i in range(9)]
    assert noise.summarise(images) == noise.summarise(images)


def test_no_torch() -> None:
    code = "import sys, apibench.evaluation.noise, apibench.metrics, apibench.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
