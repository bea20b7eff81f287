"""Spectra and histograms of noise: known answers, Parseval, and smoothing that is really done."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from apibench._torch import torch
from apibench.evaluation.noise_histograms import Histogram
from apibench.evaluation.spectra import BINS, FILTERS, STEP, Filter, Smoothed, Spectrum, power
from apibench.purifiers.smoothing import Smoothing
from tests.conftest import paint

Floats = npt.NDArray[np.float64]
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def white(seed: int = 0, height: int = 64, width: int = 64) -> Floats:
    return np.random.default_rng(seed).normal(0, 5, (height, width, 3))


def spectrum(*images: npt.NDArray[np.generic], window: bool = False) -> Spectrum:
    made = Spectrum(window=window)
    for image in images:
        made.add(image)
    return made


def smoothed(*images: npt.NDArray[np.generic]) -> Smoothed:
    made = Smoothed()
    for image in images:
        made.add(image)
    return made


def square(found: Spectrum, channel: str = "all") -> float:
    """The mean square that a spectrum holds, of pictures of 64 x 80 with all bins' areas."""
    area = np.bincount(
        np.minimum(np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(80)) / STEP, BINS - 1).astype(int).ravel(),
        minlength=BINS,
    )
    area[0] -= 1  # DC
    return float(np.nansum(found.density(channel) * area) / (64 * 80))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1))
def test_parseval(size: tuple[int, int], seed: int) -> None:
    image = white(seed, *size) + 3
    mean, energy = power(image, window=False)
    assert mean**2 + energy.sum(axis=(1, 2)) == pytest.approx((image**2).mean(axis=(0, 1)))
    found = smoothed(image)
    assert found.energy(mean=True) == pytest.approx((image**2).mean())
    assert found.energy("G", mean=False) == pytest.approx(image[..., 1].var(), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1))
def test_parseval_with_a_window(size: tuple[int, int], seed: int) -> None:
    image = white(seed, *size)
    height, width = size
    hann = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))[..., None]
    mean, energy = power(image)
    middle = (hann * image).sum(axis=(0, 1)) / hann.sum()
    assert mean == pytest.approx(middle)
    expected = ((hann * (image - middle)) ** 2).sum(axis=(0, 1)) / (hann**2).sum()
    assert energy.sum(axis=(1, 2)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 48), (32, 47), (17, 23)])
def test_half_a_plane_is_the_whole_one(height: int, width: int) -> None:
    """Against numpy's full FFT, coefficient by coefficient and bin by bin."""
    image = white(1, height, width)
    direct = np.abs(np.fft.fft2(image - image.mean(axis=(0, 1)), axes=(0, 1))) ** 2 / (height * width) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    found = spectrum(image).density("B")
    for number in range(BINS):
        here = (radius >= number * STEP) & (radius < (number + 1) * STEP)
        here[0, 0] = False
        if here.any():
            assert found[number] == pytest.approx(direct[here, 2].sum() * height * width / here.sum()), number
        else:
            assert math.isnan(found[number])


def test_a_sinusoid_is_where_it_is_and_holds_what_it_holds() -> None:
    y, x = np.mgrid[0:64, 0:80]
    wave = 6 * np.cos(2 * np.pi * (x * 20 / 80 + y * 8 / 64))
    found = spectrum(np.stack([wave, 0 * wave, wave / 2], axis=-1))
    density = found.density("R")
    peak = int(np.nanargmax(density))
    assert peak == int(math.hypot(0.25, 0.125) / STEP)
    assert square(found, "R") == pytest.approx(18)
    assert np.nansum(np.delete(density, peak)) == pytest.approx(0, abs=1e-12)
    assert square(found, "B") == pytest.approx(4.5)
    assert square(found, "G") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("window", [False, True])
def test_white_noise_is_flat_at_its_variance(window: bool) -> None:
    found = spectrum(*(white(seed) for seed in range(40)), window=window)
    density = found.density()
    density = density[6:88][~np.isnan(density[6:88])]
    assert density == pytest.approx(np.full(len(density), 25.0), rel=0.15)


def test_blurred_noise_has_the_filters_spectrum() -> None:
    kernel = Smoothing(5, 1.0).taps().numpy()
    images = []
    for seed in range(30):
        image = white(seed, 48, 64)
        for axis in (0, 1):
            image = ndimage.convolve1d(image, kernel, axis=axis, mode="wrap")
        images.append(image)
    found = spectrum(*images)
    low, middle = found.density()[8], found.density()[32]
    assert low == pytest.approx(25 * math.exp(-4 * math.pi**2 * (8.5 / 128) ** 2), rel=0.15)
    assert middle == pytest.approx(25 * math.exp(-4 * math.pi**2 * (32.5 / 128) ** 2), rel=0.2)


def test_images_of_any_size_share_the_grid() -> None:
    found = spectrum(*(white(seed, size, 2 * size) for seed in range(4) for size in (24, 37, 64)))
    assert np.nanmean(found.density()) == pytest.approx(25, rel=0.1)


