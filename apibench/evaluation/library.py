"""The attacks of the local evaluation, by name: foolbox's, AutoAttack's, Dong's MI-FGSM and the adaptive PGD of this package.

This module says what there is and what a run of it is; nothing here imports torch, so that a recipe can be checked without it.
:mod:`~apibench.evaluation.runners` does the work.

Units. An L-infinity ``epsilon`` is a whole number of levels of 255. An L2 ``epsilon`` is the Euclidean norm of the noise over
all pixels and channels, pixels in [0, 1]. Both hold for the pixels of the file, after rounding to 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from apibench.errors import ApibenchError
from apibench.imageset import Pixels

if TYPE_CHECKING:
    import torch

LEVELS = 255

Norm = Literal["linf", "l2"]
# What the attacker sees of the classifier: its gradients (white box), its scores or its decisions (black box).
Sees = Literal["gradients", "scores", "decisions"]


@dataclass(frozen=True)
class AttackInfo:
    """One row of the table of attacks.

    ``minimum``: looks for the smallest noise, so ``epsilon`` may be left out. ``stops``: any noise in the ball that fools will
    do, so that the first ends it, at a fraction of the cost. ``steps``: the default number of ``unit``.
    ``package``: what has to be installed. ``about``: the parameters that are not in :class:`LibraryAttack`.
    """

    name: str
    norm: Norm
    sees: Sees
    steps: int
    unit: str
    package: str | None
    paper: str
    about: str
    targeted: bool = False
    minimum: bool = False
    stops: bool = False

    @property
    def black_box(self) -> bool:
        return self.sees != "gradients"

    @property
    def asks(self) -> bool:
        """Whether it goes by the attacked system's answers to single files, and not by gradients alone."""
        return self.black_box or self.stops


_PGD = "Madry et al., ICLR 2018, arXiv 1706.06083"
_PGD_ABOUT = "random start, step 2.5 epsilon / steps, the last iterate"
_TARGET = "; the target is a class drawn for the image, any but its own"
_APGD = "Croce & Hein, ICML 2020, arXiv 2003.01690"
_DECISIONS = (
    "every query rounded to 8 bits, started from uniform noise blended in; the closest misclassified query is kept"
)

_TABLE = (
    AttackInfo("pgd-linf", "linf", "gradients", 20, "steps", "foolbox", _PGD, _PGD_ABOUT),
    AttackInfo("pgd-l2", "l2", "gradients", 20, "steps", "foolbox", _PGD, _PGD_ABOUT),
    AttackInfo(
        "pgd-linf-targeted", "linf", "gradients", 20, "steps", "foolbox", _PGD, _PGD_ABOUT + _TARGET, targeted=True
    ),
    AttackInfo("pgd-l2-targeted", "l2", "gradients", 20, "steps", "foolbox", _PGD, _PGD_ABOUT + _TARGET, targeted=True),
    AttackInfo(
        "mi-fgsm",
        "linf",
        "gradients",
        10,
        "steps",
        None,
        "Dong et al., CVPR 2018, arXiv 1710.06081",
        "mu 1, step epsilon / steps, start at zero (foolbox's takes the sign before it accumulates, so it is not used)",
    ),
    AttackInfo(
        "cw",
        "l2",
        "gradients",
        50,
        "steps in each of 5 searches for the constant",
        "foolbox",
        "Carlini & Wagner, S&P 2017, arXiv 1608.04644",
        "Adam, step size 0.001 (0.01 moves a 256-pixel photograph by an L2 of 1.8 at once), confidence 0, first constant 1, a "
        "search that stands still is stopped",
        minimum=True,
    ),
    AttackInfo(
        "ddn",
        "l2",
        "gradients",
        100,
        "steps",
        "foolbox",
        "Rony et al., CVPR 2019, arXiv 1811.09600",
        "first norm 1, gamma 0.05",
        minimum=True,
    ),
    AttackInfo(
        "apgd-ce",
        "linf",
        "gradients",
        100,
        "steps",
        "pyautoattack",
        _APGD,
        "one start, rho 0.75; stopped at the first iterate that fools as a file",
        stops=True,
    ),
    AttackInfo(
        "autoattack",
        "linf",
        "gradients",
        100,
        "steps of APGD and FAB (fixed)",
        "pyautoattack",
        _APGD,
        "the standard version: APGD-CE, targeted APGD-DLR and FAB (9 targets), Square (5,000 queries); free of parameters, so "
        "it takes no steps; stopped at the first iterate that fools as a file",
        stops=True,
    ),
    AttackInfo(
        "square",
        "linf",
        "scores",
        1000,
        "queries",
        "pyautoattack",
        "Andriushchenko et al., ECCV 2020, arXiv 1912.00049",
        "margin loss, p 0.8, its schedule scaled to the number of queries",
        stops=True,
    ),
    AttackInfo(
        "hopskipjump",
        "l2",
        "decisions",
        1000,
        "queries",
        "foolbox",
        "Chen, Jordan, Wainwright, S&P 2020, arXiv 1904.02144",
        _DECISIONS + "; theta 1e-3, so that the noise of its gradient estimate survives the rounding",
        minimum=True,
    ),
    AttackInfo(
        "hopskipjump-linf",
        "linf",
        "decisions",
        1000,
        "queries",
        "foolbox",
        "Chen, Jordan, Wainwright, S&P 2020, arXiv 1904.02144",
        _DECISIONS + "; theta 0.1 / sqrt(number of values)",
        minimum=True,
    ),
    AttackInfo(
        "boundary",
        "l2",
        "decisions",
        1000,
        "queries",
        "foolbox",
        "Brendel, Rauber, Bethge, ICLR 2018, arXiv 1712.04248",
        _DECISIONS + "; spherical and source step 0.01",
        minimum=True,
    ),
    AttackInfo(
        "pgd-adaptive",
        "linf",
        "gradients",
        20,
        "steps",
        None,
        "Athalye, Carlini, Wagner, ICML 2018, arXiv 1802.00420; Tramer et al., NeurIPS 2020, arXiv 2002.08347",
        "random start, step epsilon / 4 in whole levels, every iterate a file; the best iterate, or the first that fools",
    ),
)
_ATTACKS = {info.name: info for info in _TABLE}


