"""Attacks by name: what can be written, what it is called, what is refused and in which words, and what others may add."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench import plugins
from apibench._torch import torch
from apibench.attacks import catalogue
from apibench.attacks.budgets import Budget
from apibench.attacks.catalogue import ENSEMBLE, GRADIENT, KINDS, LINF, LOSS, TABLE, TRANSFORM, Part
from apibench.attacks.composition import parse
from apibench.attacks.gradients import Gradient, Momentum
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.attacks.transforms import InputTransform
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.parameters import Parameter
from apibench.pixels import to_tensor
from tests.conftest import paint, tiny_classifier


class Halved(InputTransform):
    """The image at half its contrast, so many times."""

    def __init__(self, copies: int) -> None:
        self.copies = copies

    def pixels(self, x: torch.Tensor, copy: int, draws: Draws) -> torch.Tensor:
        return x / 2


class Away(Momentum):
    """Momentum, the other way."""

    def direction(self, x: torch.Tensor, gradient: Gradient, budget: Budget, draws: Draws) -> torch.Tensor:
        return -super().direction(x, gradient, budget, draws)


HALVED = Part("halved", TRANSFORM, "half the contrast", "none", Halved, (Parameter("COPIES", 2, 1, 9),), cost="COPIES")
AWAY = Part("away", GRADIENT, "the other way", "none", f"{__name__}:Away", norms=(LINF,), not_with=("halved",))
REPLACES = Part("replaces", ENSEMBLE, "replaces the update", "none", object, only_with=("i", "mi"))


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TABLE, "_own", dict(TABLE._own))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])  # none of this machine's, and no time spent looking


@pytest.fixture
def registered() -> None:
    for part in (HALVED, AWAY, REPLACES):
        catalogue.register(part)


# Name: its canonical name, and the parts it is put together from, all four kinds of them.
NAMES = {
    "mi-di": ("mi-di", "mi di logits ce"),
    "di-mi": ("mi-di", "mi di logits ce"),
    "di": ("mi-di", "mi di logits ce"),
    "mi": ("mi", "mi logits ce"),
    "ce": ("mi", "mi logits ce"),
    "ce-logits-mi": ("mi", "mi logits ce"),
    "i": ("i", "i logits ce"),
    "loss-ni": ("ni-loss", "ni loss ce"),
    "margin-di-probs-pi": ("pi-di-probs-margin", "pi di probs margin"),
    "mi-logit": ("mi-logit", "mi logits logit"),
    "mi:1": ("mi", "mi logits ce"),
    "mi:1.000-di:0.90": ("mi-di", "mi di logits ce"),
    "mi:0": ("mi:0", "mi:0 logits ce"),
    "di:0.70": ("mi-di:0.7", "mi di:0.7 logits ce"),
    "di:5e-1,.5": ("mi-di:0.5,0.5", "mi di:0.5,0.5 logits ce"),
    "di:1e-1-vmi:5": ("vmi:5-di:0.1", "vmi:5 di:0.1 logits ce"),
    "vmi:20,2,1": ("vmi:20,2", "vmi:20,2 logits ce"),
    "vmi:20,1.5,0": ("vmi:20,1.5,0", "vmi:20,1.5,0 logits ce"),
    "di:.9,1": ("mi-di:0.9,1", "mi di:0.9,1 logits ce"),
    "adaea:10,-0": ("mi-adaea:10,0", "mi adaea:10,0 ce"),
    "adaea:-0,-0.0": ("mi-adaea:0,0", "mi adaea:0,0 ce"),
    "mi:-0": ("mi:0", "mi:0 logits ce"),
    "mi-ti-di": ("mi-di-ti", "mi di ti logits ce"),
    "ti-ssa-di-bsr-mi": ("mi-ssa-bsr-di-ti", "mi ssa bsr di ti logits ce"),
    "bsr-ssa": ("mi-bsr-ssa", "mi bsr ssa logits ce"),
    "vmi:20,1.5,1.0": ("vmi", "vmi logits ce"),
    "pi:10,5": ("pi:10,5", "pi:10,5 logits ce"),
    "halved-di-mi": ("mi-halved-di", "mi halved di logits ce"),
    "di-halved:3-mi": ("mi-halved:3-di", "mi halved:3 di logits ce"),
    "replaces-i": ("i-replaces", "i replaces ce"),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_written(name: str, registered: None) -> None:
    canonical, parts = NAMES[name]
    composition = parse(name)
    assert composition.name == canonical
    assert " ".join(chosen.text for chosen in composition) == parts
    assert parse(canonical).name == canonical
    assert AttackSettings(name, target="random").name == canonical


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "(nothing): no such part of an attack; there are"),
        ("fgsm", "fgsm: no such part of an attack; there are"),
        ("mi-logts", "did you mean logits?"),
        ("MI", "MI: no such part"),
        ("mi di", "mi di: no such part"),
        ("mi-", "(nothing): no such part"),
        ("-mi", "(nothing): no such part"),
        ("mi--di", "mi-: no such part"),
        ("mi-di-mi", "mi-di-mi: mi is named twice"),
        ("di-di:0.5", "di is named twice"),
        ("logits-logits", "logits is named twice"),
        ("mi-ni", "mi-ni: mi and ni: an attack has one part of the kind gradient"),
        ("vmi-di-pi-i", "vmi and pi and i: an attack has one part of the kind gradient"),
        ("probs-loss", "probs and loss: an attack has one part of the kind ensemble"),
        ("ce-margin", "ce and margin: an attack has one part of the kind loss"),
        ("mi:", "mi:: nothing stands after the colon of mi"),
        ("i:1", "'1' is more than it takes"),
        ("mi:1,2-di", "'1,2' is more than it takes"),
        ("mi:10.5", "mi:10.5: MU must be a number from 0 to 10, got '10.5'"),
        ("mi:-1", "MU must be a number from 0 to 10, got '-1'"),
        ("mi:nan", "MU must be a number"),
        ("mi:inf", "MU must be a number"),
        ("mi:x", "MU must be a number from 0 to 10, got 'x'"),
        ("mi:1:2", "got '1:2'"),
        ("di:0.5,", "SMALLEST must be a number from 0.05 to 1, got ''"),
        ("di:2", "PROBABILITY must be a number from 0 to 1, got '2'"),
        ("vmi:5.0", "SAMPLES must be a whole number from 1 to 1000, got '5.0'"),
        ("pi:10,4", "KERNEL must be an odd number from 3 to 101, got '4'"),
        ("halved:0", "COPIES must be a whole number from 1 to 9, got '0'"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(name: str, reason: str, registered: None) -> None:
    with pytest.raises(ApibenchError) as caught:
        AttackSettings(name)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "norm", "target", "reason"),
    [
        ("mi-logit", "linf", "untargeted", "logit is a loss of targeted attacks; give an aim"),
        ("mi-probs-logit", "linf", "random", "logit and probs do not go together"),
        ("pi-di", "l2", "untargeted", "pi is not defined in l2, only in linf"),
        ("away", "l2", "random", "away is not defined in l2, only in linf"),
        ("away-halved", "linf", "untargeted", "away and halved do not go together"),
        (
            "replaces-vni",
            "linf",
            "untargeted",
            "replaces replaces the update itself and goes with i or mi, not with vni",
        ),
        ("mi", "l1", "untargeted", "l1: no such norm; there are linf, l2"),
        ("mi", "linf", "most-likely", "most-likely: no such target; there are "),
    ],
)
def test_parts_that_do_not_go_together_are_named(
    name: str, norm: str, target: str, reason: str, registered: None
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        AttackSettings(name, epsilon=4, norm=norm, target=target)
    assert str(caught.value).startswith(reason)


def numbers(parameter: Parameter) -> st.SearchStrategy[float]:
    """Of those it may be, some."""
    if isinstance(parameter.default, int):
        return st.integers(int(parameter.lower), int(parameter.upper))
    return st.integers(0, 8).map(lambda k: parameter.lower + (parameter.upper - parameter.lower) * k / 8)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_name_in_any_order_is_one_attack(data: st.DataObject) -> None:
    """Transforms of pixels keep their order; nothing else has one. The canonical name, written again, is itself."""
    parts = {kind: [part for part in catalogue.PARTS if part.kind == kind] for kind in KINDS}
    chosen = [data.draw(st.sampled_from(parts[kind])) for kind in (GRADIENT, ENSEMBLE, LOSS)]
    transforms = data.draw(st.lists(st.sampled_from(parts[TRANSFORM]), unique=True, max_size=3))
    written = {part.name: part.name for part in (*chosen, *transforms)}
    for part in (*chosen, *transforms):
        if part.parameters and not part.parameters[0].odd and data.draw(st.booleans()):
            written[part.name] = f"{part.name}:{data.draw(numbers(part.parameters[0]))!r}"
    names = data.draw(st.permutations([written[part.name] for part in (*chosen, *transforms)]))
    composition = parse("-".join(names))
    assert {part.part.name for part in composition} == set(written)
    order = [name.partition(":")[0] for name in names]
    named = [name for name in order if TABLE.find(name).kind == TRANSFORM]
    last = [name for name in ("di", "ti") if name in named]
    assert [part.part.name for part in composition.transforms] == [n for n in named if n not in last] + last
    again = parse(composition.name)
    assert again.name == composition.name
    assert again.gradients_per_step == composition.gradients_per_step


@pytest.mark.parametrize(
    ("name", "gradients"),
    [("i", 1), ("mi-di", 1), ("vmi", 21), ("vni:4-di", 5), ("pgn:3", 6), ("halved:3-vmi:4", 15), ("emi-halved", 22)],
)
def test_gradients_of_a_step_multiply(name: str, gradients: int, registered: None) -> None:
    assert parse(name).gradients_per_step == gradients


def test_a_recipe_says_every_number() -> None:
    parts = AttackSettings("di-vmi:5").recipe()["parts"]
    assert parts == [
        {"name": "vmi", "SAMPLES": 5, "BETA": 1.5, "MU": 1.0},
        {"name": "di", "PROBABILITY": 0.9, "SMALLEST": 299 / 330},
        {"name": "logits"},
        {"name": "ce"},
    ]


def test_what_describes_them_is_true() -> None:
    """Each is made from its defaults, and its numbers are within their own bounds."""
    described = catalogue.describe()
    assert [part.kind for part in described] == sorted((part.kind for part in described), key=KINDS.index)
    assert {"i", "mi", "ni", "pi", "vmi", "vni", "pgn", "emi"} <= {part.name for part in described}
    for part in described:
        assert part.does
        assert part.paper
        numbers = ",".join(repr(value) for value in part.defaults)
        assert part.values(numbers or None) == part.defaults
        assert part.gradients(part.defaults) >= 1
        assert part.make(part.defaults) is not None
        for other in (*part.only_with, *part.not_with):
            TABLE.find(other)


def test_anyone_can_register_one_but_not_in_anothers_name(registered: None) -> None:
    catalogue.register(HALVED)
    assert "halved" in TABLE.names()
    for part in (HALVED, AWAY):
        with pytest.raises(ApibenchError, match=f"{part.name}: there is a part of an attack of this name already"):
            catalogue.register(Part(part.name, LOSS, "other", "none", Halved))
    with pytest.raises(ApibenchError, match="mi: there is a part of an attack of this name already"):
        catalogue.register(Part("mi", GRADIENT, "other", "none", Away))
    for name in ("a-b", "A", "2x", "", "a:b"):
        with pytest.raises(ValueError, match="a part's name is small letters and digits"):
            Part(name, LOSS, "x", "y", Halved)
    with pytest.raises(ValueError, match="colour is no kind of part; there are gradient, transform, ensemble, loss"):
        Part("a", "colour", "x", "y", Halved)
    with pytest.raises(ValueError, match="a: a transform acts on pixels, view, gradient, not on sound"):
        Part("a", TRANSFORM, "x", "y", Halved, acts="sound")


def test_what_was_registered_is_attacked_with(registered: None) -> None:
    """By a class and by where one is found; a transform of three copies costs three gradients."""
    x, label = to_tensor(paint(2, 10, 10)), torch.tensor([3])
    networks = Surrogates([tiny_classifier(0, 12)])

    def made(name: str) -> tuple[torch.Tensor, int]:
        return attack(x, label, networks, AttackSettings(name, steps=1), [generator(0, "x")])

    there, back = made("mi")[0] - x, made("away")[0] - x
    assert torch.allclose(there, -back, atol=1e-5)
    assert there.abs().mean() > 0.05
    halved, gradients = made("halved:3-i")
    assert gradients == 3
    half = attack(x / 2, label, networks, AttackSettings("i", steps=1), [generator(0, "x")]).images - x / 2
    assert torch.equal((halved - x).sign(), half.sign())


def test_a_package_can_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(*lines: str) -> None:
        made = [importlib.metadata.EntryPoint(*line.split("="), TABLE.group) for line in lines]
        monkeypatch.setattr(plugins, "entry_points", lambda group: made if group == "apibench.attacks" else [])

    points(f"halved={__name__}:HALVED", f"wrong={__name__}:HALVED", "gone=no_such_module:x")
    assert {"halved", "wrong", "gone", "mi"} <= {*TABLE.names()}
    assert parse("halved:3-mi-di").name == "mi-halved:3-di"
    assert parse("mi-di").name == "mi-di", "what is broken harms only who names it"
    with pytest.raises(ApibenchError, match=r"wrong: .*HALVED is not the Part of that name"):
        parse("mi-wrong")
    with pytest.raises(ApibenchError, match=r"gone: cannot be loaded \(ModuleNotFoundError"):
        parse("gone")
    with pytest.raises(ApibenchError, match="gone: cannot be loaded"):
        catalogue.describe()
    with pytest.raises(ApibenchError, match="halved: there is a part of an attack of this name already"):
        catalogue.register(HALVED)
    points(f"mi={__name__}:HALVED")
    with pytest.raises(ApibenchError, match="mi: more than one part of an attack has this name"):
        parse("mi-di")


def test_what_is_installed_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def points(group: str) -> list[importlib.metadata.EntryPoint]:
        looked.append(group)
        return [importlib.metadata.EntryPoint("halved", f"{__name__}:HALVED", group)]

    monkeypatch.setattr(plugins, "entry_points", points)
    for _ in range(3):
        assert parse("vmi-halved-di-ti-probs-margin").name == "vmi-halved-di-ti-probs-margin"
        assert "halved" in TABLE.names()
    assert looked == [TABLE.group]


def test_transforms_that_commute_give_the_same_images_in_either_order() -> None:
    """With draws of both: SSA's noise and DI's view."""
    x, label = to_tensor(paint(2, 10, 10)), torch.tensor([3])
    networks = Surrogates([tiny_classifier(0, 12)])
    one, other, third = (
        attack(x, label, networks, AttackSettings(name, steps=2), [generator(0, "x")]).images
        for name in ("ssa:2-di-ti:3-mi", "ti:3-di-ssa:2-mi", "ssa:2-mi")
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize("name", [part.name for part in catalogue.PARTS if part.acts != "pixels"])
def test_what_says_that_it_spares_the_pixels_does(name: str) -> None:
    """And so draws nothing for a copy but, where it chooses views, those: what it is put after or before is the same."""
    (chosen,) = parse(name).transforms
    made = chosen.make()
    x, draws = torch.rand(1, 3, 6, 6), Draws([generator(0, "x")])
    state = draws.generators[0].get_state()
    assert made.copies == 1
    assert made.pixels(x, 0, draws) is x
    assert torch.equal(draws.generators[0].get_state(), state)
    if chosen.part.acts == "view":
        assert made.gradient(x) is x
    else:
        assert made.views(draws) is None
        assert torch.equal(draws.generators[0].get_state(), state)


def failing(*_: object) -> object:
    raise RuntimeError("no such thing\nfor a reason")


@pytest.mark.parametrize(
    ("kind", "factory", "reason"),
    [
        (TRANSFORM, failing, r"bad: cannot be made \(RuntimeError: no such thing"),
        (LOSS, lambda: failing, None),
        (LOSS, lambda: 3, "bad: its factory made 3, which is not a function"),
        (GRADIENT, lambda number: Momentum(number), r"bad: cannot be made \(TypeError: "),
        (GRADIENT, object, "bad: its factory made <object .* which is not apibench.attacks.gradients.GradientRule"),
        (ENSEMBLE, Momentum, "Momentum .* which is not apibench.attacks.ensembles.EnsembleRule"),
        (TRANSFORM, "no_such_module:x", r"bad: cannot be made \(ModuleNotFoundError: "),
        (TRANSFORM, f"{__name__}:Gone", r"bad: cannot be made \(AttributeError: "),
        (TRANSFORM, "nothing", r"bad: cannot be made \(ModuleNotFoundError: "),
    ],
)
def test_a_factory_that_fails_is_one_line_that_names_the_part(kind: str, factory: object, reason: str | None) -> None:
    catalogue.register(Part("bad", kind, "x", "y", factory))  # type: ignore[arg-type]
    if reason is None:
        assert AttackSettings("bad").composition.loss.make() is failing
        return
    x, networks = to_tensor(paint(2, 10, 10)), Surrogates([tiny_classifier(0, 12)])
    with pytest.raises(ApibenchError, match=reason) as caught:
        attack(x, torch.tensor([3]), networks, AttackSettings("bad", steps=1), [generator(0, "x")])
    assert len(str(caught.value).splitlines()) <= 2


def test_the_example_of_a_part_in_contributing_runs() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, Part] = {}
    exec(code, {"__name__": "my_package"}, made)
    (part,) = [thing for thing in made.values() if isinstance(thing, Part)]
    assert f'{part.name} = "my_package:' in text
    catalogue.register(Part(**{**vars(part), "factory": made[str(part.factory).rpartition(":")[2]]}))
    x, networks = to_tensor(paint(2, 10, 10)), Surrogates([tiny_classifier(0, 12)])
    settings = AttackSettings(f"{part.name}-mi", steps=2)
    found, _ = attack(x, torch.tensor([3]), networks, settings, [generator(0, "x")])
    assert not torch.equal(found, x)


def test_names_and_the_table_need_no_torch() -> None:
    code = (
        "import sys; from apibench.attacks import catalogue, composition\n"
        "catalogue.describe(); composition.parse('vmi:5-di-margin').check('linf', False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_wrong_with_a_part_is_said_once() -> None:
    with pytest.raises(ApibenchError) as caught:
        parse("vmi:0")
    assert (
        str(caught.value)
        == "vmi:0: SAMPLES must be a whole number from 1 to 1000, got '0'; write vmi[:SAMPLES,BETA,MU]"
    )
