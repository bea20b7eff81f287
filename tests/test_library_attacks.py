"""The libraries' attacks: within their bound as files, reproducible, counted and capped; their libraries' faults mended."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.evaluation import library, runners
from apibench.evaluation.asking import Asked, Task
from apibench.evaluation.library import Attacked, LibraryAttack, attack_pixels
from apibench.imageset import Pixels
from apibench.pixels import to_tensor
from tests.conftest import paint, tiny_classifier

SIDE = 24
EPSILON = {"linf": 16.0, "l2": 1.5}
# Enough for every attack to fool the linear classifier, and few enough to be quick.
STEPS = {"pgd-linf-targeted": 20, "pgd-l2-targeted": 20, "cw": 10, "ddn": 20, "autoattack": None}


class Linear(torch.nn.Module):
    """Random but fixed, ten classes; as easily fooled as a linear classifier of pixels is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(10, 3 * SIDE * SIDE, generator=draws) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


class Blind(torch.nn.Module):
    """Always class 3, whatever the picture, but for a dark one: the gradient is zero everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 10).to(x)
        logits[:, 3] = 1.0
        logits[:, 4] = torch.where(x.mean((1, 2, 3)) < 0.02, 2.0, 0.0)
        return logits + 0 * x.sum((1, 2, 3))[:, None]


class Recorder(torch.nn.Module):
    """Passes everything on, and keeps what it was asked."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        y: torch.Tensor = self.model(x)
        return y


MODEL = Linear()
TINY = tiny_classifier()  # harder to fool


def picture(seed: int = 1) -> Pixels:
    return paint(seed, SIDE, SIDE)


def label_of(pixels: Pixels, model: torch.nn.Module = MODEL) -> int:
    with torch.no_grad():
        return int(model(to_tensor(pixels)).argmax(1))


def attack_named(name: str, steps: int | None = None) -> LibraryAttack:
    norm = next(info.norm for info in library.describe() if info.name == name)
    unbounded = LibraryAttack(name, EPSILON[norm]).info.minimum
    return LibraryAttack(name, None if unbounded else EPSILON[norm], steps or STEPS.get(name, 10))


def run(name: str, seed: int = 1, model: torch.nn.Module = MODEL, steps: int | None = None) -> Attacked:
    attack = attack_named(name, steps or (120 if LibraryAttack(name, 1.0).info.black_box else None))
    return attack_pixels(picture(seed), label_of(picture(seed)), f"image{seed}", model, attack)


