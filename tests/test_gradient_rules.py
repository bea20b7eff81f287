"""Gradient rules: each equal to a short reference written from its paper, whatever its batch, and never not a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apibench._torch import torch
from apibench.attacks.budgets import ball
from apibench.attacks.catalogue import L2, LINF, NORMS, TABLE
from apibench.attacks.loop import Attacked, AttackSettings, attack, generator
from apibench.attacks.patchwise import PatchWise
from apibench.attacks.surrogates import OneFunction, Surrogates
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.pixels import to_tensor
from tests.conftest import paint, tiny_classifier

Tensor = torch.Tensor
ENSEMBLE = Surrogates([tiny_classifier(0, 16), tiny_classifier(1, 12)])
HEIGHT, WIDTH = 6, 9
FIRST, SECOND = (torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (3 * HEIGHT * WIDTH, 10))
EPSILON = {LINF: 12, L2: 2.5}
STEPS = 5

# Short of the papers' 20 samples, so that the tests are quick.
RULES = ["i", "mi:0.8", "ni:0.9", "pi", "pi:3,5", "vmi:3", "vmi:2,0.5,0.7", "vni:3,1.5,0.8", "pgn:3", "pgn:2,1,0.3,0.9"]
RULES += ["emi:4", "emi:3,2,0.6"]
BOTH = [(name, norm) for name in RULES for norm in NORMS if norm in TABLE.find(name.partition(":")[0]).norms]


def picture(seed: int = 3) -> Tensor:
    return to_tensor(paint(seed, HEIGHT, WIDTH)).double()


def made(name: str) -> Any:
    return AttackSettings(name).composition.gradient.make()


def climbed(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The gradient of a smooth network's cross-entropy, by hand: (N, 3, HEIGHT, WIDTH) as the images, each its own."""
    wanted = torch.nn.functional.one_hot(labels, 10).double()

    def gradient(x: Tensor) -> Tensor:
        hidden = (x.flatten(1) @ FIRST.double()).sub(1).tanh()
        wrong = (hidden @ SECOND.double().T).softmax(1) - wanted
        return ((wrong @ SECOND.double()) * (1 - hidden**2) @ FIRST.double().T).view_as(x)

    return gradient


def walk(name: str, norm: str, x: Tensor, gradient: Callable[[Tensor], Tensor], seed: str = "x") -> Iterator[Tensor]:
    """Where the rule goes, step by step, without the rounding at the end."""
    rule, budget = made(name), ball(norm, x, EPSILON[norm], STEPS)
    draws = Draws([generator(0, seed + str(i)) for i in range(len(x))])
    for _ in range(STEPS):
        x = rule.advance(x, gradient, budget, draws)
        yield x


