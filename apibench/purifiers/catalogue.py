"""What a purifier is by name, and the table of those that come with apibench. Imports no torch: ``--help`` reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from apibench.parameters import Parameter, Value, read, written

if TYPE_CHECKING:
    from apibench.purifiers.contract import Purifier


@dataclass(frozen=True)
class Kind:
    """One kind of purifier: its name, what may follow the name, and how it is made.

    ``factory`` is called as ``factory(name, iterations, *values)``, a value for each of ``parameters``; or, where there is
    ``weights`` (the file below ``data/`` that is used unless another is named), as ``factory(name, iterations, path)``.
    Written ``"module:attribute"`` it is imported on first use. It raises ValueError where the values do not go together.
    """

    name: str
    does: str
    paper: str
    factory: str | Callable[..., Purifier]
    parameters: tuple[Parameter, ...] = ()
    weights: str = ""
    differentiable: bool = True
    random: bool = False
    bare: bool = False  # called by its bare name, not by its values, where it has its defaults

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise ValueError(f"{self.name!r}: a purifier's name is small letters, digits and hyphens")

    @property
    def argument(self) -> str:
        """What may follow the colon, such as ``KERNEL,SIGMA``; empty where nothing may."""
        if self.weights:
            return "FILE.safetensors"
        return ",".join(parameter.name for parameter in self.parameters)

    @property
    def form(self) -> str:
        """How it is written: ``jpeg[:QUALITY]``."""
        return f"{self.name}[:{self.argument}]" if self.argument else self.name

    @property
    def default(self) -> str:
        """What its bare name means: ``50``, or the file of weights."""
        return self.weights or written([parameter.default for parameter in self.parameters])

    def values(self, argument: str | None) -> list[Value]:
        """The numbers after the colon; what is left out has its default. Raises ValueError."""
        return read(self.parameters, argument)

    def make(self, name: str, iterations: int, *given: object) -> Purifier:
        factory = self.factory
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = cast("Callable[..., Purifier]", getattr(import_module(module), attribute))
        return factory(name, iterations, *given)


_SQUEEZING = "Xu, Evans, Qi: Feature Squeezing, NDSS 2018, arXiv 1704.01155"
_GUO = "Guo, Rana, Cisse, van der Maaten: Countering Adversarial Images using Input Transformations, arXiv 1711.00117"
_NCIS = "Cha, Ko, Yoo, Moon: NCIS, WACV 2024, arXiv 2106.11644"
_HERE = "apibench.purifiers"

KINDS = (
    Kind(
        "gaussian",
        "convolve with a Gaussian",
        _NCIS,
        f"{_HERE}.gaussian:create",
        (Parameter("KERNEL", 5, 1, 1001, odd=True), Parameter("SIGMA", 1.0, 0.05, 500.0)),
        bare=True,
    ),
    Kind(
        "ncis",
        "smooth, then a blind-spot network",
        _NCIS,
        f"{_HERE}.networks:ncis",
        weights="weights/ncis.safetensors",
    ),
    Kind(
        "ncis-noise",
        "ncis, its network trained with noise",
        "NCIS, trained to give back x from GS(x + noise): apibench's own",
        f"{_HERE}.networks:ncis_noise",
        weights="weights/ncis-noise.safetensors",
    ),
    Kind(
        "bsn",
        "the blind-spot network, no smoothing before it",
        "Byun, Cha, Moon: FBI-Denoiser, CVPR 2021",
        f"{_HERE}.networks:bsn",
        weights="weights/bsn.safetensors",
    ),
    Kind(
        "ncis-affine",
        "smooth, then a·z + b with a and b from a blind-spot network",
        "the affine form of FBI-Denoiser (Byun, Cha, Moon, CVPR 2021) in NCIS's place",
        f"{_HERE}.networks:ncis_affine",
        weights="weights/ncis-affine.safetensors",
    ),
    Kind(
        "jpeg",
        "encode as JPEG and decode",
        "Das et al., arXiv 1705.02900; Dziugaite et al., arXiv 1608.00853",
        f"{_HERE}.jpeg:Jpeg",
        (Parameter("QUALITY", 50, 1, 95),),
        differentiable=False,
    ),
    Kind(
        "bits",
        "fewer bits a colour",
        _SQUEEZING,
        f"{_HERE}.classical:Bits",
        (Parameter("DEPTH", 4, 1, 8),),
        differentiable=False,
    ),
    Kind("median", "median filter", _SQUEEZING, f"{_HERE}.classical:Median", (Parameter("SIZE", 3, 1, 15, odd=True),)),
    Kind(
        "bilateral",
        "bilateral filter",
        "Tomasi, Manduchi: Bilateral Filtering, ICCV 1998",
        f"{_HERE}.classical:Bilateral",
        (
            Parameter("SIZE", 5, 1, 31, odd=True),
            Parameter("SIGMA_COLOUR", 0.2, 0.001, 100.0),
            Parameter("SIGMA_SPACE", 1.5, 0.05, 100.0),
        ),
    ),
    Kind(
        "tv",
        "total variation denoising",
        f"{_GUO}; Chambolle 2004",
        f"{_HERE}.classical:TotalVariation",
        (Parameter("WEIGHT", 0.1, 0.0001, 100.0),),
        differentiable=False,
    ),
    Kind(
        "nlm",
        "non-local means",
        f"{_SQUEEZING}; Buades et al. 2005",
        f"{_HERE}.classical:NonLocalMeans",
        (Parameter("STRENGTH", 0.05, 0.0001, 10.0),),
        differentiable=False,
    ),
    Kind(
        "wavelet",
        "wavelet shrinkage (BayesShrink)",
        "Prakash et al.: Pixel Deflection, CVPR 2018, arXiv 1801.08926; Chang, Yu, Vetterli 2000",
        f"{_HERE}.classical:Wavelet",
        (Parameter("STRENGTH", 0.04, 0.0001, 10.0),),
        differentiable=False,
    ),
    Kind(
        "crop-resize",
        "crop the centre, resize it back",
        _GUO,
        f"{_HERE}.resizing:CropResize",
        (Parameter("SHARE", 0.9, 0.05, 1.0),),
    ),
    Kind(
        "resize-pad",
        "shrink at random, pad with black at random",
        "Xie et al.: Mitigating Adversarial Effects Through Randomization, ICLR 2018, arXiv 1711.01991",
        f"{_HERE}.resizing:ResizePad",
        (Parameter("SMALLEST", 0.9, 0.05, 1.0),),
        random=True,
    ),
)
