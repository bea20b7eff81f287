"""Trainings by name: the options that the method has, as settings that were tried. ``apibench train --preset NAME``."""

from __future__ import annotations

from dataclasses import dataclass

from apibench.purifiers.blindspot import AFFINE, BlindSpotSettings
from apibench.purifiers.crops import TrainingSettings
from apibench.purifiers.smoothing import Smoothing


@dataclass(frozen=True)
class Preset:
    """A training, and in a line what it is for."""

    settings: TrainingSettings
    about: str


NONE = Smoothing(1, 1.0)  # a kernel of one pixel: no smoothing

PRESETS = {
    "paper": Preset(TrainingSettings(), "NCIS as in the paper: 8 layers of 64 filters, plain, one smoothing, no noise"),
    "range": Preset(
        TrainingSettings(smoothing=Smoothing(11, 1.5), widths=(0.7, 2.0)),
        "the same network for smoothings of any sigma from 0.7 to 2",
    ),
    "small": Preset(
        TrainingSettings(network=BlindSpotSettings(filters=32)), "a quarter of the computing: 32 filters; for a CPU"
    ),
    "bsn": Preset(
        TrainingSettings(smoothing=NONE, noise=(8.0, 8.0)), "the blind-spot network alone: no smoothing before it"
    ),
    "noise": Preset(
        TrainingSettings(noise=(12.0, 12.0), noise_width=1.5),
        "NCIS's network, trained to give back x from GS(x + noise) instead of GS(x)",
    ),
    "affine": Preset(
        TrainingSettings(network=BlindSpotSettings(form=AFFINE), noise=(12.0, 12.0), noise_width=1.5),
        "ncis-affine: the pixel itself is used too, a*z + b; trained with noise",
    ),
}
