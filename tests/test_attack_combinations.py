"""Every part with every other: refused by name, or exact in the ball, finite, its own whatever the batch, and counted right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apibench._torch import torch
from apibench.attacks.catalogue import (
    AIMS,
    ENSEMBLE,
    GRADIENT,
    KINDS,
    LINF,
    LOSS,
    NORMS,
    TRANSFORM,
    UNTARGETED,
    Part,
    describe,
)
from apibench.attacks.composition import parse
from apibench.attacks.loop import Attacked, AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.parameters import written
from apibench.pixels import to_pixels, to_tensor
from tests.conftest import paint, tiny_classifier

Tensor = torch.Tensor

NETWORKS = Surrogates([tiny_classifier(0, 12), tiny_classifier(1, 9)]).double()
IMAGES = torch.cat([to_tensor(paint(seed, 10, 12)).double() for seed in range(3)]).mul(255).round().div(255)
IMAGES[0, :, :4], IMAGES[1, :, :, :5] = 0.0, 1.0  # black and white, where half of the ball is cut off
LABELS = torch.tensor([1, 2, 3])
STEPS = 2

PARTS = {part.name: part for part in describe()}
# Names are drawn, not parts: hypothesis writes out whatever it draws, and a part is long.
NAMES = {kind: [name for name, part in PARTS.items() if part.kind == kind] for kind in KINDS}
FEW = {"COPIES": 2, "SAMPLES": 2, "SCALES": 2, "PASSES": 1}  # of whatever multiplies the gradients, little


def spelt(part: Part) -> str:
    """A part as it is written, with few copies."""
    values = tuple(FEW.get(parameter.name, parameter.default) for parameter in part.parameters)
    return part.name if values == part.defaults else f"{part.name}:{written(values)}"


def others(draws: Draws, size: tuple[int, int]) -> Tensor:
    """Another image for each, by its own draw."""
    shades = torch.tensor([numbers[0] for numbers in draws.numbers(1)], dtype=torch.float64)
    return shades.view(-1, 1, 1, 1).expand(-1, 3, *size).clone()


def run(chosen: AttackSettings, rows: list[int]) -> Attacked:
    generators = [generator(chosen.seed, str(row)) for row in rows]
    return attack(IMAGES[rows], LABELS[rows], NETWORKS, chosen, generators, others)


def levels(x: Tensor) -> Tensor:
    found = x.mul(255).round()
    assert (x.mul(255) - found).abs().max() < 1e-9, "whole levels"
    return found


def expected_gradients(chosen: AttackSettings) -> int:
    a_step = chosen.composition.gradients_per_step * len(NETWORKS)
    rule = chosen.composition.gradient
    # Variance tuning looks around the last step's point: in the first step there is none, one gradient is all.
    first = a_step // rule.gradients if rule.part.name in ("vmi", "vni") else a_step
    return first + (STEPS - 1) * a_step


def check(chosen: AttackSettings) -> None:
    rows = [2, 0, 1]
    together = run(chosen, rows)
    assert together.images.isfinite().all()
    assert float(together.images.min()) >= 0
    assert float(together.images.max()) <= 1
    noise = levels(together.images) - levels(IMAGES[rows])
    if chosen.norm == LINF:
        assert noise.abs().max() <= chosen.epsilon
    else:
        assert noise.square().sum((1, 2, 3)).max() <= (chosen.epsilon * 255) ** 2
    decoded = to_pixels(together.images[:1].float()).astype(float)
    assert (torch.from_numpy(decoded).permute(2, 0, 1) == levels(together.images)[0]).all(), "as the file has it"
    assert together.gradients == expected_gradients(chosen)
    assert noise.flatten(1).any(1).all(), "every image is attacked"
    for place, row in enumerate(rows):
        alone = run(chosen, [row])
        assert torch.equal(levels(alone.images)[0], levels(together.images)[place]), "the same alone and in a batch"
        assert alone.gradients == together.gradients


def refused(name: str, chosen: dict[str, object], parts: list[Part]) -> bool:
    """Whether a combination is not defined; if so, the message names a part that says so."""
    norm, targeted = chosen["norm"], chosen["target"] != UNTARGETED
    names = {part.name for part in parts}
    gradient = next((part.name for part in parts if part.kind == GRADIENT), "mi")
    why = [
        part.name
        for part in parts
        if norm not in part.norms
        or (part.targeted and not targeted)
        or names.intersection(part.not_with)
        or (part.only_with and gradient not in part.only_with)
    ]
    if not why:
        return False
    with pytest.raises((ValueError, ApibenchError)) as caught:
        AttackSettings(name, **chosen)  # type: ignore[arg-type]
    message = str(caught.value)
    assert any(part in message for part in why), message
    assert "\n" not in message
    return True


def try_out(names: Sequence[str], norm: str, target: str, seed: int) -> None:
    parts = [PARTS[name] for name in names]
    name = "-".join(spelt(part) for part in parts)
    chosen: dict[str, object] = {
        "epsilon": 8 if norm == LINF else 0.7,
        "steps": STEPS,
        "seed": seed,
        "norm": norm,
        "target": target,
    }
    if not refused(name, chosen, parts):
        check(AttackSettings(name, **chosen))  # type: ignore[arg-type]


def pairs() -> list[tuple[str, str]]:
    found = itertools.combinations(PARTS.values(), 2)
    return [(a.name, b.name) for a, b in found if a.kind != b.kind or a.kind == TRANSFORM]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(pairs()), st.sampled_from(NORMS), st.sampled_from(AIMS), st.integers(0, 9))
def test_two_parts_go_together_or_are_refused(pair: tuple[str, str], norm: str, target: str, seed: int) -> None:
    try_out(pair, norm, target, seed)


@st.composite
def whole_attacks(draw: st.DrawFn) -> list[str]:
    """A gradient rule, some transforms, an ensemble rule and a loss, in any order."""
    names = [draw(st.sampled_from(NAMES[kind])) for kind in (GRADIENT, ENSEMBLE, LOSS)]
    names += draw(st.lists(st.sampled_from(NAMES[TRANSFORM]), max_size=2, unique=True))
    return draw(st.permutations(names))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(whole_attacks(), st.sampled_from(NORMS), st.sampled_from(AIMS), st.integers(0, 9))
def test_whole_attacks_go_together_or_are_refused(names: list[str], norm: str, target: str, seed: int) -> None:
    try_out(names, norm, target, seed)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", PARTS)
def test_each_part_alone(name: str, norm: str) -> None:
    try_out([name], norm, "given" if PARTS[name].targeted else UNTARGETED, 0)


@settings(max_examples=50, deadline=None)
@given(whole_attacks())
def test_a_name_is_read_back_whatever_the_order(names: list[str]) -> None:
    read = parse("-".join(spelt(PARTS[name]) for name in names))
    assert parse(read.name) == read
    assert {chosen.part.name for chosen in read} == set(names)


def test_another_image_and_another_seed_are_other_draws() -> None:
    """What makes the tests above able to fail: the draws are not constant."""
    first = AttackSettings("mi-di-svre", 8, STEPS)
    second = AttackSettings("mi-di-svre", 8, STEPS, seed=1)
    assert not torch.equal(run(first, [0]).images, run(second, [0]).images)
