"""TI, SI, Admix, SSA and BSR: each equal to a short reference written from its paper, given the same draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench._torch import torch
from apibench.attacks import catalogue, composition
from apibench.attacks.blocks import BlockShuffleRotation, rotated
from apibench.attacks.loop import Attacked, AttackSettings, attack
from apibench.attacks.scaling import Admix, ScaleInvariance
from apibench.attacks.spectrum import SpectrumSimulation, cosines
from apibench.attacks.surrogates import OneFunction, Surrogates
from apibench.attacks.transforms import InputTransform
from apibench.attacks.translation import TranslationInvariance
from apibench.draws import Draws, generator
from apibench.errors import ApibenchError
from apibench.pixels import to_tensor
from tests.conftest import paint, tiny_classifier

Tensor = torch.Tensor
Generator = torch.Generator

NAMES = ("ti", "si", "admix", "ssa", "bsr")
SMALL = ("ti", "si:3", "admix:2,2", "ssa:3", "bsr:3")  # few copies, so that tests take no time
NETWORK = Surrogates([tiny_classifier(0, 32)]).double()
POOL = torch.cat([to_tensor(paint(10 + i)).double() for i in range(6)])


def others(draws: Draws, size: tuple[int, int]) -> Tensor:
    chosen = POOL[draws.whole(len(POOL))]
    return torch.nn.functional.interpolate(chosen, size, mode="bilinear")


def run(name: str, x: Tensor, labels: Tensor, generators: list[Generator], steps: int = 3) -> Attacked:
    return attack(x, labels, NETWORK, AttackSettings(name, epsilon=8, steps=steps), generators, others)


def slope(x: Tensor, label: Tensor) -> Tensor:
    """The gradient of the network's loss at one image."""
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(torch.nn.functional.cross_entropy(NETWORK(x), label), x)
    return found


# The references: the gradient that the paper says, at one image, the random numbers taken from its generator.


def ti_reference(x: Tensor, label: Tensor, g: Generator) -> Tensor:
    """Dong et al. 2019: W * grad J(x), W Gaussian of 15 x 15 taps out to three standard deviations."""
    taps = scipy.stats.norm.pdf(np.linspace(-3, 3, 15))
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    planes = [scipy.signal.convolve2d(plane, kernel, mode="same") for plane in slope(x, label)[0].numpy()]
    return torch.from_numpy(np.stack(planes))[None]


def si_reference(x: Tensor, label: Tensor, g: Generator) -> Tensor:
    """Lin et al. 2020: the mean over i of the gradient of J(x / 2^i) with respect to x."""
    return sum((slope(x / 2**i, label) / 2**i for i in range(3)), torch.zeros_like(x)) / 3


def admix_reference(x: Tensor, label: Tensor, g: Generator) -> Tensor:
    """Wang et al. 2021: the mean over other images x' and scales of the gradient of J((x + eta x') / 2^i)."""
    drawn = [POOL[torch.randint(len(POOL), (1,), generator=g)] for _ in range(2)]
    terms = [slope((x + 0.2 * other) / 2**i, label) / 2**i for other in drawn for i in range(2)]
    return sum(terms, torch.zeros_like(x)) / 4


def ssa_reference(x: Tensor, label: Tensor, g: Generator) -> Tensor:
    """Long et al. 2022: the mean gradient through IDCT(DCT(x + xi) * m), in SciPy; it is its own adjoint."""
    total = torch.zeros_like(x)
    for _ in range(3):
        noise = torch.randn(x.shape[1:], generator=g).double() * (16 / 255)
        mask = (torch.rand(x.shape[1:], generator=g).double() * 2 - 1) * 0.5 + 1

        def weigh(y: Tensor, mask: Tensor = mask) -> Tensor:
            spectrum = scipy.fft.dctn(y.numpy(), axes=(2, 3), norm="ortho") * mask.numpy()
            return torch.from_numpy(scipy.fft.idctn(spectrum, axes=(2, 3), norm="ortho"))

        total += weigh(slope(weigh(x + noise), label))
    return total / 3


def cut(x: Tensor, dim: int, numbers: list[float]) -> list[Tensor]:
    """Two parts in random order, the first as long as its share of two numbers."""
    shares, keys = [1 - numbers.pop(0), 1 - numbers.pop(0)], [numbers.pop(0), numbers.pop(0)]
    length = round(x.shape[dim] * shares[0] / sum(shares))
    parts = x.split([length, x.shape[dim] - length], dim)  # type: ignore[no-untyped-call]
    return [parts[0], parts[1]] if keys[0] < keys[1] else [parts[1], parts[0]]


