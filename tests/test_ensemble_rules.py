"""Ensemble rules: equal, in float64, to short references written from the papers; independent of the batch; no NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from apibench._torch import torch
from apibench.attacks import surrogates
from apibench.attacks.adaptive import SURE, Adaptive, agreement
from apibench.attacks.budgets import ball
from apibench.attacks.ensembles import MeanLoss
from apibench.attacks.loop import Attacked, AttackSettings, attack, generator
from apibench.attacks.losses import CrossEntropy
from apibench.attacks.objective import Objective
from apibench.attacks.surrogates import OneFunction, Surrogates, Views, mean
from apibench.attacks.svre import VarianceReduced
from apibench.attacks.transforms import InputDiversity
from apibench.attacks.weakness import CommonWeakness
from apibench.classifiers import Classifier
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.pixels import to_tensor
from tests.conftest import paint, tiny_classifier

Tensor = torch.Tensor

# Two of them share a resizing, the third has another.
THREE = Surrogates([tiny_classifier(0, 16), tiny_classifier(1, 12), tiny_classifier(2, 16)]).double()
K = 3
EPSILON, STEPS = 8, 3
STEP = EPSILON / 255 / STEPS
LABEL = torch.tensor([4])


def picture(seed: int = 3) -> Tensor:
    return to_tensor(paint(seed, 20, 24)).double()


def logits(x: Tensor, index: int) -> Tensor:
    """Of one network, written out: resize, normalise, judge."""
    classifier = THREE.classifiers[index]
    assert isinstance(classifier, Classifier)
    side = (classifier.input.size,) * 2
    found: Tensor = classifier.network(
        (torch.nn.functional.interpolate(x, side, mode="bilinear", antialias=True) - 0.5) / 0.5
    )
    return found


def gradient(x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    return x.grad


def cross_entropy(values: Tensor, label: Tensor = LABEL) -> Tensor:
    return torch.nn.functional.cross_entropy(values, label)


def own(x: Tensor, index: int) -> Tensor:
    """g_k: the gradient of a network's own loss."""
    return gradient(x, lambda x: cross_entropy(logits(x, index)))


def of_mean_logits(x: Tensor) -> Tensor:
    return gradient(x, lambda x: cross_entropy((logits(x, 0) + logits(x, 1) + logits(x, 2)) / K))


def clip(x: Tensor, clean: Tensor) -> Tensor:
    return x.clamp(clean - EPSILON / 255, clean + EPSILON / 255).clamp(0, 1)


def levels(x: Tensor) -> Tensor:
    return x.mul(255).round()


def run(name: str, clean: Tensor, norm: str = "linf", **more: object) -> Attacked:
    settings = AttackSettings(name, EPSILON if norm == "linf" else 0.5, STEPS, norm=norm, **more)  # type: ignore[arg-type]
    labels = LABEL.expand(len(clean))
    return attack(clean, labels, THREE, settings, [generator(0, str(i)) for i in range(len(clean))])


# --- the simple rules


@pytest.mark.parametrize("name", ["mi", "mi-probs", "mi-loss"])
def test_the_simple_rules_are_momentum_iteration_on_the_loss_they_say(name: str) -> None:
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "mi": lambda x: cross_entropy(sum(logits(x, k) for k in range(K)) / K),  # type: ignore[arg-type]
        "mi-probs": lambda x: -torch.stack([logits(x, k).softmax(1) for k in range(K)]).mean(0)[0, 4].log(),
        "mi-loss": lambda x: sum(cross_entropy(logits(x, k)) for k in range(K)) / K,  # type: ignore[return-value]
    }
    clean = picture()
    x, total = clean, torch.zeros_like(clean)
    for _ in range(STEPS):
        g = gradient(x, losses[name])
        total = total + g / g.abs().sum()
        x = clip(x + STEP * total.sign(), clean)
    result = run(name, clean)
    assert torch.equal(levels(result.images), levels(x))
    assert result.gradients == STEPS * K


@pytest.mark.parametrize("transformed", [False, True])
def test_mean_loss_a_network_at_a_time_is_the_plain_gradient(transformed: bool) -> None:
    x = torch.cat([picture(i) for i in range(2)])
    transforms = [InputDiversity(1.0)] if transformed else []

    def objective() -> Objective:
        return Objective(
            THREE, torch.tensor([1, 2]), CrossEntropy(), transforms, Draws([generator(0, "a"), generator(0, "b")])
        )

    rule, budget = MeanLoss(), ball("linf", x, 8, 1)
    plain = objective().gradient(x, rule.combine)
    counted = objective()
    ours = rule.gradient(x, counted, budget)
    assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-15)
    assert not torch.equal(ours[0], ours[1])
    assert counted.gradients == K
    each = objective().of_each(x)
    assert torch.allclose(mean(each), plain, rtol=1e-12, atol=1e-15), "and the networks' own, shown the same copies"
    assert torch.allclose(each[1], objective().of_network(x, 1), rtol=1e-12, atol=1e-15)