class Reference:
    """One image in float64, in the papers' terms: g over its mean absolute value, steps of the sign (in L2: both by the norm)."""

    def __init__(self, norm: str, clean: Tensor, gradient: Callable[[Tensor], Tensor]) -> None:
        self.linf, self.clean, self.gradient = norm == LINF, clean, gradient
        self.epsilon = EPSILON[norm] / 255 if self.linf else EPSILON[norm]
        self.alpha = self.epsilon / STEPS
        self.generator = generator(0, "x0")

    def unit(self, g: Tensor) -> Tensor:
        """As long as a gradient is taken to be when it is added to pixels."""
        return g / g.abs().mean() if self.linf else g / g.norm()

    def ahead(self, g: Tensor) -> Tensor:
        """In L-infinity the sum of normalised gradients, as it is."""
        return g if self.linf or not g.any() else g / g.norm()

    def near(self, x: Tensor, share: float) -> Tensor:
        half = share * self.epsilon * (1 if self.linf else (3 / x.numel()) ** 0.5)
        return x + half * (2 * torch.rand(x.shape[1:], generator=self.generator).double() - 1)

    def moved(self, x: Tensor, g: Tensor) -> Tensor:
        if self.linf:
            return self.inside(x + self.alpha * g.sign())
        return self.inside(x + self.alpha * g / g.norm())

    def inside(self, x: Tensor) -> Tensor:
        noise = x - self.clean
        noise = noise.clamp(-self.epsilon, self.epsilon) if self.linf else noise * min(1, self.epsilon / noise.norm())
        return (self.clean + noise).clamp(0, 1)

    # A rule each: the point after every step. The papers are named where the rules are.

    def i(self, x: Tensor) -> Iterator[Tensor]:
        for _ in range(STEPS):
            x = self.moved(x, self.gradient(x))
            yield x

    def mi(self, x: Tensor, mu: float = 1) -> Iterator[Tensor]:
        g = torch.zeros_like(x)
        for _ in range(STEPS):
            grad = self.gradient(x)
            g = mu * g + grad / grad.abs().mean()
            x = self.moved(x, g)
            yield x

    def ni(self, x: Tensor, mu: float = 1) -> Iterator[Tensor]:
        g = torch.zeros_like(x)
        for _ in range(STEPS):
            grad = self.gradient(x + self.alpha * mu * self.ahead(g))
            g = mu * g + grad / grad.abs().mean()
            x = self.moved(x, g)
            yield x

    def pi(self, x: Tensor, beta: float = 10, size: int = 3) -> Iterator[Tensor]:
        """In steps, which the paper's noise is whole numbers of: in pixels the excess of zero would have a sign of its own."""
        kernel = torch.ones(3, 1, size, size).double() / (size**2 - 1)
        kernel[:, :, size // 2, size // 2] = 0
        a = torch.zeros_like(x)
        for _ in range(STEPS):
            sign = self.gradient(x).sign()
            a = a + beta * sign
            cut = (a.abs() - STEPS).clamp(min=0) * a.sign()
            around = torch.nn.functional.conv2d(cut, kernel, padding=size // 2, groups=3)
            projection = beta * around.mul(1e6).round().sign()
            a = a + projection
            x = self.inside(x + self.alpha * (beta * sign + projection))
            yield x

    def vmi(
        self, x: Tensor, n: float = 20, beta: float = 1.5, mu: float = 1, nesterov: bool = False
    ) -> Iterator[Tensor]:
        g = v = torch.zeros_like(x)
        for _ in range(STEPS):
            grad = self.gradient(x + self.alpha * mu * self.ahead(g) if nesterov else x)
            g = mu * g + (grad + v) / (grad + v).abs().mean()
            v = torch.stack([self.gradient(self.near(x, beta)) for _ in range(int(n))]).mean(0) - grad
            x = self.moved(x, g)
            yield x

    def vni(self, x: Tensor, n: float = 20, beta: float = 1.5, mu: float = 1) -> Iterator[Tensor]:
        return self.vmi(x, n, beta, mu, nesterov=True)

    def pgn(self, x: Tensor, n: float = 20, zeta: float = 3, delta: float = 0.5, mu: float = 1) -> Iterator[Tensor]:
        g = torch.zeros_like(x)
        for _ in range(STEPS):
            mean = torch.zeros_like(x)
            for _ in range(int(n)):
                near = self.near(x, zeta)
                first = self.gradient(near)
                second = self.gradient(near - self.alpha * self.unit(first))
                mean = mean + ((1 - delta) * first + delta * second) / n
            g = mu * g + mean / mean.abs().mean()
            x = self.moved(x, g)
            yield x

    def emi(self, x: Tensor, n: float = 11, eta: float = 7, mu: float = 1) -> Iterator[Tensor]:
        g = last = torch.zeros_like(x)
        for _ in range(STEPS):
            factors = [-eta + 2 * eta * k / (n - 1) for k in range(int(n))]
            mean = torch.stack([self.gradient(x + c * self.alpha * last) for c in factors]).mean(0)
            last = self.unit(mean)
            g = mu * g + mean / mean.abs().mean()
            x = self.moved(x, g)
            yield x


@pytest.mark.parametrize(("name", "norm"), BOTH)
def test_a_rule_is_what_its_paper_says(name: str, norm: str) -> None:
    x, gradient = picture(), climbed(torch.tensor([4]))
    rule, _, numbers = name.partition(":")
    expected = getattr(Reference(norm, x, gradient), rule)(x, *map(float, filter(None, numbers.split(","))))
    if rule == "pi":
        expected = Reference(norm, x, gradient).pi(x, *(int(n) for n in numbers.split(",") if n))
    for step, (ours, theirs) in enumerate(zip(walk(name, norm, x, gradient), expected, strict=True)):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9), f"step {step}"
        assert not torch.equal(ours, x)


@pytest.mark.parametrize("name", ["i", "mi", "ni", "pi", "vmi", "vni", "pgn", "emi"])
def test_the_defaults_are_the_papers(name: str) -> None:
    """One step each, and a second where the first has no neighbours, with the numbers left out."""
    x, gradient = picture(1), climbed(torch.tensor([2]))
    theirs = getattr(Reference(LINF, x, gradient), name)(x)
    ours = walk(name, LINF, x, gradient)
    for _ in range(2):
        assert torch.allclose(next(ours), next(theirs), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "norm"), BOTH)