def not_installed(package: str) -> ApibenchError:
    """The error of an attack whose library is missing."""
    return ApibenchError(
        f"{package}: not installed, and this attack is made with it; run: pip install 'apibench[evaluation]'"
    )


def names() -> list[str]:
    """The attacks there are."""
    return list(_ATTACKS)


def describe() -> list[AttackInfo]:
    """The table of attacks: name, norm, what the attacker sees, targeted or not, package, paper, default steps."""
    return list(_TABLE)


@dataclass(frozen=True)
class LibraryAttack:
    """An attack and everything that decides its result.

    ``epsilon``: whole levels of 255 (L-infinity) or the Euclidean norm of the noise in [0, 1] pixels (L2). None, only for
    attacks that look for the smallest noise (cw, ddn, hopskipjump, boundary): no bound; with one, their result is drawn back
    into the ball and counts only if it still fools from there. ``steps``: gradient steps, or queries of a black-box attack;
    None is replaced by the attack's own default, so that the settings recorded are whole. ``seed``: of the draws.

    Raises ApibenchError naming the attack and what is wrong.
    """

    name: str
    epsilon: float | None
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in _ATTACKS:
            raise ApibenchError(f"{self.name}: no such attack; there are {', '.join(names())}")
        info = self.info
        if self.steps is None:
            object.__setattr__(self, "steps", info.steps)
        elif isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ApibenchError(f"{self.name}: steps must be a whole number from 1, got {self.steps!r}")
        elif self.name == "autoattack" and self.steps != info.steps:
            raise ApibenchError("autoattack: its standard version has no parameters; leave steps out")
        self._check_epsilon(info)

    def _check_epsilon(self, info: AttackInfo) -> None:
        epsilon = self.epsilon
        if epsilon is None:
            if not info.minimum:
                raise ApibenchError(f"{self.name}: needs an epsilon, {_unit(info.norm)}")
            return
        whole = (
            info.norm == "l2" or (epsilon == round(epsilon) and epsilon <= LEVELS) if math.isfinite(epsilon) else False
        )
        if not whole or epsilon <= 0:
            raise ApibenchError(f"{self.name}: epsilon must be {_unit(info.norm)}, got {epsilon:g}")
        # 8 and 8.0 are one attack: they must be one setting in records, too.
        object.__setattr__(self, "epsilon", float(epsilon))

    @property
    def info(self) -> AttackInfo:
        """Its row in the table of attacks."""
        return _ATTACKS[self.name]

    @property
    def budget(self) -> int:
        """``steps``, which after construction is never None."""
        assert self.steps is not None
        return self.steps

    @property
    def variant(self) -> str:
        """What sets and tables call it: ``pgd-linf/eps8``, ``pgd-l2/l2-3.0``, ``cw``."""
        if self.epsilon is None:
            return self.name
        return f"{self.name}/eps{self.epsilon:.0f}" if self.info.norm == "linf" else f"{self.name}/l2-{self.epsilon!r}"


def _unit(norm: Norm) -> str:
    if norm == "linf":
        return f"a whole number of levels from 1 to {LEVELS}"
    return "a Euclidean norm above 0, of pixels in [0, 1]"


@dataclass(frozen=True)
class Attacked:
    """One attacked image.

    ``pixels``: (H, W, 3) uint8, within the bound. ``queries``: forward passes of one image that the attack asked for (the two
    that find out whether the clean image is right and whether the result fools are not the attack's). ``gradients``: backward
    passes of one image. A mean over ``eot`` draws of a random purifier counts once in both, though it makes ``eot`` passes.
    ``success``: the model is wrong on ``pixels``. ``linf``: largest change, in levels. ``l2``: Euclidean norm of the change,
    pixels in [0, 1]. ``target``: the class a targeted attack was after.
    """

    pixels: Pixels
    queries: int
    gradients: int
    success: bool
    linf: int
    l2: float
    target: int | None = None


def attack_pixels(clean: Pixels, label: int, identity: str, model: torch.nn.Module, attack: LibraryAttack) -> Attacked:
    """Attack one image, alone.

    ``clean``: (H, W, 3) uint8. ``label``: its class. ``identity``: what its draws are seeded with, beside the attack's seed.
    ``model``: (N, 3, H, W) pixels in [0, 1] to logits: a classifier, or one behind a purifier
    (:class:`~apibench.evaluation.aware.Guarded`), whose ``judge`` then decides about success and answers black-box queries. An
    image that the model already gets wrong comes back as it is, a success without a query.

    Raises ApibenchError where the attack's library is not installed or the model's logits are not finite.
    """
    from apibench.evaluation import runners

    return runners.attack_pixels(clean, label, identity, model, attack)
