"""Purifier-aware attacks: through the purifier, never weaker than blind ones, and judged as files behind the purifier."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from apibench._torch import torch
from apibench.attacks.loop import generator
from apibench.evaluation import runners
from apibench.evaluation.asking import Asked, Task
from apibench.evaluation.aware import Guarded, adaptive
from apibench.evaluation.library import LibraryAttack, attack_pixels
from apibench.imageset import Pixels, pixels_sha256
from apibench.pixels import to_pixels, to_tensor
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings
from apibench.purifiers.contract import Purifier
from apibench.purifiers.ncis import NCIS
from apibench.purifiers.registry import create
from apibench.purifiers.smoothing import Smoothing
from tests.conftest import tiny_classifier
from tests.test_library_attacks import Linear, picture

Tensor = torch.Tensor


class Identity(Purifier):
    def once(self, x: Tensor) -> Tensor:
        return x


class Noise(Purifier):
    """Adds a random shade to the whole picture."""

    random = True

    def once(self, x: Tensor) -> Tensor:
        return x + 0.1 * (torch.rand(1, generator=self.generator()) - 0.5).to(x)


class Posterise(Purifier):
    """Eight levels a channel: flat almost everywhere, so that it has no gradient to give."""

    differentiable = False

    def once(self, x: Tensor) -> Tensor:
        return x.mul(7).round().div(7)


TINY = tiny_classifier()
LINEAR = Linear()


def label_of(pixels: Pixels, guarded: Guarded) -> int:
    return int(guarded.judge(to_tensor(pixels)).argmax(1))


def aware(pixels: Pixels, guarded: torch.nn.Module, epsilon: int, label: int, steps: int = 20) -> Pixels:
    return attack_pixels(pixels, label, "x", guarded, LibraryAttack("pgd-adaptive", epsilon, steps)).pixels


def loss(pixels: Pixels, guarded: Guarded, label: int) -> float:
    return float(torch.nn.functional.cross_entropy(guarded.judge(to_tensor(pixels)), torch.tensor([label])))


@pytest.mark.parametrize("name", ["pgd-adaptive", "pgd-linf", "pgd-l2", "mi-fgsm", "ddn"])
def test_through_a_purifier_that_does_nothing_aware_is_blind(name: str) -> None:
    attack = LibraryAttack(name, None if name == "ddn" else 8, 10)
    guarded = Guarded(TINY, Identity("identity", 1))
    for seed in range(3):
        label = label_of(picture(seed), guarded)
        blind = attack_pixels(picture(seed), label, "x", TINY, attack)
        through = attack_pixels(picture(seed), label, "x", guarded, attack)
        assert np.array_equal(blind.pixels, through.pixels)
        assert blind.linf > 0


def outcomes(guarded: Guarded, epsilon: int) -> tuple[int, int]:
    """How many of eight pictures the blind attack fools behind the purifier, and how many the aware one."""
    blind, through = 0, 0
    for seed in range(8):
        clean, label = picture(seed), label_of(picture(seed), guarded)
        blind += label_of(aware(clean, LINEAR, epsilon, label), guarded) != label
        through += label_of(aware(clean, guarded, epsilon, label), guarded) != label
    return blind, through


def test_aware_beats_blind_behind_smoothing() -> None:
    """The blind attack's high frequencies are smoothed away; the gradient through the smoothing finds others."""
    blind, through = outcomes(Guarded(LINEAR, create("gaussian", 2)), 4)
    assert blind <= 2
    assert through >= 6


@pytest.mark.parametrize(("purifier", "epsilon"), [(Posterise("posterise", 1), 2), (create("jpeg:30"), 8)])
def test_bpda_gets_through_what_undoes_the_blind_attack(purifier: Purifier, epsilon: int) -> None:
    blind, through = outcomes(Guarded(LINEAR, purifier), epsilon)
    assert through >= blind + 3
    assert through >= 6