def test_an_image_does_not_depend_on_its_batch(name: str, norm: str) -> None:
    """Another one's gradient is 10,000 times as large, and another one has none at all."""
    pictures = torch.cat([picture(i) for i in range(3)])
    scale = torch.tensor([1.0, 1e4, 0.0]).double()[:, None, None, None]
    labels = torch.tensor([1, 2, 3])

    def gradient(point: Tensor) -> Tensor:
        return climbed(labels)(point) * scale

    together = list(walk(name, norm, pictures, gradient))[-1]
    for i in range(2):
        alone = pictures[i : i + 1]
        rule, budget = made(name), ball(norm, alone, EPSILON[norm], STEPS)
        draws = Draws([generator(0, f"x{i}")])
        x = alone
        for _ in range(STEPS):
            x = rule.advance(x, climbed(labels[i : i + 1]), budget, draws)
        assert torch.allclose(together[i], x[0], rtol=0, atol=1e-9)
    assert torch.equal(together[2], pictures[2]), "a gradient of zero moves nothing"


@pytest.mark.parametrize(("name", "norm"), BOTH)
def test_the_bound_holds_in_a_file(name: str, norm: str) -> None:
    x = picture(5).float()
    settings = AttackSettings(name, epsilon=EPSILON[norm], steps=STEPS, norm=norm)
    levels = attack(x, torch.tensor([5]), ENSEMBLE, settings, [generator(0, "x")]).images * 255
    noise = (levels.round() - x * 255).double()
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.round().min() >= 0
    assert levels.round().max() <= 255
    size = noise.abs().max() if norm == LINF else noise.norm() / 255
    assert 0.5 * EPSILON[norm] < size <= EPSILON[norm] + 1e-4


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "norm"), BOTH)
def test_a_gradient_that_says_nothing_gives_no_nan(name: str, norm: str, bad: float) -> None:
    """In the first step or in every one; beside an image that has one."""
    x = torch.cat([picture(0), picture(1)])
    usable = climbed(torch.tensor([0, 1]))
    for always in (True, False):
        calls = 0

        def gradient(point: Tensor, always: bool = always) -> Tensor:
            nonlocal calls
            calls += 1
            assert point.isfinite().all(), "a network is shown what is not a number"
            found = usable(point)
            if always or calls == 1:
                found[0] = bad
            return found

        walked = list(walk(name, norm, x, gradient))
        assert all(point.isfinite().all() for point in walked)
        assert not torch.equal(walked[-1][1], x[1])
        if always and bad == 0:
            assert torch.equal(walked[-1][0], x[0])


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_fainter_than_a_normal_number_gives_no_nan(norm: str) -> None:
    """Where denormals are not flushed, as on a GPU: 1 / its norm is infinite, and a zero times that not a number."""
    torch.set_flush_denormal(False)
    try:
        gradient = torch.zeros(1, 3, HEIGHT, WIDTH)
        gradient[0, 0, 0, 0] = 2e-39
        x = picture().float()
        rule = made("mi")
        for _ in range(2):
            direction = rule.direction(x, lambda _: gradient.clone(), ball(norm, x, EPSILON[norm], STEPS), Draws([]))
            assert direction.isfinite().all()
            assert direction[0, 0, 0, 0] > 0
    finally:
        torch.set_flush_denormal(True)


def test_an_ordinary_gradient_is_normalised_as_ever() -> None:
    """To the bit: the images of earlier versions are those of this one."""
    for scale in (1e-30, 1e-7, 1.0, 1e20):
        gradient = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * scale
        norm = torch.linalg.vector_norm(gradient, ord=1, dim=(1, 2, 3), keepdim=True)
        assert torch.equal(made("mi").accumulate(gradient), torch.zeros_like(gradient).addcmul_(gradient, 1.0 / norm))


def test_flat_networks_leave_the_image_as_it_is() -> None:
    def flat(x: Tensor) -> Tensor:
        return x.sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] * torch.zeros(1, 10)

    x = to_tensor(paint(0, 12, 12))
    for name in ("i", "mi", "ni", "pi", "vmi:2", "vni:2", "pgn:2", "emi:2"):
        settings = AttackSettings(name, steps=2)
        assert torch.equal(attack(x, torch.tensor([0]), OneFunction(flat), settings, [generator(0, "x")]).images, x)