def bsr_copy(x: Tensor, g: Generator) -> Tensor:
    """Wang et al. 2024: 2 x 2 blocks, shuffled, each turned by at most 24 degrees about its middle."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    numbers: list[float] = torch.rand(17, generator=g, dtype=torch.float64).tolist()
    first, second = (2, 3) if numbers.pop(0) < 0.5 else (3, 2)
    rows = []
    for strip in cut(x, first, numbers):
        blocks = cut(strip, second, numbers)
        rows.append([rotate(b, 48 * numbers.pop(0) - 24, InterpolationMode.BILINEAR) for b in blocks])
    return torch.cat([torch.cat(row, second) for row in rows], first)


def bsr_reference(x: Tensor, label: Tensor, g: Generator) -> Tensor:
    total = torch.zeros_like(x)
    for _ in range(3):
        y = x.detach().requires_grad_()
        shown = bsr_copy(y, g)
        total += torch.autograd.grad(shown, y, slope(shown, label))[0]
    return total / 3


REFERENCES: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {
    "ti": ti_reference,
    "si:3": si_reference,
    "admix:2,2": admix_reference,
    "ssa:3": ssa_reference,
    "bsr:3": bsr_reference,
}


@pytest.mark.parametrize("name", SMALL)
def test_the_attack_is_the_paper_s(name: str) -> None:
    x, label, eps, steps = to_tensor(paint(3)).double(), torch.tensor([4]), 8 / 255, 3
    draws, momentum, adversarial = generator(0, "any"), torch.zeros_like(x), x.clone()
    for _ in range(steps):
        gradient = REFERENCES[name](adversarial, label, draws)
        momentum = momentum + gradient / gradient.abs().mean()
        adversarial = (adversarial + eps / steps * momentum.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    found = run(f"mi-{name}", x, label, [generator(0, "any")], steps)
    assert torch.equal(found.images.mul(255).round(), adversarial.mul(255).round())


def test_bsr_shows_what_the_reference_shows() -> None:
    x = to_tensor(paint(1, 31, 44)).double()
    for seed in range(20):
        ours = BlockShuffleRotation().pixels(x, 0, Draws([generator(seed, "x")]))
        assert torch.allclose(ours, bsr_copy(x, generator(seed, "x")), atol=1e-12)


@pytest.mark.parametrize("name", [*SMALL, "bsr:2-di-ti", "ssa:2-admix:2,2"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_an_image_does_not_depend_on_its_batch(name: str, order: list[int]) -> None:
    """In float64, where the last bits of a batched product cannot flip a sign."""
    pictures, labels = torch.cat([to_tensor(paint(i, 32, 40)).double() for i in range(3)]), torch.tensor([1, 2, 3])
    alone = [run(name, pictures[i, None], labels[i, None], [generator(7, str(i))]).images[0] for i in range(3)]
    together = run(name, pictures[order], labels[order], [generator(7, str(i)) for i in order]).images
    assert torch.equal(together, torch.stack([alone[i] for i in order]))


@pytest.mark.parametrize("name", SMALL)
def test_a_gradient_of_zero_gives_no_nan(name: str) -> None:
    def flat(x: Tensor) -> Tensor:
        return x.sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] * torch.zeros(1, 10)

    x = to_tensor(paint(0))
    chosen = AttackSettings(name, steps=2)
    assert torch.equal(attack(x, torch.tensor([0]), OneFunction(flat), chosen, [generator(0, "x")], others).images, x)


def test_a_gradient_that_is_not_finite_stays_its_image_s() -> None:
    gradient = torch.rand(3, 3, 20, 20)
    broken = gradient.clone()
    broken[1, 0, 5, 5] = float("nan")
    whole, found = (TranslationInvariance().gradient(g) for g in (gradient, broken))
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


def test_defaults_are_the_papers_and_cost_what_they_say() -> None:
    defaults = {"ti": (15, 3.0), "si": (5,), "admix": (3, 5, 0.2), "ssa": (20, 16.0, 0.5), "bsr": (20, 2, 24.0)}
    gradients = {"ti": 1, "si": 5, "admix": 15, "ssa": 20, "bsr": 20}
    for name in NAMES:
        part = catalogue.TABLE.find(name)
        assert part.defaults == defaults[name]
        made = part.make(part.defaults)
        assert made.copies == gradients[name] == part.gradients(part.defaults)
        assert vars(made).keys() == (plain := vars(type(made)())).keys()
        assert all(value == plain[key] for key, value in vars(made).items() if isinstance(value, int | float))


@pytest.mark.parametrize("name", [*SMALL, "ssa:2-admix:2,2-ti", "si:2-bsr:3-di"])
def test_gradients_are_counted(name: str) -> None:
    x, label = to_tensor(paint(0)).double(), torch.tensor([0])
    per_step = composition.parse(name).gradients_per_step
    assert run(name, x, label, [generator(0, "x")], steps=2).gradients == 2 * per_step


def test_admix_mixes_one_image_at_all_scales_and_another_in_the_next_gradient() -> None:
    shown: list[Tensor] = []

    def counted(draws: Draws, size: tuple[int, int]) -> Tensor:
        assert size == (48, 64)
        shown.append(torch.full((1, 3, *size), float(len(shown) + 1)))
        return shown[-1]

    x, draws, admix = torch.zeros(1, 3, 48, 64), Draws([generator(0, "x")]), Admix(2, 3, 0.5)
    admix.begin(x, counted)
    for turn in range(2):
        for again in range(2):  # as where another transform has copies of its own
            levels = [float(admix.pixels(x, copy, draws).mean()) for copy in range(admix.copies)]
            first, second = 0.5 * (2 * turn + 1), 0.5 * (2 * turn + 2)
            assert levels == [first, first / 2, first / 4, second, second / 2, second / 4], again
        admix.gradient(x)
    assert len(shown) == 4


def test_admix_without_other_images_says_so() -> None:
    x, label = to_tensor(paint(0)).double(), torch.tensor([0])
    with pytest.raises(ApibenchError, match=r"admix mixes in other images"):
        attack(x, label, NETWORK, AttackSettings("admix"), [generator(0, "x")])


@pytest.mark.parametrize("size", [1, 2, 7, 32, 45])
def test_cosines_are_the_orthonormal_dct(size: int) -> None:
    matrix = cosines(size, torch.float64, torch.device("cpu"))
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert np.allclose(matrix.numpy(), scipy.fft.dct(np.eye(size), axis=0, norm="ortho"), atol=1e-12)


def test_ssa_without_noise_and_mask_is_the_image() -> None:
    x = to_tensor(paint(2, 33, 50))
    assert torch.allclose(SpectrumSimulation(1, 0.0, 0.0).pixels(x, 0, Draws([generator(0, "x")])), x, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_bsr_without_rotation_only_moves_pixels(height: int, width: int, blocks: int, seed: int) -> None:
    x = torch.arange(3.0 * height * width).view(1, 3, height, width)
    moved = BlockShuffleRotation(1, blocks, 0.0).pixels(x, 0, Draws([generator(seed, "x")]))
    assert moved.shape == x.shape
    assert torch.allclose(moved.flatten().sort().values, x.flatten(), atol=1e-2)


def test_bsr_draws_are_anew_for_each_copy_and_as_many_whatever_the_size() -> None:
    draws, bsr = Draws([generator(0, "x")]), BlockShuffleRotation()
    x = to_tensor(paint(0))
    assert not torch.equal(bsr.pixels(x, 0, draws), bsr.pixels(x, 1, draws))
    after = []
    for size in (1, 2, 50):
        draws = Draws([generator(0, "x")])
        bsr.pixels(torch.rand(1, 3, size, size), 0, draws)
        after.append(draws.numbers(1))
    assert after[0] == after[1] == after[2]


def test_rotation_is_about_the_middle_and_keeps_proportions() -> None:
    """A quarter turn of a square is a transposition; a bar across an oblong stays as thick as it was."""
    square = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    assert torch.allclose(rotated(square, 90), square.rot90(1, (2, 3)), atol=1e-12)
    bar = torch.zeros(1, 1, 21, 61, dtype=torch.float64)
    bar[:, :, :, 29:32] = 1
    turned = rotated(bar, 90)
    assert torch.allclose(turned[0, 0, 8:13, 30].round(), torch.tensor([0, 1, 1, 1, 0.0], dtype=torch.float64))


def test_the_order_of_names_is_the_order_of_transforms() -> None:
    x, label = to_tensor(paint(0)).double(), torch.tensor([0])
    one, two = (run(name, x, label, [generator(0, "x")], 1).images for name in ("ssa:1-bsr:1", "bsr:1-ssa:1"))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    "name",
    [
        *("ti:4", "ti:0", "ti:15,0", "si:0", "si:99", "admix:0", "admix:3,0", "admix:3,5,-1"),
        *("ssa:0", "ssa:20,-1", "ssa:20,16,2", "bsr:0", "bsr:20,0", "bsr:20,2,181", "bsr:20,2,24,1"),
    ],
)
def test_wrong_numbers_are_refused_by_name(name: str) -> None:
    with pytest.raises(ApibenchError, match=name.partition(":")[0]):
        AttackSettings(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TranslationInvariance(4), "odd size"),
        (lambda: TranslationInvariance(15, 0.0), "reach"),
        (lambda: ScaleInvariance(0), "one copy"),
        (lambda: Admix(3, 0), "one scale"),
        (lambda: SpectrumSimulation(20, float("nan")), "sigma"),
        (lambda: SpectrumSimulation(20, 16.0, 1.5), "rho"),
        (lambda: BlockShuffleRotation(20, 0), "one block"),
        (lambda: BlockShuffleRotation(20, 2, float("nan")), "degrees"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], InputTransform], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