def test_mean_loss_frees_a_network_before_the_next_and_resizes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    judge, show = Surrogates.judge, surrogates.show

    def judged(self: Surrogates, given: Tensor, index: int) -> Tensor:
        events.append(f"forward {index}")
        given.register_hook(lambda _: events.append(f"backward {index}"))
        return judge(self, given, index)

    def shown(x: Tensor, side: int, views: Views = None) -> Tensor:
        events.append(f"resize {side}")
        resized = show(x, side, views)
        resized.register_hook(lambda _: events.append(f"backward {side}"))
        return resized

    monkeypatch.setattr(Surrogates, "judge", judged)
    monkeypatch.setattr(surrogates, "show", shown)
    objective = Objective(THREE, LABEL, CrossEntropy(), [], Draws([generator(0, "a")]))
    objective.of_mean(picture())
    middle = [f"{way} {index}" for index in range(K) for way in ("forward", "backward")]
    assert events[:-2] == ["resize 16", "resize 12", *middle]
    assert sorted(events[-2:]) == ["backward 12", "backward 16"]


# --- SVRE


@pytest.mark.parametrize(("name", "decay"), [("mi-svre:2", 1.0), ("mi:0.5-svre:2", 0.5), ("i-svre:2", 0.0)])
def test_svre_is_its_algorithm(name: str, decay: float) -> None:
    """Algorithm 1, the inner walk of M = 2K steps; which network an inner step takes is drawn from the image's generator."""
    clean = picture()
    draws = Draws([generator(0, "0")])
    x, outer = clean, torch.zeros_like(clean)
    for _ in range(STEPS):
        ensemble, point, inner = of_mean_logits(x), x, torch.zeros_like(x)
        for _ in range(2 * K):
            (k,) = draws.whole(K)
            g = own(point, k) - (own(x, k) - ensemble)
            inner = decay * inner + g / g.abs().sum()
            point = clip(point + STEP * inner.sign(), clean)
        outer = decay * outer + inner / inner.abs().sum()
        x = clip(x + STEP * outer.sign(), clean)
    result = run(name, clean)
    assert torch.equal(levels(result.images), levels(x))
    assert (
        result.gradients == STEPS * K * AttackSettings(name).composition.gradients_per_step == STEPS * (2 * K + 2 * K)
    )


def test_svre_draws_every_network_and_not_the_same_for_all_images() -> None:
    steps: list[list[int]] = []

    class Recorder(Objective):
        def of_chosen(self, x: Tensor, chosen: Sequence[int]) -> Tensor:
            steps.append([*chosen])
            return super().of_chosen(x, chosen)

    x = torch.cat([picture(i) for i in range(2)])
    draws = Draws([generator(0, "a"), generator(0, "b")])
    objective = Recorder(THREE, torch.tensor([1, 2]), CrossEntropy(), [], draws)
    settings = AttackSettings("mi-svre:10")
    rule = settings.composition.gradient.make()
    VarianceReduced(10).advance(x, objective, rule, ball("linf", x, 8, 1), draws)
    first, second = zip(*steps, strict=True)
    assert len(steps) == 10 * K
    assert set(first) == set(second) == {0, 1, 2}
    assert first != second
    assert objective.gradients == K * (2 + 10)


# --- AdaEA


def adaptive_gradient(x: Tensor, clean: Tensor, beta: float, threshold: float) -> Tensor:
    """Weights, filter and the gradient of the loss of the weighted logits, of one image."""
    gradients = [own(x, k) for k in range(K)]
    trials = [clip(x + STEP * g.sign(), clean) for g in gradients]
    losses = [[float(cross_entropy(logits(trial, i))) for trial in trials] for i in range(K)]
    evidence = [beta * sum(losses[i][j] / losses[i][i] for i in range(K) if i != j) for j in range(K)]
    weights = torch.tensor(evidence, dtype=torch.float64).softmax(0)
    similar = torch.nn.functional.cosine_similarity
    pairs = [similar(gradients[a], gradients[b], dim=1, eps=1e-30) for a, b in ((0, 1), (0, 2), (1, 2))]
    keep = torch.stack(pairs).mean(0) >= threshold
    weighted = gradient(x, lambda x: cross_entropy(sum(weights[k] * logits(x, k) for k in range(K))))  # type: ignore[arg-type]
    return weighted * keep


