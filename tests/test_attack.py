"""The attack: equal to a short reference written from the papers, independent of its batch, within its bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench._torch import torch
from apibench.attacks import surrogates
from apibench.attacks.gradients import Momentum
from apibench.attacks.loop import AttackSettings, generator
from apibench.attacks.loop import attack as attacked
from apibench.attacks.surrogates import OneFunction, Surrogates, Views
from apibench.attacks.transforms import InputDiversity
from apibench.classifiers import Classifier, InputSettings, View
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.pixels import to_tensor
from tests.conftest import TinyNetwork, paint, tiny_classifier

ENSEMBLE = Surrogates([tiny_classifier(0, 32), tiny_classifier(1, 24), tiny_classifier(2, 32)])
DOUBLE = Surrogates([tiny_classifier(0, 32), tiny_classifier(1, 24)]).double()


def attack(*given: Any) -> torch.Tensor:
    return attacked(*given).images


def test_without_diversity_it_is_momentum_iteration_as_written() -> None:
    """Dong et al. 2018, algorithm 1 and section 3.4, in ten lines: mean absolute value, one image, plain backward."""
    x, label = to_tensor(paint(3)).double(), torch.tensor([4])
    eps, steps, mu = 16 / 255, 10, 1.0
    g, adv = torch.zeros_like(x), x.clone()
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        views = [
            torch.nn.functional.interpolate(adv, (c.input.size,) * 2, mode="bilinear", antialias=True)
            for c in DOUBLE.classifiers
        ]
        logits = sum(c.network((v - 0.5) / 0.5) for c, v in zip(DOUBLE.classifiers, views, strict=True)) / 2
        torch.nn.functional.cross_entropy(logits, label).backward()
        g = mu * g + adv.grad / adv.grad.abs().mean()
        adv = (adv.detach() + eps / steps * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    expected = (adv * 255).round() / 255
    ours = attack(x, label, DOUBLE, AttackSettings("mi"), [generator(0, "any")])
    assert torch.equal(ours.mul(255).round(), expected.mul(255).round())


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_an_image_does_not_depend_on_its_batch(order: list[int]) -> None:
    """In float64, where the last bits of a batched convolution cannot flip a sign."""
    pictures = torch.cat([to_tensor(paint(i)).double() for i in range(3)])
    labels = torch.tensor([1, 2, 3])
    alone = [
        attack(pictures[i : i + 1], labels[i : i + 1], DOUBLE, AttackSettings(), [generator(7, str(i))])
        for i in range(3)
    ]
    together = attack(pictures[order], labels[order], DOUBLE, AttackSettings(), [generator(7, str(i)) for i in order])
    for place, i in enumerate(order):
        assert torch.equal(together[place], alone[i][0])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.integers(1, 5), st.integers(0, 100), st.integers(9, 40), st.integers(9, 40))
def test_the_bound_holds_for_any_epsilon_steps_and_size(
    epsilon: int, steps: int, seed: int, height: int, width: int
) -> None:
    clean = paint(seed, height, width)
    x = to_tensor(clean)
    chosen = AttackSettings(epsilon=epsilon, steps=steps, seed=seed)
    levels = attack(x, torch.tensor([seed % 10]), ENSEMBLE, chosen, [generator(seed, "x")]) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (levels.round() - x * 255).abs().max() <= epsilon + 1e-4
    assert levels.min() >= 0
    assert levels.max() <= 255 + 1e-4


def test_it_raises_the_loss_of_networks_it_knows() -> None:
    x, label = to_tensor(paint(5)), ENSEMBLE(to_tensor(paint(5))).argmax(1)
    adversarial = attack(x, label, ENSEMBLE, AttackSettings(epsilon=8), [generator(0, "x")])
    loss = torch.nn.functional.cross_entropy
    noise = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    random = (x + noise * 8 / 255).clamp(0, 1)
    assert loss(ENSEMBLE(adversarial), label) > loss(ENSEMBLE(random), label) + 0.05


def test_a_gradient_of_zero_gives_no_nan() -> None:
    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] * torch.zeros(1, 10)

    x = to_tensor(paint(0))
    assert torch.equal(attack(x, torch.tensor([0]), OneFunction(flat), AttackSettings(), [generator(0, "x")]), x)
    rule = Momentum()
    assert torch.equal(rule.accumulate(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    assert rule.accumulate(torch.full((2, 3, 4, 4), float("nan"))).isfinite().all()


def test_draws_follow_seed_and_identity_alone() -> None:
    def draws(seed: int, identity: str) -> list[float]:
        return torch.rand(4, generator=generator(seed, identity)).tolist()

    assert draws(0, "a") == draws(0, "a")
    assert len({tuple(draws(s, i)) for s in (0, 1) for i in ("a", "b")}) == 4


def test_input_diversity_shows_the_whole_image_smaller_on_black() -> None:
    classifier = tiny_classifier(0, 60)
    white = torch.ones(1, 3, 40, 80)
    areas, whole = [], 0
    for i in range(200):
        (view,) = InputDiversity(0.9).views(Draws([generator(i, "x")]))
        shown = classifier.prepare(white, [view])
        assert shown.shape == (1, 3, 60, 60)
        lit = shown[0, 0] > 0  # white is 1 and black is -1 after this classifier's normalisation
        rows, columns = lit.any(1).nonzero(), lit.any(0).nonzero()
        assert bool(lit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()), "one rectangle"
        areas.append(float(lit.float().mean()))
        whole += view is None
    assert min(areas) >= (299 / 330 - 0.02) ** 2
    assert 8 <= whole <= 40, "one in ten is left alone"
    assert np.std(areas) > 0.02


def test_all_surrogates_are_shown_the_same_view() -> None:
    (view,) = InputDiversity(1.0, 0.5).views(Draws([generator(3, "x")]))
    large, small = tiny_classifier(0, 64), tiny_classifier(0, 32)
    a = large.prepare(torch.ones(1, 3, 50, 50), [view])[0, 0] > 0
    b = small.prepare(torch.ones(1, 3, 50, 50), [view])[0, 0] > 0
    assert torch.nn.functional.max_pool2d(a[None, None].float(), 2).sub(b[None, None].float()).abs().mean() < 0.1


@pytest.mark.parametrize("view", [None, View(0.75, 0.3, 0.6)])
def test_networks_of_a_size_share_a_resizing_whatever_their_normalisation(
    monkeypatch: pytest.MonkeyPatch, view: View | None
) -> None:
    network, show, sizes = TinyNetwork(0), surrogates.show, []
    others = [((0.5,) * 3, (0.5,) * 3), ((0.1, 0.2, 0.3), (0.6, 0.7, 0.8))]
    ensemble = Surrogates([Classifier("x", network, InputSettings(16, mean, std)) for mean, std in others])

    def shown(x: torch.Tensor, side: int, views: Views = None) -> torch.Tensor:
        sizes.append(side)
        return show(x, side, views)

    monkeypatch.setattr(surrogates, "show", shown)
    x = torch.rand(1, 3, 30, 40, requires_grad=True)
    views = None if view is None else [view]
    together = ensemble.logits(x, views)
    assert sizes == [16]
    (ours,) = torch.autograd.grad(sum(together).square().sum(), x)  # type: ignore[union-attr]
    alone = [ensemble.logits(x, views, index)[0] for index in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    (plain,) = torch.autograd.grad(sum(alone).square().sum(), x)  # type: ignore[union-attr]
    assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-7 * float(plain.abs().max()))


@pytest.mark.parametrize("side", [16, 32])
def test_a_gradient_is_laid_out_as_the_image_is(side: int) -> None:
    """Steps from an image in NCHW along a gradient in channels last cross the memory."""
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(tiny_classifier(0, side)(x).square().sum(), x)
    assert gradient.is_contiguous()


@pytest.mark.parametrize("bad", [{"name": "fgsm"}, {"epsilon": 0}, {"epsilon": 256}, {"steps": 0}])
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises((ValueError, ApibenchError), match=r"epsilon|attack|steps"):
        AttackSettings(**bad)  # type: ignore[arg-type]