@pytest.mark.parametrize("name", library.names())
def test_it_fools_as_a_file_within_its_bound_and_again_to_the_bit(name: str) -> None:
    before = torch.get_rng_state()
    result = run(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (SIDE, SIDE, 3)
    assert result.success
    assert label_of(result.pixels) != label_of(picture())
    noise = result.pixels.astype(int) - picture()
    assert result.linf == np.abs(noise).max() > 0
    assert result.l2 == pytest.approx(math.sqrt((noise**2).sum()) / 255)
    attack = attack_named(name)
    if attack.epsilon is not None:
        assert (result.linf if attack.info.norm == "linf" else result.l2) <= attack.epsilon
    assert result.queries > 0
    assert (result.gradients > 0) is (not attack.info.black_box)
    assert (result.target is not None) is attack.info.targeted
    assert all(p.requires_grad and p.grad is None for p in MODEL.parameters())
    torch.manual_seed(99)  # what went before must not matter
    run("pgd-linf", seed=2)
    again = run(name)
    assert np.array_equal(again.pixels, result.pixels)
    assert (again.queries, again.gradients) == (result.queries, result.gradients)


@pytest.mark.parametrize("name", ["pgd-linf", "pgd-l2", "square", "boundary", "hopskipjump", "pgd-adaptive"])
def test_draws_are_of_the_image_and_the_seed(name: str) -> None:
    attack = attack_named(name, 60 if LibraryAttack(name, 1.0).info.black_box else 3)
    other_seed = LibraryAttack(attack.name, attack.epsilon, attack.steps, seed=1)
    clean, label = picture(), label_of(picture())
    first = attack_pixels(clean, label, "a", MODEL, attack).pixels
    assert not np.array_equal(first, attack_pixels(clean, label, "b", MODEL, attack).pixels)
    assert not np.array_equal(first, attack_pixels(clean, label, "a", MODEL, other_seed).pixels)


@pytest.mark.parametrize("name", library.names())
def test_an_image_that_is_wrong_already_stays(name: str) -> None:
    wrong = (label_of(picture()) + 1) % 10
    result = attack_pixels(picture(), wrong, "x", MODEL, attack_named(name))
    assert np.array_equal(result.pixels, picture())
    assert (result.success, result.queries, result.gradients, result.linf, result.l2) == (True, 0, 0, 0, 0.0)


@pytest.mark.parametrize("name", [info.name for info in library.describe() if info.black_box])
@pytest.mark.parametrize("steps", [1, 7, 60])
def test_a_black_box_attack_gets_its_queries_and_not_one_more_all_of_them_files(name: str, steps: int) -> None:
    """The two that are not the attack's: whether the clean image is right, and whether the result fools."""
    model = Recorder(TINY)  # no attack fools it so soon
    clean = picture()
    attack = LibraryAttack(name, 2.0 if name == "square" else None, steps)
    result = attack_pixels(clean, label_of(clean, model.model), "x", model, attack)
    assert result.queries == steps
    assert sum(len(x) for x in model.asked) - steps in (1, 2)  # nothing found is not asked about
    assert result.gradients == 0
    assert all(torch.equal(x, x.mul(255).round().div(255)) for x in model.asked)


def test_every_forward_and_backward_pass_is_counted() -> None:
    model = Recorder(MODEL)
    result = attack_pixels(picture(), label_of(picture()), "x", model, LibraryAttack("pgd-linf", 8, 13))
    assert result.gradients == 13
    assert result.queries == 13
    assert len(model.asked) == 13 + 2


@pytest.mark.parametrize("name", library.names())
def test_zero_gradients_and_failure_give_an_image_within_the_bound_and_no_success(name: str) -> None:
    """foolbox's CW returns a black image where it finds nothing, and this model takes black for another class."""
    if name == "autoattack":
        return  # thousands of queries before it gives up; its parts are apgd-ce and square
    attack = attack_named(name, 5)
    result = attack_pixels(picture(), 3, "x", Blind(), attack)
    assert not result.success
    assert result.linf <= (attack.epsilon or 0) if attack.info.norm == "linf" else result.l2 <= (attack.epsilon or 0)
    if attack.info.minimum:
        assert np.array_equal(result.pixels, picture())


def test_a_bound_ends_the_search_for_the_closest() -> None:
    label = label_of(picture())
    unbounded = attack_pixels(picture(), label, "x", MODEL, LibraryAttack("hopskipjump-linf", None, 200))
    bounded = attack_pixels(picture(), label, "x", MODEL, LibraryAttack("hopskipjump-linf", 64, 200))
    assert unbounded.queries == 200 > bounded.queries
    assert bounded.success
    assert unbounded.linf < bounded.linf <= 64


def test_momentum_is_dongs() -> None:
    """Dong et al. 2018, algorithm 1: L1-normalised gradients are accumulated before the sign is taken."""
    clean = picture()
    x = to_tensor(clean)
    adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        adv = adv.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(MODEL(adv), torch.tensor([label_of(clean)]))
        (gradient,) = torch.autograd.grad(loss, adv)
        g = g + gradient / gradient.abs().mean()
        adv = (adv.detach() + 16 / 255 / 10 * g.sign()).clamp(x - 16 / 255, x + 16 / 255).clamp(0, 1)
    expected = adv.mul(255).round()[0].permute(1, 2, 0).numpy()
    assert np.array_equal(run("mi-fgsm", steps=10).pixels, expected)


def test_pgd_is_foolboxs_own() -> None:
    import foolbox

    clean, label = picture(), label_of(picture())
    attack = LibraryAttack("pgd-linf", 8, 6)
    ours = attack_pixels(clean, label, "x", MODEL, attack).pixels
    with torch.random.fork_rng():
        torch.manual_seed(runners.generator(0, "x").initial_seed())
        theirs = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / 6, steps=6).run(
            foolbox.PyTorchModel(MODEL.eval(), bounds=(0, 1), device="cpu"),
            to_tensor(clean),
            foolbox.criteria.Misclassification(torch.tensor([label])),
            epsilon=8 / 255,
        )
    MODEL.zero_grad()
    assert np.array_equal(ours, theirs.mul(255).round()[0].permute(1, 2, 0).detach().numpy())


