"""One attack on one image: the libraries' calls, and what becomes of their results."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from apibench._torch import torch
from apibench.attacks.loop import AttackSettings, generator
from apibench.attacks.loop import attack as mi_fgsm
from apibench.attacks.surrogates import OneFunction
from apibench.evaluation.asking import Asked, Finished, Task
from apibench.evaluation.aware import Guarded, adaptive
from apibench.evaluation.library import LEVELS, Attacked, LibraryAttack, not_installed
from apibench.imageset import Pixels
from apibench.pixels import to_tensor

Tensor = torch.Tensor

# Noise that fools by a hair is undone by rounding to 8 bits, and the smallest noise of all (DDN on a photograph: a sixth of a
# level a value) is rounded away: it is then made longer, step by step and inside the bound, until it fools as a file.
_LONGER = (1.02, 1.05, 1.1, *(1.25**k for k in range(1, 21)))


def attack_pixels(clean: Pixels, label: int, identity: str, model: torch.nn.Module, attack: LibraryAttack) -> Attacked:
    """See :func:`apibench.evaluation.library.attack_pixels`."""
    x = to_tensor(clean).to(_device(model))
    task = Task(clean, x, label, attack)
    draws = generator(attack.seed, identity)
    target = None
    with _frozen(model), _seeded(draws.initial_seed(), x.device):
        if isinstance(model, Guarded):
            model.seed(attack.seed, identity)
        asked = Asked(model, task)
        logits = asked.judge(x)
        if int(logits.argmax(1)) != label:
            return Attacked(clean.copy(), 0, 0, True, 0, 0.0)
        if attack.info.targeted:
            target = _draw_target(logits.shape[1], label, draws)
        try:
            found: Tensor | None = _RUNNERS[attack.name](asked, task, draws, target)
        except Finished:
            found = None
        # A library that finds nothing returns the clean image, or a black one; what came nearest says more.
        if attack.info.black_box or attack.info.stops:
            found = asked.best
        pixels, success = (clean.copy(), False) if found is None else _settled(found.detach(), asked, task)
    noise = pixels.astype(np.int16) - clean
    return Attacked(
        pixels,
        asked.queries,
        asked.gradients,
        success,
        linf=int(np.abs(noise).max()),
        l2=float(np.linalg.norm(noise / LEVELS)),
        target=target,
    )


def _settled(found: Tensor, asked: Asked, task: Task) -> tuple[Pixels, bool]:
    """The file of what was found, and whether it fools; slightly longer noise where rounding alone undoes it."""
    if not found.isfinite().all():
        return task.clean.copy(), False
    pixels = task.fit(found)
    if asked.fools(pixels):
        return pixels, True
    # What a black-box attack asked about was a file already, and its queries are spent. Of a system that draws every length
    # would be another draw, and the draws are not the attacker's to try.
    if asked.budget is None and not asked.random and int(asked.counted_judge(found).argmax(1)) != task.label:
        for length in _LONGER:
            longer = task.fit(task.x + length * (found - task.x))
            asked.queries += 1
            if asked.fools(longer):
                return longer, True
    return pixels, False


def _device(model: torch.nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextmanager
def _frozen(model: torch.nn.Module) -> Iterator[None]:
    """Gradients are for the input alone: those of weights would cost half as much again (foolbox calls ``backward``)."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Both libraries draw from torch's global generator: it is seeded for this image and put back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # foolbox warns where it finds no start; the result says so.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        yield


def _draw_target(classes: int, label: int, draws: torch.Generator) -> int:
    """Any class but the image's own, each as likely."""
    drawn = int(torch.randint(classes - 1, (1,), generator=draws))
    return drawn + (drawn >= label)


# --- the attacks: (the model to ask, the image, its generator, the target class) -> (1, 3, H, W) in [0, 1] -----------------

Runner = Callable[[Asked, Task, torch.Generator, int | None], Tensor]


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(package) from error


def _foolbox_run(attack: Any, asked: Asked, task: Task, target: int | None = None, **about: Any) -> Tensor:
    foolbox = _import("foolbox", "foolbox")
    model = foolbox.PyTorchModel(asked, bounds=(0, 1), device=task.x.device)
    criterion = (
        foolbox.criteria.Misclassification(task.labels)
        if target is None
        else foolbox.criteria.TargetedMisclassification(torch.full_like(task.labels, target))
    )
    return cast(Tensor, attack.run(model, task.x, criterion, **about))


def _pgd(kind: str) -> Runner:
    def run(asked: Asked, task: Task, _: torch.Generator, target: int | None) -> Tensor:
        steps = task.attack.budget
        attack = getattr(_import("foolbox", "foolbox").attacks, kind)(rel_stepsize=2.5 / steps, steps=steps)
        return _foolbox_run(attack, asked, task, target, epsilon=task.bound)

    return run


def _mi_fgsm(asked: Asked, task: Task, draws: torch.Generator, _: int | None) -> Tensor:
    settings = AttackSettings("mi", cast(float, task.attack.epsilon), task.attack.budget, seed=task.attack.seed)
    return mi_fgsm(task.x, task.labels, OneFunction(asked), settings, [draws]).images


