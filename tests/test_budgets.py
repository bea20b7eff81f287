"""The balls: the bound after rounding holds exactly, whatever the size, the radius, the image and where the attack went."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from apibench._torch import torch
from apibench.attacks.budgets import Budget, ball, unit
from apibench.pixels import to_pixels

Tensor = torch.Tensor

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))  # images, height, width
SEEDS = st.integers(0, 2**32 - 1)
TYPES = st.sampled_from([torch.float32, torch.float64])
EPSILONS = st.integers(1, 255)
# As a recipe has them: mostly short decimals, some of whole levels, tiny and huge ones too.
RADII = st.one_of(
    st.decimals("0.001", "20", places=3).map(float),
    st.integers(1, 400).map(lambda levels: levels / 255),
    st.floats(1e-6, 1e4),
)
BALLS = st.one_of(st.tuples(st.just("linf"), EPSILONS), st.tuples(st.just("l2"), RADII))


def pictures(seed: int, size: tuple[int, int, int], extremes: bool = True) -> Tensor:
    """(N, 3, H, W) in whole levels, 0 and 255 among them or nothing else."""
    draw = np.random.default_rng(seed)
    shape = (size[0], 3, *size[1:])
    low, high = (-100, 355) if extremes else (0, 255)
    levels = np.clip(draw.integers(low, high, shape, endpoint=True), 0, 255)
    return torch.from_numpy(levels).double() / 255


def made(norm: str, radius: float, seed: int, size: tuple[int, int, int], dtype: torch.dtype) -> Budget:
    return ball(norm, pictures(seed, size).to(dtype), radius, 10)


def walked(budget: Budget, seed: int) -> Tensor:
    """A few steps of any length, and directions with zeros: to the middle of the ball and to its edge."""
    draw = np.random.default_rng(seed)
    x = budget.clean.clone()
    for _ in range(int(draw.integers(1, 5))):
        direction = torch.from_numpy(draw.normal(0, 10.0 ** draw.integers(-20, 20), x.shape)).to(x)
        direction[torch.from_numpy(draw.random(x.shape) < draw.choice([0.0, 0.5, 1.0]))] = 0.0
        x = budget.move(x, direction, budget.radius * float(draw.uniform(0, 2)))
    return x


def whole(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The levels a file holds, each checked to be a whole one."""
    levels = x.double().numpy() * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    assert levels.min() >= 0
    assert levels.max() < 255 + 1e-4
    found = np.rint(levels).astype(np.int64)
    for image, pixels in zip(x.float(), found, strict=True):
        assert np.array_equal(to_pixels(image[None]), pixels.transpose(1, 2, 0))
    return found


def holds(budget: Budget, norm: str, radius: float, rounded: Tensor) -> None:
    """In whole numbers: nothing is forgiven."""
    noise = whole(rounded) - whole(budget.clean)
    if norm == "linf":
        assert np.abs(noise).max() <= radius
    else:
        squares = (noise**2).sum((1, 2, 3)).tolist()
        assert all(square <= (Fraction(str(radius)) * 255) ** 2 for square in squares)