def test_apgd_finds_what_the_library_finds_without_stopping_early() -> None:
    """Near the boundary, where some images fall and some do not."""
    from pyautoattack.autopgd_base import APGDAttack

    found = []
    for seed in range(8):
        clean, label = picture(seed), label_of(picture(seed), TINY)
        ours = attack_pixels(clean, label, "x", TINY, LibraryAttack("apgd-ce", 12, 20))
        apgd = APGDAttack(TINY, n_iter=20, eps=12 / 255, seed=runners.generator(0, "x").initial_seed(), device="cpu")
        with torch.random.fork_rng():
            theirs = apgd.perturb(to_tensor(clean), torch.tensor([label]))
        found.append(ours.success)
        assert ours.success == (int(TINY(theirs.mul(255).round().div(255)).argmax(1)) != label)
    assert True in found
    assert False in found


@pytest.mark.parametrize("name", ["apgd-ce", "square"])
def test_what_nearly_fools_is_kept_where_nothing_does(name: str) -> None:
    """The libraries return the clean image; a purifier or another classifier would be tried on no attack at all."""
    clean, label = picture(), label_of(picture(), TINY)
    result = attack_pixels(clean, label, "x", TINY, LibraryAttack(name, 4, 30))
    assert not result.success
    assert result.linf == 4

    def margin(pixels: Pixels) -> float:
        logits = TINY(to_tensor(pixels))[0]
        return float(logits[label] - logits.topk(2).values[1])

    assert 0 < margin(result.pixels) < margin(clean)


def test_a_targeted_attack_reaches_its_target() -> None:
    for seed in range(4):
        result = run("pgd-linf-targeted", seed)
        assert result.target not in (None, label_of(picture(seed)))
        assert label_of(result.pixels) == result.target
    assert len({run("pgd-l2-targeted", seed).target for seed in range(8)}) > 2


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_the_l2_bound_holds_after_rounding_and_is_used(epsilon: float) -> None:
    clean = picture()
    task = Task(clean, to_tensor(clean), 0, LibraryAttack("pgd-l2", epsilon))
    noise = torch.randn(task.x.shape, generator=torch.Generator().manual_seed(0)) / 8
    on_the_ball = task.x + epsilon * noise / noise.norm()
    for x in (on_the_ball, task.x + noise, task.x + 1e4 * noise):
        assert ((task.fit(x).astype(int) - clean) ** 2).sum() <= (255 * epsilon) ** 2
    assert ((task.fit(task.x + noise).astype(int) - clean) ** 2).sum() >= 0.9 * (255 * epsilon) ** 2


def test_the_linf_bound_holds_whatever_a_library_returns() -> None:
    clean = picture()
    task = Task(clean, to_tensor(clean), 0, LibraryAttack("pgd-linf", 8))
    noise = task.fit(task.x + torch.randn(task.x.shape)).astype(int) - clean
    assert np.abs(noise).max() == 8