@pytest.mark.parametrize(
    ("name", "beta", "threshold"),
    [("mi-adaea", 10, -0.3), ("mi-adaea:2,0.2", 2, 0.2), ("i-adaea:0,0.5", 0, 0.5)],
)
def test_adaea_is_its_equations(name: str, beta: float, threshold: float) -> None:
    clean = picture()
    x, total = clean, torch.zeros_like(clean)
    for _ in range(STEPS):
        g = adaptive_gradient(x, clean, beta, threshold)
        total = total * name.startswith("mi") + g / g.abs().sum()
        x = clip(x + STEP * total.sign(), clean)
    result = run(name, clean)
    assert torch.equal(levels(result.images), levels(x))
    assert result.gradients == 2 * STEPS * K


def test_adaea_weighs_the_network_whose_trial_fools_the_others() -> None:
    """Network 0's trial raises the others' loss; 1's and 2's only their own."""
    clean = picture()
    objective = Objective(THREE, LABEL, CrossEntropy(), [], Draws([generator(0, "a")]))
    table = torch.tensor([[2.0, 1.0, 1.0], [2.0, 2.0, 1.0], [2.0, 1.0, 2.0]])  # [judge, maker]
    for targeted, best in ((False, 0), (True, 1)):
        calls = iter(table.flatten())
        objective.targeted = targeted
        objective.losses = lambda x, index, calls=calls: next(calls)[None]  # type: ignore[assignment, misc]
        weights = Adaptive(1.0).weights(clean, [own(clean, k) for k in range(K)], objective, ball("linf", clean, 8, 3))
        assert weights.shape == (K, 1)
        assert int(weights.argmax()) == best
        ratio = torch.tensor([2.0, 1.0, 1.0] if not targeted else [2.0, 4.0, 4.0], dtype=torch.float64)
        assert torch.allclose(weights[:, 0], ratio.softmax(0))


def test_adaea_bears_networks_that_are_sure() -> None:
    """Losses of exactly zero: no ratio of them is a number."""
    clean = picture()
    objective = Objective(THREE, LABEL, CrossEntropy(), [], Draws([generator(0, "a")]))
    objective.losses = lambda x, index: torch.zeros(1)  # type: ignore[method-assign]
    weights = Adaptive().weights(clean, [own(clean, k) for k in range(K)], objective, ball("linf", clean, 8, 3))
    assert torch.allclose(weights, torch.full((K, 1), 1 / K, dtype=torch.float64))
    values = iter([SURE / 9, 1.0, 1.0, SURE / 3, 0.0, 1e30, 1.0, 0.0, SURE])
    objective.losses = lambda x, index: torch.tensor([next(values)])  # type: ignore[method-assign]
    weights = Adaptive().weights(clean, [own(clean, k) for k in range(K)], objective, ball("linf", clean, 8, 3))
    assert weights.isfinite().all()


def test_the_filter_is_the_mean_cosine_of_all_pairs_a_pixel() -> None:
    a = torch.tensor([1.0, 0.0, 0.0])
    b = torch.tensor([0.0, 2.0, 0.0])
    zero = torch.zeros(3)
    nan = torch.tensor([float("nan"), 1.0, 0.0])
    # Pixels: all alike, one against two, faint but opposed, one zero, one not a number.
    pixels = [(a, a, 3 * a), (a, a, -a), (1e-25 * a, -1e-25 * a, 1e-25 * b), (a, a, zero), (a, a, nan)]
    gradients = [torch.stack([pixel[k] for pixel in pixels], 1).view(1, 3, 1, 5) for k in range(3)]
    expected = torch.tensor([1, -1 / 3, -1 / 3, 1 / 3, 1 / 3])
    assert torch.allclose(agreement(gradients)[0, 0, 0], expected)
    assert agreement(gradients[:1]).shape == (1, 1, 1, 5)
    assert (agreement(gradients[:1]) == 1).all()


# --- CWA


@pytest.mark.parametrize(
    ("name", "decay", "inner_step", "back"),
    [("mi-cwa", 1.0, 250, 15), ("mi:0.5-cwa:0.05,3", 0.5, 0.05, 3), ("i-cwa:0.05", 0.0, 0.05, 15)],
)
def test_cwa_is_its_algorithm(name: str, decay: float, inner_step: float, back: float) -> None:
    """MI-CWA: the step back, the networks in turn, the step itself of 2 epsilon / T. Inner momentum lasts the attack."""
    clean = picture()
    x, inner, outer = clean, torch.zeros_like(clean), torch.zeros_like(clean)
    for _ in range(STEPS):
        point = clip(x - EPSILON / 255 / back * of_mean_logits(x).sign(), clean)
        for k in range(K):
            g = own(point, k)
            inner = decay * inner + g / g.square().sum().sqrt()
            point = clip(point + inner_step * inner, clean)
        outer = decay * outer + (point - x) / (point - x).abs().sum()
        x = clip(x + 2 * STEP * outer.sign(), clean)
    result = run(name, clean)
    assert torch.equal(levels(result.images), levels(x))
    assert result.gradients == 2 * STEPS * K