def test_more_steps_never_fool_fewer() -> None:
    for purifier, epsilon in ((create("gaussian", 2), 3), (create("jpeg:30"), 6), (Posterise("posterise", 1), 1)):
        guarded = Guarded(LINEAR, purifier)
        fooled = []
        for steps in (1, 3, 9):
            attack = LibraryAttack("pgd-adaptive", epsilon, steps)
            labelled = [(picture(seed), label_of(picture(seed), guarded)) for seed in range(6)]
            fooled.append([attack_pixels(clean, label, "x", guarded, attack).success for clean, label in labelled])
        for fewer, more in itertools.pairwise(fooled):
            assert all(late >= early for early, late in zip(fewer, more, strict=True))
        assert any(fooled[-1])


@pytest.mark.parametrize("purifier", [create("gaussian", 2), create("jpeg:30"), Posterise("posterise", 1)])
def test_the_loss_never_falls(purifier: Purifier) -> None:
    """Also where one step overshoots: the best iterate is kept, and the clean image is among them."""
    guarded = Guarded(TINY, purifier)
    for seed in range(4):
        for steps in (1, 3):
            clean, label = picture(seed), label_of(picture(seed), guarded)
            attacked = aware(clean, guarded, 2, label, steps)
            assert loss(attacked, guarded, label) >= loss(clean, guarded, label) - 1e-6


def test_the_best_iterate_is_kept_though_the_last_is_worse() -> None:
    """A loss that is highest five levels up, which steps of four overshoot."""
    x = torch.full((1, 3, 4, 4), 128 / 255)
    asked: list[tuple[float, Tensor]] = []

    def model(y: Tensor) -> Tensor:
        shift = (y - x).mean((1, 2, 3)) * 255
        height = 2 - (shift - 5).abs() / 10
        asked.append((height.item(), y.detach()))
        return torch.stack([-height, torch.zeros_like(height)], 1)

    best = adaptive(x, 0, model, epsilon=16, steps=8, draws=generator(0, "x"))
    highest, where = max(asked, key=lambda pair: pair[0])
    assert torch.equal(best, where)
    assert highest > asked[-1][0]


def test_every_iterate_is_a_file_and_the_bound_holds() -> None:
    asked: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return TINY(x)

    x = to_tensor(picture())
    adaptive(x, 0, model, epsilon=6, steps=5, draws=generator(0, "x"))
    assert len(asked) == 7
    for iterate in asked:
        assert torch.equal(iterate, iterate.mul(255).round().div(255))
        assert float((iterate - x).abs().max()) <= 6 / 255 + 1e-6
    assert len(torch.unique((asked[1] - x).mul(255).round())) == 13  # the start is uniform in the ball