@pytest.mark.parametrize("one", FILTERS, ids=lambda one: one.name)
def test_filters_are_the_purifiers(one: Filter) -> None:
    smoothing = Smoothing(one.kernel, one.sigma)
    taps = smoothing.taps().numpy()
    frequencies = np.linspace(0, 0.5, 9)
    offsets = np.arange(one.kernel) - one.kernel // 2
    direct = np.array([(taps * np.exp(-2j * np.pi * f * offsets)).sum().real for f in frequencies])
    assert one.response(frequencies) == pytest.approx(direct**one.passes)
    assert one.response(np.zeros(1)) == pytest.approx(1)


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_what_a_filter_takes_is_what_smoothing_takes(number: int) -> None:
    """Exact for a picture mirrored at its borders: smoothed in space, by convolution."""
    one = FILTERS[number]
    image = white(2, 40, 57) + 7
    taps = Smoothing(one.kernel, one.sigma).taps().numpy()
    smooth = image
    for _ in range(one.passes):
        for axis in (0, 1):
            smooth = ndimage.convolve1d(smooth, taps, axis=axis, mode="reflect")
    found = smoothed(image)
    assert found.removed(number, mean=True) == pytest.approx(1 - (smooth**2).mean() / (image**2).mean())
    after, before = (picture.var(axis=(0, 1)).mean() for picture in (smooth, image))
    assert found.removed(number, mean=False) == pytest.approx(1 - after / before)
    assert found.changed(number) == pytest.approx(np.sqrt(((smooth - image) ** 2).mean()))
    assert found.left(number) == pytest.approx(np.sqrt((smooth**2).mean()))


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_of_a_picture_too_near_enough(number: int) -> None:
    """The purifier does not repeat the border pixel: a few per cent of the small change, no more."""
    one = FILTERS[number]
    picture = paint(3, 96, 128)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    smooth = x
    for _ in range(one.passes):
        smooth = Smoothing(one.kernel, one.sigma).same(smooth)
    expected = 1 - float(smooth.var(dim=(2, 3)).mean() / x.var(dim=(2, 3)).mean())
    assert smoothed(picture).removed(number, mean=False) == pytest.approx(expected, rel=0.06)


def test_a_window_keeps_the_borders_out_of_the_density() -> None:
    """A ramp is smooth, yet its two ends meet in the FFT."""
    ramp = np.repeat(np.linspace(0, 255, 64)[None, :, None], 64, axis=0).repeat(3, axis=2)
    high = [np.nansum(spectrum(ramp, window=window).density()[32:]) for window in (False, True)]
    assert high[1] < high[0] / 1000


def test_nothing_has_no_share() -> None:
    for found in (smoothed(np.zeros((16, 16, 3))), Smoothed()):
        assert found.removed(0, mean=True) is None
        assert (found.changed(0), found.left(0), found.energy(mean=True)) == (0, 0, 0)
    constant = smoothed(np.full((16, 24, 3), 3))
    assert constant.removed(0, mean=False) is None
    assert constant.removed(0, mean=True) == pytest.approx(0, abs=1e-12)


def test_histogram_counts_and_moments() -> None:
    histogram = Histogram(1)
    noise = (paint(1).astype(np.int16) - paint(2)).astype(np.int16)
    histogram.add(noise[:20])
    histogram.add(noise[20:])
    values, counts = np.unique(noise[..., 0], return_counts=True)
    assert histogram.counts("R")[values + 255].tolist() == counts.tolist()
    assert histogram.counts().sum() == noise.size
    assert histogram.moments() == pytest.approx((noise.mean(), noise.std()))
    assert histogram.normal("G").sum() == pytest.approx(noise.size / 3, rel=0.01)


def test_bins_are_centred() -> None:
    histogram = Histogram(1 / 16)
    histogram.add(np.array([[-255.0, 0.04, 255.0], [-254.99, -0.03, 254.99]]))
    found = {channel: histogram.centres[histogram.counts(channel) > 0].tolist() for channel in "RGB"}
    assert found == {"R": [-255], "G": [0, 1 / 16], "B": [255]}


def test_distance_from_normal() -> None:
    normal, signs, constant = Histogram(1), Histogram(1), Histogram(1)
    normal.add(np.rint(np.random.default_rng(0).normal(0.3, 20, (200, 200, 3))))
    signs.add(np.random.default_rng(0).choice([-8, 8], (200, 200, 3)))
    constant.add(np.full((4, 4, 3), 2))
    assert (normal.kolmogorov() or 1) < 0.01
    # Half the mass lies left of -8, where a normal of deviation 8 has Phi(-1 + half a bin).
    assert signs.kolmogorov() == pytest.approx(0.5 - 0.5 * math.erfc((1 - 1 / 16) / math.sqrt(2)), abs=0.01)
    assert constant.kolmogorov() is None
    assert not constant.normal().any()