COUNTS = {
    "i": 1,
    "mi": 1,
    "ni": 1,
    "pi": 1,
    "vmi": 21,
    "vni": 21,
    "pgn": 40,
    "emi": 11,
    "vmi:5": 6,
    "pgn:5": 10,
    "emi:3": 3,
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_gradients_of_a_step_are_what_the_table_says(name: str) -> None:
    settings = AttackSettings(name, steps=3)
    assert settings.composition.gradients_per_step == COUNTS[name]
    found: Attacked = attack(picture().float(), torch.tensor([1]), ENSEMBLE, settings, [generator(0, "x")])
    unused = COUNTS[name] - 1 if name[:3] in ("vmi", "vni") else 0  # of the last step: no step comes after it
    assert found.gradients == len(ENSEMBLE) * (3 * COUNTS[name] - unused)


@pytest.mark.parametrize(("name", "share"), [("vmi:4,0.5", 0.5), ("vni:4,0.5,0", 0.5), ("pgn:4,2,0", 2.0)])
@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_fill_the_share_of_the_budget(name: str, share: float, norm: str) -> None:
    x, gradient = picture(), climbed(torch.tensor([1]))
    seen: list[Tensor] = []

    def watched(point: Tensor) -> Tensor:
        seen.append(point.detach())
        return gradient(point)

    walked = [x, *walk(name, norm, x, watched)]
    drawn = seen[1:5] if name[0] == "v" else seen[0:8:2]  # around the first point
    if norm == LINF:
        sizes = [float((point - walked[0]).abs().max()) / (EPSILON[norm] / 255) for point in drawn]
    else:
        sizes = [float((point - walked[0]).norm()) / EPSILON[norm] for point in drawn]
    assert all(0.85 * share < size < 1.15 * share for size in sizes)
    assert len({round(size, 9) for size in sizes}) == 4


def test_patch_wise_hands_what_is_cut_off_to_the_neighbours() -> None:
    """By hand: one pixel with a gradient, twice as far as the bound at the second step; its eight neighbours follow."""
    clean = torch.full((1, 3, 5, 5), 0.5)
    budget, draws = ball(LINF, clean, 10, 10), Draws([generator(0, "x")])

    def one(point: Tensor) -> Tensor:
        gradient = torch.zeros_like(point)
        gradient[0, 1, 2, 2] = -3.0
        return gradient

    rule = PatchWise()
    first = rule.advance(clean, one, budget, draws)
    second = rule.advance(first, one, budget, draws)
    levels = [((x - clean) * 255).round() for x in (first, second)]
    expected = torch.zeros(3, 5, 5)
    expected[1, 2, 2] = -10
    assert torch.equal(levels[0][0], expected)
    expected[1, 1:4, 1:4] = -10
    assert torch.equal(levels[1][0], expected)


@pytest.mark.parametrize("epsilon", range(1, 32))
def test_no_rounding_is_taken_for_an_excess(epsilon: int) -> None:
    """In float32, ten tenths of epsilon are not always epsilon: the first step reaches the bound and cuts nothing off."""
    clean = torch.full((1, 3, 4, 4), 0.5)
    clean[:, :, ::2] = 0.25
    direction = PatchWise().direction(
        clean, lambda x: x - 0.4, ball(LINF, clean, epsilon, 10), Draws([generator(0, "x")])
    )
    assert torch.equal(direction, 10 * (clean - 0.4).sign())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pi:0.5", "AMPLIFICATION must be a number from 1 to 1000, got '0.5'"),
        ("pi:10,4", "KERNEL must be an odd number from 3 to 101, got '4'"),
        ("pi:10,1", "KERNEL must be an odd number from 3"),
        ("vmi:0", "SAMPLES must be a whole number from 1 to 1000, got '0'"),
        ("vni:2.5", "SAMPLES must be a whole number from 1 to 1000, got '2.5'"),
        ("vmi:20,-1", "BETA must be a number from 0 to 100, got '-1'"),
        ("vni:20,1.5,nan", "MU must be a number from 0 to 10, got 'nan'"),
        ("pgn:20,inf", "ZETA must be a number from 0 to 100, got 'inf'"),
        ("pgn:20,3,1.5", "DELTA must be a number from 0 to 1, got '1.5'"),
        ("emi:1", "SAMPLES must be a whole number from 2 to 1000, got '1'"),
    ],
)
def test_wrong_numbers_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ApibenchError) as caught:
        AttackSettings(name)
    assert f"{name}: {reason}" in str(caught.value)


def test_patch_wise_is_for_l_infinity() -> None:
    with pytest.raises(ValueError, match="pi is not defined in l2, only in linf"):
        AttackSettings("pi", norm=L2, epsilon=3)