def _cw(asked: Asked, task: Task, _: torch.Generator, __: int | None) -> Tensor:
    attacks = _import("foolbox", "foolbox").attacks
    attack = attacks.L2CarliniWagnerAttack(
        binary_search_steps=5, steps=task.attack.budget, stepsize=0.001, confidence=0, initial_const=1.0
    )
    found = _foolbox_run(attack, asked, task)
    # Where it finds nothing, foolbox returns a black image, which may well be "misclassified".
    return found if found.any() else task.x


def _ddn(asked: Asked, task: Task, _: torch.Generator, __: int | None) -> Tensor:
    attacks = _import("foolbox", "foolbox").attacks
    return _foolbox_run(attacks.DDNAttack(init_epsilon=1.0, steps=task.attack.budget, gamma=0.05), asked, task)


def _decisions(make: Callable[[Any, Task], Any]) -> Runner:
    """foolbox's decision-based attacks: they run until the queries are spent; what counts is the closest query kept."""

    def run(asked: Asked, task: Task, _: torch.Generator, __: int | None) -> Tensor:
        attack = make(_import("foolbox", "foolbox").attacks, task)
        try:
            return _foolbox_run(attack, asked, task)
        except (ValueError, AssertionError):
            # foolbox gives up so where no noise is misclassified, or where a decision changes in the last bit of a blend.
            raise Finished from None

    return run


def _hopskipjump(constraint: str) -> Callable[[Any, Task], Any]:
    def make(attacks: Any, task: Task) -> Any:
        # theta is the relative precision of the boundary search, and sets the noise of the gradient estimate: about
        # distance * theta a value in L2. The paper's 1 / d**1.5 is for unrounded pixels; at 150,000 values it is less than a
        # float32 resolves, let alone 8 bits. foolbox takes it as gamma = theta * d**1.5 (L2) or theta * d**2 (L-infinity).
        d = task.x.numel()
        gamma = 1e-3 * d**1.5 if constraint == "l2" else 0.1 * d**1.5
        return attacks.HopSkipJumpAttack(steps=task.attack.budget, gamma=gamma, constraint=constraint)

    return make


def _boundary(attacks: Any, task: Task) -> Any:
    return attacks.BoundaryAttack(steps=task.attack.budget)


def _apgd_ce(asked: Asked, task: Task, draws: torch.Generator, _: int | None) -> Tensor:
    apgd = _import("pyautoattack.autopgd_base", "pyautoattack").APGDAttack(
        asked,
        n_iter=task.attack.budget,
        eps=task.bound,
        norm="Linf",
        seed=draws.initial_seed(),
        loss="ce",
        device=task.x.device,
    )
    return cast(Tensor, apgd.perturb(task.x, task.labels))


def _autoattack(asked: Asked, task: Task, draws: torch.Generator, _: int | None) -> Tensor:
    auto = _import("pyautoattack", "pyautoattack").AutoAttack(
        asked, eps=task.bound, norm="Linf", seed=draws.initial_seed(), version="standard", device=task.x.device
    )
    # Its check for dynamic defences takes the interpreter's trace function, and with it a debugger's or coverage's, away.
    trace, logger = sys.gettrace(), logging.getLogger("auto-attack")
    disabled, logger.disabled, auto.verbose = logger.disabled, True, False
    try:
        return cast(Tensor, auto.run_standard_evaluation(task.x, task.labels, batch_size=1)[0])
    finally:
        sys.settrace(trace)
        logger.disabled = disabled


def _square(asked: Asked, task: Task, draws: torch.Generator, _: int | None) -> Tensor:
    square = _import("pyautoattack.square", "pyautoattack").SquareAttack(
        asked,
        n_queries=task.attack.budget,
        eps=task.bound,
        norm="Linf",
        seed=draws.initial_seed(),
        device=task.x.device,
    )
    return cast(Tensor, square.perturb(task.x, task.labels))


def _adaptive(asked: Asked, task: Task, draws: torch.Generator, _: int | None) -> Tensor:
    return adaptive(
        task.x,
        task.label,
        asked,
        epsilon=int(cast(float, task.attack.epsilon)),
        steps=task.attack.budget,
        draws=draws,
        # The draws of a random purifier are not the attacker's to try: no iterate is asked about before the end.
        judge=None if asked.random else asked.counted_judge,
    )


_RUNNERS: dict[str, Runner] = {
    "pgd-linf": _pgd("LinfPGD"),
    "pgd-linf-targeted": _pgd("LinfPGD"),
    "pgd-l2": _pgd("L2PGD"),
    "pgd-l2-targeted": _pgd("L2PGD"),
    "mi-fgsm": _mi_fgsm,
    "cw": _cw,
    "ddn": _ddn,
    "apgd-ce": _apgd_ce,
    "autoattack": _autoattack,
    "square": _square,
    "hopskipjump": _decisions(_hopskipjump("l2")),
    "hopskipjump-linf": _decisions(_hopskipjump("linf")),
    "boundary": _decisions(_boundary),
    "pgd-adaptive": _adaptive,
}