@settings(max_examples=150, deadline=None)
@given(BALLS, SEEDS, SIZES, TYPES)
def test_the_bound_holds_exactly_after_rounding(
    chosen: tuple[str, float], seed: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    norm, radius = chosen
    budget = made(norm, radius, seed, size, dtype)
    x = walked(budget, seed)
    rounded = budget.rounded(x)
    holds(budget, norm, radius, rounded)
    assert rounded.dtype == dtype
    nearest = x.double().mul(255).round()
    assert (rounded.double().mul(255) - nearest).abs().max() <= 1 + 1e-3, "at most a level from the nearest"


@settings(max_examples=80, deadline=None)
@given(BALLS, SEEDS, SIZES, TYPES)
def test_it_holds_wherever_the_image_comes_from(
    chosen: tuple[str, float], seed: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """A point far outside, which no step leads to: rounding alone keeps the bound."""
    norm, radius = chosen
    budget = made(norm, radius, seed, size, dtype)
    outside = budget.clean + torch.from_numpy(np.random.default_rng(seed).normal(0, 2, budget.clean.shape)).to(dtype)
    holds(budget, norm, radius, budget.rounded(outside))
    holds(budget, norm, radius, budget.rounded(budget.project(outside)))


@settings(max_examples=80, deadline=None)
@given(BALLS, SEEDS, SIZES)
def test_a_point_inside_stays(chosen: tuple[str, float], seed: int, size: tuple[int, int, int]) -> None:
    norm, radius = chosen
    budget = made(norm, radius, seed, size, torch.float32)
    x = budget.clean + 0.999 * (walked(budget, seed) - budget.clean)
    if norm == "l2":
        # A pixel of 1 has no nearer neighbour than 6e-8: around it the points of a tiny ball may be rounded out of it.
        assume(bool(((x - budget.clean).double().flatten(1).norm(dim=1) <= radius).all()))
    assert torch.equal(budget.project(x), x), "to the last bit"
    assert torch.equal(budget.move(x, torch.zeros_like(x)), x)
    assert torch.equal(budget.rounded(budget.clean).mul(255).round(), budget.clean.mul(255).round())
    # A point in whole levels is its own rounding.
    rounded = budget.rounded(x)
    assert torch.equal(budget.rounded(rounded).mul(255).round(), rounded.mul(255).round())


@settings(max_examples=60, deadline=None)
@given(BALLS, SEEDS, SIZES)
def test_what_is_projected_is_in_the_ball_and_an_image(
    chosen: tuple[str, float], seed: int, size: tuple[int, int, int]
) -> None:
    norm, radius = chosen
    budget = made(norm, radius, seed, size, torch.float64)
    outside = budget.clean + torch.from_numpy(np.random.default_rng(seed).normal(0, 2, budget.clean.shape))
    x = budget.project(outside)
    order = math.inf if norm == "linf" else 2
    length = torch.linalg.vector_norm(x - budget.clean, ord=order, dim=(1, 2, 3))
    assert float(length.max()) <= budget.radius * (1 + 1e-12) + 1e-15
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.allclose(budget.project(x), x, rtol=0, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(BALLS, SEEDS, SIZES, TYPES)
def test_an_image_does_not_depend_on_its_batch(
    chosen: tuple[str, float], seed: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    norm, radius = chosen
    together = made(norm, radius, seed, size, dtype)
    draw = np.random.default_rng(seed)
    x = together.clean + torch.from_numpy(draw.normal(0, 0.1, together.clean.shape)).to(dtype)
    direction = torch.from_numpy(draw.normal(0, 1, together.clean.shape)).to(dtype)
    for row in range(size[0]):
        alone = ball(norm, together.clean[row : row + 1], radius, 10)
        one, way = x[row : row + 1], direction[row : row + 1]
        assert torch.allclose(together.move(x, direction)[row], alone.move(one, way)[0], rtol=0, atol=1e-6)
        assert torch.equal(together.rounded(x)[row], alone.rounded(one)[0])
        assert torch.allclose(together.units(direction)[row], alone.units(way)[0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(RADII, SEEDS, SIZES)
def test_rounding_in_l2_gives_away_little(radius: float, seed: int, size: tuple[int, int, int]) -> None:
    """What must be rounded towards the clean image is: once inside, giving one value back would be outside again."""
    budget = made("l2", radius, seed, size, torch.float64)
    x = budget.project(budget.clean + torch.from_numpy(np.random.default_rng(seed).normal(0, 2, budget.clean.shape)))
    rounded = budget.rounded(x)
    nearest = whole(x.mul(255).round().div(255)) - whole(budget.clean)
    noise = whole(rounded) - whole(budget.clean)
    allowed = (Fraction(str(radius)) * 255) ** 2
    for plain, kept in zip(nearest, noise, strict=True):
        if int((plain**2).sum()) <= allowed:
            assert np.array_equal(plain, kept)
        else:
            assert int((kept**2).sum()) + int((2 * np.abs(kept) + 1)[plain != kept].max()) > allowed


def test_a_radius_is_what_is_written() -> None:
    """A whole number of levels is allowed, and nothing above it is forgiven."""
    clean = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    beyond = torch.tensor([2.0, 0, 0], dtype=torch.float64).view(1, 3, 1, 1)
    for radius, level in ((0.2, 51), (0.6, 153), (0.4, 102), (0.399, 101), (0.4 - 1e-12, 101)):
        rounded = ball("l2", clean, radius, 1).rounded(beyond * radius)
        assert float(rounded.flatten()[0] * 255) == pytest.approx(level), radius


def test_steps_are_what_they_say() -> None:
    clean = torch.full((2, 3, 4, 4), 128 / 255)
    direction = torch.zeros_like(clean)
    direction[0, 0, 0, 0], direction[0, 0, 0, 1], direction[1, 1] = 3.0, -4.0, 1e-30
    linf = ball("linf", clean, 10, 5)
    assert linf.step == pytest.approx(2 / 255)
    assert torch.allclose(linf.move(clean, direction) - clean, direction.sign() * 2 / 255, atol=1e-7)
    assert torch.allclose(linf.move(clean, direction, 1.0) - clean, direction.sign() * 10 / 255, atol=1e-7)
    l2 = ball("l2", clean, 1.0, 5)
    moved = l2.move(clean, direction) - clean
    assert torch.allclose(moved[0, 0, 0, :2], torch.tensor([0.6, -0.8]) * 0.2, atol=1e-7)
    assert float(moved[1].norm()) == pytest.approx(0.2, rel=1e-5), "however faint the gradient"
    assert float((l2.move(clean, direction, 9.0) - clean)[1].norm()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e-42])
def test_a_direction_that_is_no_number_moves_no_image_to_nan(norm: str, bad: float) -> None:
    clean = pictures(0, (2, 4, 4)).float()
    budget = ball(norm, clean, 8, 10)
    direction = torch.ones_like(clean)
    direction[0, 0, 0, 0] = bad
    moved = budget.move(clean, direction)
    assert moved.isfinite().all()
    alone = ball(norm, clean[1:], 8, 10).move(clean[1:], direction[1:])
    assert torch.equal(moved[1], alone[0]), "the other image is none of its business"
    assert budget.units(direction * 1e-30).isfinite().all()
    assert budget.units(torch.zeros_like(direction)).isfinite().all()


def test_units_are_each_images_own_and_bear_any_size() -> None:
    x = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1)
    scales = torch.tensor([1.0, 1e-30, 1e30, 1e-40, 0.0, float("nan")]).view(6, 1, 1, 1)
    found = unit(x * scales)
    expected = torch.tensor([0.6, 0.8, 0.0])
    for image in found[:3]:
        assert torch.allclose(image.flatten(), expected)
    assert found.isfinite().all()
    assert not found[4:].any()


def test_noise_has_the_share_of_the_radius_it_is_asked_for() -> None:
    clean = torch.zeros(1, 3, 100, 100, dtype=torch.float64)
    noise = torch.rand(1, 3, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    assert ball("linf", clean, 8, 10).spread(0.5) == pytest.approx(4 / 255)
    assert float((noise * ball("l2", clean, 3.0, 10).spread(0.5)).norm()) == pytest.approx(1.5, rel=0.01)
