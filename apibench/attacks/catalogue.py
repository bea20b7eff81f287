"""The parts an attack is put together from, by name. Imports no torch: ``--help`` reads it.

An attack is written as its parts joined by hyphens, in any order: ``mi-di``, ``vni-ti-di``, ``ssa-mi-svre``. It has one gradient
rule (``mi``, if none is named), any number of input transforms, one ensemble rule (``logits``) and one loss (``ce``). A part may
have numbers: ``vmi:5-di:0.7``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from apibench.errors import ApibenchError
from apibench.parameters import Parameter, Value, read
from apibench.plugins import Table

GRADIENT, TRANSFORM, ENSEMBLE, LOSS = KINDS = ("gradient", "transform", "ensemble", "loss")
LINF, L2 = NORMS = ("linf", "l2")
UNTARGETED, LEAST_LIKELY, RANDOM, GIVEN = AIMS = ("untargeted", "least-likely", "random", "given")
#: On what a transform acts, in the order in which transforms are put: the copy, how it is shown, or what comes back.
ON_PIXELS, ON_VIEW, ON_GRADIENT = ACTS = ("pixels", "view", "gradient")
#: The largest radius in L2. Black and white differ by 14,189 at 8192 x 8192 pixels, the most that is read.
LARGEST_RADIUS = 10_000

# What the factory of a part of a kind makes; a loss is any function.
_MAKES = {
    GRADIENT: "apibench.attacks.gradients:GradientRule",
    TRANSFORM: "apibench.attacks.transforms:InputTransform",
    ENSEMBLE: "apibench.attacks.ensembles:EnsembleRule",
}


@dataclass(frozen=True)
class Part:
    """One part: its name, its kind, the paper it is from, and how it is made.

    ``factory`` is called with a value for each of ``parameters`` and makes a
    :class:`~apibench.attacks.gradients.GradientRule`, an :class:`~apibench.attacks.transforms.InputTransform`, an
    :class:`~apibench.attacks.ensembles.EnsembleRule` or a :data:`~apibench.attacks.losses.Loss`; written
    ``"module:attribute"`` it is imported on first use. ``cost`` is by how much it multiplies the gradients of a step: a
    number, or the name of the parameter that says it, or a function of the parameters' values. ``norms``: those it is defined
    for. ``only_with``: the gradient rules (of an ensemble rule that replaces the update itself) it is defined with.
    ``targeted``: defined for targeted attacks only. ``acts``: ``view`` or ``gradient``, of a transform that only chooses views or
    only changes the gradient that comes back: it is put after those of ``pixels``, wherever it is named.
    """

    name: str
    kind: str
    does: str
    paper: str
    factory: str | Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    cost: int | str | Callable[[Sequence[Value]], int] = 1
    norms: tuple[str, ...] = NORMS
    only_with: tuple[str, ...] = ()
    not_with: tuple[str, ...] = ()
    targeted: bool = False
    acts: str = ON_PIXELS

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*", self.name):
            raise ValueError(f"{self.name!r}: a part's name is small letters and digits")
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: {self.kind} is no kind of part; there are {', '.join(KINDS)}")
        if self.acts not in ACTS:
            raise ValueError(f"{self.name}: a transform acts on {', '.join(ACTS)}, not on {self.acts}")

    @property
    def form(self) -> str:
        """How it is written: ``di[:PROBABILITY,SMALLEST]``."""
        argument = ",".join(parameter.name for parameter in self.parameters)
        return f"{self.name}[:{argument}]" if argument else self.name

    @property
    def defaults(self) -> tuple[Value, ...]:
        return tuple(parameter.default for parameter in self.parameters)

    def values(self, argument: str | None) -> tuple[Value, ...]:
        """The numbers after the colon; what is left out has its default. Raises ValueError."""
        return tuple(value + 0 for value in read(self.parameters, argument))  # -0.0 + 0 is 0.0: one number, one name

    def gradients(self, values: Sequence[Value]) -> int:
        """By how much it multiplies the network-gradients of a step."""
        if isinstance(self.cost, int):
            return self.cost
        if callable(self.cost):
            return self.cost(values)
        names = [parameter.name for parameter in self.parameters]
        return int(values[names.index(self.cost)])

    def make(self, values: Sequence[Value]) -> Any:
        """Raises ApibenchError where the factory fails, or makes another thing than its kind is."""
        try:
            made = _attribute(self.factory)(*values) if isinstance(self.factory, str) else self.factory(*values)
        except ApibenchError:
            raise
        except Exception as error:  # a plug-in's factory is somebody's code: it may fail in any way
            raise ApibenchError(f"{self.name}: cannot be made ({type(error).__name__}: {error!s:.120})") from error
        wanted = _MAKES.get(self.kind)
        if not (callable(made) if wanted is None else isinstance(made, _attribute(wanted))):
            what = "a function" if wanted is None else wanted.replace(":", ".")
            raise ApibenchError(f"{self.name}: its factory made {made!r:.60}, which is not {what}")
        return made


def _attribute(where: str) -> Any:
    """What ``"module:attribute"`` is."""
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


_MI = "Dong et al.: Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv 1710.06081"
_NI = "Lin et al.: Nesterov Accelerated Gradient and Scale Invariance, ICLR 2020, arXiv 1908.06281"
_VT = "Wang, He: Enhancing the Transferability of Adversarial Attacks through Variance Tuning, CVPR 2021, arXiv 2103.15571"
_HERE = "apibench.attacks"
_MU = Parameter("MU", 1.0, 0.0, 10.0)
_SAMPLES = Parameter("SAMPLES", 20, 1, 1000)
_REPLACES = ("i", "mi")  # with these, an ensemble rule that replaces the update is what its paper says

PARTS = (
    Part(
        "i",
        GRADIENT,
        "the gradient of this step alone (I-FGSM)",
        "Kurakin, Goodfellow, Bengio: Adversarial Examples in the Physical World, ICLR 2017 workshop, arXiv 1607.02533",
        f"{_HERE}.gradients:Plain",
    ),
    Part("mi", GRADIENT, "momentum over the steps", _MI, f"{_HERE}.gradients:Momentum", (_MU,)),
    Part(
        "ni",
        GRADIENT,
        "momentum, the gradient taken where it leads (Nesterov)",
        _NI,
        f"{_HERE}.gradients:Nesterov",
        (_MU,),
    ),
    Part(
        "pi",
        GRADIENT,
        "longer steps, what the bound cuts off handed to the pixels around (patch-wise)",
        "Gao et al.: Patch-wise Attack for Fooling Deep Neural Network, ECCV 2020, arXiv 2007.06765",
        f"{_HERE}.patchwise:PatchWise",
        (Parameter("AMPLIFICATION", 10.0, 1.0, 1000.0), Parameter("KERNEL", 3, 3, 101, odd=True)),
        norms=(LINF,),
    ),
    Part(
        "vmi",
        GRADIENT,
        "momentum, each gradient corrected by those around the last point (variance tuning)",
        _VT,
        f"{_HERE}.neighbours:VarianceTuned",
        (_SAMPLES, Parameter("BETA", 1.5, 0.0, 100.0), _MU),
        cost=lambda values: int(values[0]) + 1,
    ),
    Part(
        "vni",
        GRADIENT,
        "variance tuning, the gradient taken where the momentum leads",
        _VT,
        f"{_HERE}.neighbours:VarianceTunedNesterov",
        (_SAMPLES, Parameter("BETA", 1.5, 0.0, 100.0), _MU),
        cost=lambda values: int(values[0]) + 1,
    ),
    Part(
        "pgn",
        GRADIENT,
        "momentum towards flat maxima: gradients of points around, and downhill from them",
        "Ge et al.: Boosting Adversarial Transferability by Achieving Flat Local Maxima, NeurIPS 2023, arXiv 2306.05225",
        f"{_HERE}.neighbours:PenalizedGradientNorm",
        (_SAMPLES, Parameter("ZETA", 3.0, 0.0, 100.0), Parameter("DELTA", 0.5, 0.0, 1.0), _MU),
        cost=lambda values: 2 * int(values[0]),
    ),
    Part(
        "emi",
        GRADIENT,
        "momentum, gradients taken along the last step's (enhanced momentum)",
        "Wang et al.: Boosting Adversarial Transferability through Enhanced Momentum, BMVC 2021, arXiv 2103.10609",
        f"{_HERE}.neighbours:EnhancedMomentum",
        (Parameter("SAMPLES", 11, 2, 1000), Parameter("ETA", 7.0, 0.0, 1000.0), _MU),
        cost="SAMPLES",
    ),
    Part(
        "di",
        TRANSFORM,
        "shrink at random, pad with black at random",
        "Xie et al.: Improving Transferability of Adversarial Examples with Input Diversity, CVPR 2019, arXiv 1803.06978",
        f"{_HERE}.transforms:InputDiversity",
        (Parameter("PROBABILITY", 0.9, 0.0, 1.0), Parameter("SMALLEST", 299 / 330, 0.05, 1.0)),
        acts=ON_VIEW,
    ),
    Part(
        "ti",
        TRANSFORM,
        "the gradient smoothed by a Gaussian",
        "Dong et al.: Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks, CVPR 2019, "
        "arXiv 1904.02884",
        f"{_HERE}.translation:TranslationInvariance",
        (Parameter("SIZE", 15, 1, 99, odd=True), Parameter("REACH", 3.0, 0.1, 10.0)),
        acts=ON_GRADIENT,
    ),
    Part(
        "si",
        TRANSFORM,
        "copies, each half as bright as the one before",
        _NI,
        f"{_HERE}.scaling:ScaleInvariance",
        (Parameter("COPIES", 5, 1, 16),),
        cost="COPIES",
    ),
    Part(
        "admix",
        TRANSFORM,
        "copies with other images of the set mixed in, at several scales",
        "Wang et al.: Admix: Enhancing the Transferability of Adversarial Attacks, ICCV 2021, arXiv 2102.00436",
        f"{_HERE}.scaling:Admix",
        (Parameter("COPIES", 3, 1, 1000), Parameter("SCALES", 5, 1, 16), Parameter("ETA", 0.2, 0.0, 1.0)),
        cost=lambda values: int(values[0] * values[1]),
    ),
    Part(
        "ssa",
        TRANSFORM,
        "copies with noise, their frequencies weighed at random",
        "Long et al.: Frequency Domain Model Augmentation for Adversarial Attack, ECCV 2022, arXiv 2207.05382",
        f"{_HERE}.spectrum:SpectrumSimulation",
        (Parameter("COPIES", 20, 1, 1000), Parameter("SIGMA", 16.0, 0.0, 255.0), Parameter("RHO", 0.5, 0.0, 1.0)),
        cost="COPIES",
    ),
    Part(
        "bsr",
        TRANSFORM,
        "copies cut into blocks that are shuffled and rotated",
        "Wang et al.: Boosting Adversarial Transferability by Block Shuffle and Rotation, CVPR 2024, arXiv 2308.10299",
        f"{_HERE}.blocks:BlockShuffleRotation",
        (Parameter("COPIES", 20, 1, 1000), Parameter("BLOCKS", 2, 1, 16), Parameter("DEGREES", 24.0, 0.0, 180.0)),
        cost="COPIES",
    ),
    Part("logits", ENSEMBLE, "the loss of the mean of the logits", _MI, f"{_HERE}.ensembles:MeanLogits"),
    Part(
        "probs",
        ENSEMBLE,
        "the loss of the mean of the probabilities",
        _MI,
        f"{_HERE}.ensembles:MeanProbabilities",
    ),
    Part("loss", ENSEMBLE, "the mean of the losses", _MI, f"{_HERE}.ensembles:MeanLoss"),
    Part(
        "svre",
        ENSEMBLE,
        "inner steps along one network's gradient at a time, the variance between networks taken out (SVRE)",
        "Xiong et al.: Stochastic Variance Reduced Ensemble Adversarial Attack, CVPR 2022, arXiv 2111.10752",
        f"{_HERE}.svre:VarianceReduced",
        (Parameter("PASSES", 4, 1, 64),),
        cost=lambda values: int(values[0]) + 2,
        only_with=_REPLACES,
    ),
    Part(
        "adaea",
        ENSEMBLE,
        "networks whose noise transfers weigh more, pixels on which they disagree stay (AdaEA)",
        "Chen et al.: An Adaptive Model Ensemble Adversarial Attack, ICCV 2023, arXiv 2308.02897",
        f"{_HERE}.adaptive:Adaptive",
        (Parameter("BETA", 10.0, 0.0, 1000.0), Parameter("THRESHOLD", -0.3, -1.0, 1.0)),
        cost=2,
        only_with=_REPLACES,
        not_with=("logit", "margin"),  # it takes ratios of losses, which these may make negative
    ),
    Part(
        "cwa",
        ENSEMBLE,
        "back against the gradient, then along the networks' one after the other (common weakness)",
        "Chen et al.: Rethinking Model Ensemble in Transfer-based Adversarial Attacks, ICLR 2024, arXiv 2303.09105",
        f"{_HERE}.weakness:CommonWeakness",
        (Parameter("INNER", 250.0, 0.001, 1e6), Parameter("BACK", 15.0, 1.0, 1e6)),
        cost=2,
        norms=(LINF,),  # the inner step has its size from a bound a value
        only_with=_REPLACES,
    ),
    Part(
        "ce",
        LOSS,
        "cross-entropy",
        "Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv 1412.6572",
        f"{_HERE}.losses:CrossEntropy",
    ),
    Part(
        "logit",
        LOSS,
        "the target's logit itself",
        "Zhao, Liu, Larson: On Success and Simplicity, NeurIPS 2021, arXiv 2012.11207",
        f"{_HERE}.losses:Logit",
        not_with=("probs",),
        targeted=True,
    ),
    Part(
        "margin",
        LOSS,
        "the class's logit beside the highest of the others",
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE Security and Privacy 2017, arXiv 1608.04644",
        f"{_HERE}.losses:Margin",
    ),
)

TABLE: Table[Part] = Table("part of an attack", "apibench.attacks", Part, PARTS)


def register(part: Part) -> None:
    """Add a part to this process. Raises ApibenchError where there is another one of its name.

    A package adds one for every process by an entry point in the group ``apibench.attacks``: its name, and where its
    :class:`Part` is found.
    """
    TABLE.register(part)


def describe() -> list[Part]:
    """Every part, by kind. Raises ApibenchError for a plug-in that is broken."""
    return sorted((TABLE.find(name) for name in TABLE.names()), key=lambda part: (KINDS.index(part.kind), part.name))
