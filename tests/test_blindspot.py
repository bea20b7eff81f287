"""The blind-spot network is blind, valid everywhere, and starts at the mean of a pixel's neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench._torch import torch
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings, crop, reflect
from apibench.purifiers.smoothing import Smoothing


def randomised(layers: int, filters: int, seed: int = 0) -> BlindSpotNet:
    """A network away from its start: every parameter random, so that no path is silent by chance."""
    torch.manual_seed(seed)
    network = BlindSpotNet(BlindSpotSettings(layers=layers, filters=filters)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("layers", [2, 3, 5, 8])
def test_an_output_pixel_does_not_see_its_own_input_pixel(layers: int) -> None:
    network = randomised(layers, 6)
    side = 2 * network.margin + 3
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    for row, column in ((0, 0), (1, 1), (2, 1)):
        (gradient,) = torch.autograd.grad(network(x)[0, :, row, column].sum(), x)
        m = network.margin
        assert (gradient[0, :, row + m, column + m] == 0).all(), "blind to itself"
        around = gradient[0, :, row + m - 1 : row + m + 2, column + m - 1 : column + m + 2]
        assert (around != 0).sum() >= 3 * 6, "but not to its neighbours"


def test_the_receptive_field_is_the_margin() -> None:
    network = randomised(5, 6)
    side = 2 * network.margin + 1
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    y = network(x)
    assert y.shape == (1, 3, 1, 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient[0, :, 0].abs() + gradient[0, :, -1].abs()).sum() > 0, "the outermost rows are used"


@pytest.mark.parametrize("filters", [4, 16, 64])
def test_it_starts_near_the_mean_of_the_ring(filters: int) -> None:
    torch.manual_seed(1)
    network = BlindSpotNet(BlindSpotSettings(layers=8, filters=filters))
    x = torch.rand(2, 3, 50, 50)
    ring = (torch.nn.functional.avg_pool2d(x, 3, 1) * 9 - x[..., 1:-1, 1:-1]) / 8
    with torch.no_grad():
        assert (network(x) - crop(ring, network.margin - 1)).abs().mean() < 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 40))
def test_reflection_gives_the_size_back_for_any_picture(height: int, width: int, border: int) -> None:
    x = torch.rand(1, 3, height, width)
    padded = reflect(x, border)
    assert padded.shape == (1, 3, height + 2 * border, width + 2 * border)
    assert torch.equal(crop(padded, border), x)


def test_smoothing_as_a_matrix_is_smoothing_by_convolution() -> None:
    smoothing = Smoothing(7, 1.3)
    x = torch.rand(1, 3, 20, 31, dtype=torch.float64)
    once = smoothing.same(smoothing.same(smoothing.same(x)))
    matrix = smoothing.operator(20, 3) @ x @ smoothing.operator(31, 3).T
    assert torch.allclose(once, matrix, atol=1e-12)
    assert torch.allclose(smoothing.operator(20, 3).sum(1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("settings_", [{"layers": 1}, {"filters": 2}])
def test_impossible_networks_are_refused(settings_: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="blind-spot network needs"):
        BlindSpotSettings(**settings_)