def ncis(iterations: int) -> NCIS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NCIS("ncis", iterations, BlindSpotNet(BlindSpotSettings(layers=3, filters=8)), Smoothing(3, 0.8))


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_gradient_goes_through_every_pass_of_ncis(iterations: int) -> None:
    """Against a difference quotient in float64, in a random direction."""
    guarded = Guarded(tiny_classifier(), ncis(iterations)).double()
    draws = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(1, 3, 12, 10, generator=draws, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=draws, dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(guarded(x)[0, 2], x)
    h = 1e-6
    with torch.enable_grad():  # so that both sides take the same path, without tiles
        ahead, behind = (guarded(x + side * h * direction)[0, 2].item() for side in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / (2 * h), rel=1e-4)
    assert gradient.abs().sum() > 0


def test_eot_is_the_mean_over_fresh_draws() -> None:
    x = to_tensor(picture())
    one, four = Guarded(TINY, Noise("noise", 1)), Guarded(TINY, Noise("noise", 1), eot=4)
    singles = [one(x) for _ in range(8)]
    assert len({float(s[0, 0]) for s in singles}) == 8
    for start in (0, 4):
        assert torch.allclose(four(x), torch.stack(singles[start : start + 4]).mean(0), atol=1e-5)
    assert Guarded(TINY, Identity("identity", 1), eot=4).eot == 1  # where nothing is drawn, one draw says it all


def test_draws_are_of_the_seed_and_the_image_whatever_the_judge_does_in_between() -> None:
    x = to_tensor(picture())
    guarded = Guarded(TINY, Noise("noise", 1))
    guarded.seed(3, "a")
    first, second = guarded(x), guarded(x)
    guarded.seed(3, "a")
    assert torch.equal(guarded(x), first)
    guarded.judge(x)
    assert torch.equal(guarded(x), second)
    for other in ((3, "b"), (4, "a")):
        guarded.seed(*other)
        assert not torch.equal(guarded(x), first)


def test_the_judge_sees_files_and_draws_by_their_identity() -> None:
    guarded = Guarded(TINY, Noise("noise", 1))
    x, y = to_tensor(picture(1)), to_tensor(picture(2))
    answer = guarded.judge(x)
    assert torch.equal(guarded.judge(x + 0.3 / 255), answer)  # rounded on the way in
    both = guarded.judge(torch.cat([y, x]))
    assert torch.equal(both[1:], answer)  # neither the batch nor the place matters
    assert not torch.equal(Guarded(TINY, Noise("noise", 1), seed=5).judge(x), answer)
    seen: list[Tensor] = []

    class Shown(torch.nn.Module):
        def forward(self, shown: Tensor) -> Tensor:
            seen.append(shown)
            return TINY(shown)

    Guarded(Shown(), create("gaussian", 1)).judge(x)
    assert torch.equal(seen[0], seen[0].mul(255).round().div(255))  # and on the way out


def test_success_is_the_defended_systems_answer_even_where_it_draws() -> None:
    guarded = Guarded(TINY, Noise("noise", 1), eot=2)
    for seed in range(4):
        label = label_of(picture(seed), guarded)
        result = attack_pixels(picture(seed), label, "x", guarded, LibraryAttack("pgd-adaptive", 12, 5))
        again = attack_pixels(picture(seed), label, "x", guarded, LibraryAttack("pgd-adaptive", 12, 5))
        assert result.success == (label_of(result.pixels, guarded) != label)
        assert np.array_equal(result.pixels, again.pixels)
        # Draws are not tried out: the clean image, the start and five steps, and no question to the judge.
        assert result.queries == 7


@pytest.mark.parametrize("name", ["pgd-l2", "ddn"])
def test_noise_is_not_made_longer_until_a_draw_suits_it(name: str) -> None:
    """The system changes its mind from file to file: the first that it is wrong about is found soon enough."""

    class Moody(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = torch.tensor(int.from_bytes(pixels_sha256(to_pixels(x))[:8].encode(), "big") % 2).to(x)
            return torch.stack([0.1 + 0 * heads, heads]).unsqueeze(0) + 0 * x.sum() + TINY(x)[:, :2] * 1e-3

    epsilon = None if name == "ddn" else 1.0
    lengths = []
    for purifier in (Identity("identity", 1), Noise("noise", 1)):
        guarded, tried = Guarded(Moody(), purifier), 0
        for seed in range(12):
            label = label_of(picture(seed), guarded)
            attack = LibraryAttack(name, epsilon, 4)
            task = Task(picture(seed), to_tensor(picture(seed)), label, attack)
            asked = Asked(guarded, task)
            runners._settled(task.x + 0.02 * torch.sin(torch.arange(task.x.numel()).view_as(task.x)), asked, task)
            tried += asked.queries
        lengths.append(tried)
    assert lengths[0] > 0
    assert lengths[1] == 0


def test_black_box_queries_are_answered_by_the_defended_system() -> None:
    guarded = Guarded(LINEAR, create("jpeg:30"))
    label = label_of(picture(), guarded)
    result = attack_pixels(picture(), label, "x", guarded, LibraryAttack("square", 16, 100))
    assert result.success
    assert result.gradients == 0
    assert label_of(result.pixels, guarded) != label


def test_eot_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="eot"):
        Guarded(TINY, Identity("identity", 1), eot=0)


def test_zero_gradients_leave_numbers() -> None:
    class Flat(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]]) + 0 * x.sum()

    result = attack_pixels(
        picture(), 1, "x", Guarded(Flat(), Identity("identity", 1)), LibraryAttack("pgd-adaptive", 8)
    )
    assert not result.success
    assert math.isfinite(result.l2)