def test_noise_that_rounding_undoes_is_made_longer() -> None:
    clean = np.full((4, 4, 3), 100, np.uint8)
    x = to_tensor(clean)

    class Threshold(torch.nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            change = (y - x).mean((1, 2, 3))
            return torch.stack([torch.full_like(change, 0.3 / 255), change], 1)

    task = Task(clean, x, 0, LibraryAttack("ddn", None))
    asked = Asked(Threshold(), task)
    found = x + 0.4 / 255
    assert not asked.fools(task.fit(found))  # 0.4 of a level is rounded away
    longer, fools = runners._settled(found, asked, task)
    assert fools
    assert asked.fools(longer)


@pytest.fixture
def tracing() -> Iterator[Any]:
    """The interpreter's trace function, as a debugger or a coverage tool would have set it."""

    def trace(frame: FrameType, event: str, argument: Any) -> None: ...

    before = sys.gettrace()
    sys.settrace(trace)
    yield trace
    sys.settrace(before)


def test_autoattack_is_silent_and_leaves_the_trace_function(
    tracing: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # It warns of a model whose output looks like probabilities, through a logger that nobody has set up.
    assert run("autoattack", model=torch.nn.Sequential(MODEL, torch.nn.Softmax(1))).success
    assert sys.gettrace() is tracing
    assert not logging.getLogger("auto-attack").disabled
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("name", library.names())
@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_tiny_images(name: str, shape: tuple[int, int]) -> None:
    clean = paint(4, *shape)
    model = tiny_classifier()
    if name == "autoattack":
        return  # as above
    attack = attack_named(name, 4)
    result = attack_pixels(clean, label_of(clean, model), "x", model, attack)
    assert result.pixels.shape == clean.shape


class NotFinite(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 10) + x.sum()
        return torch.where(x.mul(255).frac().abs().max() > 1e-3, logits * math.nan, logits)


def test_logits_that_are_not_finite_are_named() -> None:
    with pytest.raises(ApibenchError, match="not finite"):
        attack_pixels(picture(), 0, "x", NotFinite(), LibraryAttack("pgd-linf", 8))


@pytest.mark.parametrize(
    ("name", "module"), [("ddn", "foolbox"), ("autoattack", "pyautoattack"), ("square", "pyautoattack.square")]
)
def test_a_library_that_is_not_installed_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ApibenchError, match=r"apibench\[evaluation\]"):
        run(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fgsm", 8), "no such attack"),
        (("pgd-linf", None), "needs an epsilon"),
        (("pgd-linf", 0.5), "whole number of levels"),
        (("pgd-linf", 256), "whole number of levels"),
        (("square", 0), "whole number of levels"),
        (("pgd-l2", -1.0), "Euclidean norm"),
        (("pgd-l2", math.nan), "Euclidean norm"),
        (("pgd-linf", math.inf), "whole number of levels"),
        (("ddn", None, 0), "steps"),
        (("ddn", None, True), "steps"),
        (("autoattack", 8, 20), "no parameters"),
    ],
)
def test_impossible_settings_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ApibenchError, match=message) as error:
        LibraryAttack(*arguments)
    assert str(arguments[0]) in str(error.value)


def test_names_of_variants_and_whole_settings() -> None:
    assert LibraryAttack("pgd-linf", 8).variant == "pgd-linf/eps8"
    assert LibraryAttack("pgd-l2", 3).variant == "pgd-l2/l2-3.0"
    assert LibraryAttack("cw", None).variant == "cw"
    assert LibraryAttack("pgd-linf", 8) == LibraryAttack("pgd-linf", 8.0, 20)
    assert [info.name for info in library.describe()] == library.names()
    assert set(library.names()) == set(runners._RUNNERS)


def test_settings_can_be_checked_without_torch() -> None:
    code = (
        "import sys; from apibench.evaluation.library import LibraryAttack; LibraryAttack('cw', None);"
        "print([name for name in ('torch', 'foolbox', 'pyautoattack') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