# --- all three

RULES = ["mi-svre:1", "mi-adaea", "mi-cwa", "i-di-svre:1", "mi-di-adaea", "mi-di-cwa:0.1", "mi-di-loss"]


@pytest.mark.parametrize("target", ["untargeted", "given"])
@pytest.mark.parametrize("name", RULES)
def test_an_image_does_not_depend_on_its_batch(name: str, target: str) -> None:
    pictures = torch.cat([picture(i) for i in range(4)])
    labels = torch.tensor([1, 2, 3, 4])
    settings = AttackSettings(name, EPSILON, STEPS, target=target)

    def result(rows: list[int]) -> Tensor:
        return attack(pictures[rows], labels[rows], THREE, settings, [generator(7, str(i)) for i in rows]).images

    together = result([2, 0, 3, 1])
    for place, row in enumerate([2, 0, 3, 1]):
        assert torch.equal(together[place], result([row])[0])


@pytest.mark.parametrize("target", ["untargeted", "given"])
@pytest.mark.parametrize("name", ["mi-svre", "i-svre", "mi-adaea", "i-adaea", "mi-cwa", "i-cwa"])
def test_it_climbs(name: str, target: str) -> None:
    clean = picture()
    label = LABEL if target == "given" else THREE(clean).argmax(1)
    settings = AttackSettings(name, EPSILON, STEPS, target=target)
    result = attack(clean, label, THREE, settings, [generator(0, "x")]).images
    before, after = cross_entropy(THREE(clean), label), cross_entropy(THREE(result), label)
    assert (after < before) if target == "given" else (after > before)


@pytest.mark.parametrize("scale", [0.0, 1e-30, float("nan")])
@pytest.mark.parametrize(
    "name", ["mi-svre:1", "i-svre:1", "mi-adaea", "i-adaea", "mi-cwa", "i-cwa", "i-loss", "mi-probs"]
)
def test_no_gradient_gives_no_nan(name: str, scale: float) -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10].clone()

        @staticmethod
        def backward(context: object, *gradients: Tensor) -> Tensor:
            return torch.full_like(x, scale)

    x = picture().float()
    norms = ["linf"] if "cwa" in name else ["linf", "l2"]
    for norm in norms:
        settings = AttackSettings(name, 8 if norm == "linf" else 1.0, 2, norm=norm)
        result = attack(x, LABEL, OneFunction(Scaled.apply), settings, [generator(0, "x")]).images  # type: ignore[arg-type]
        assert result.isfinite().all()
        assert torch.equal(levels(result), levels(x)) == (scale != 1e-30), "only a gradient moves anything"


def test_one_network_is_an_ensemble_too() -> None:
    single = Surrogates([tiny_classifier(0, 16)]).double()
    x = picture()
    settings = AttackSettings("mi-adaea", EPSILON, STEPS)
    plain = attack(x, LABEL, single, AttackSettings("mi", EPSILON, STEPS), [generator(0, "x")]).images
    assert torch.equal(attack(x, LABEL, single, settings, [generator(0, "x")]).images, plain)
    for name in ("mi-svre:1", "mi-cwa"):
        found = attack(x, LABEL, single, AttackSettings(name, EPSILON, STEPS), [generator(0, "x")])
        assert found.images.isfinite().all()


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("ni-svre", "linf", "svre replaces the update itself and goes with i or mi, not with ni"),
        ("ni-cwa", "linf", "cwa replaces the update itself"),
        ("ni-adaea", "linf", "adaea replaces the update itself"),
        ("mi-adaea-margin", "linf", "adaea and margin do not go together"),
        ("mi-cwa", "l2", "cwa is not defined in l2"),
        ("mi-svre:0", "linf", "PASSES must be a whole number from 1"),
        ("mi-adaea:10,-2", "linf", "THRESHOLD must be a number from -1 to 1"),
        ("mi-cwa:0", "linf", "INNER must be a number from"),
        ("mi-svre-cwa", "linf", "an attack has one part of the kind ensemble"),
    ],
)
def test_what_is_not_defined_is_refused_by_name(name: str, norm: str, message: str) -> None:
    with pytest.raises((ValueError, ApibenchError), match=message):
        AttackSettings(name, 8, norm=norm)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VarianceReduced(0),
        lambda: Adaptive(-1.0),
        lambda: Adaptive(10, 2.0),
        lambda: CommonWeakness(0),
        lambda: CommonWeakness(250, float("nan")),
    ],
)
def test_wrong_numbers_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()
