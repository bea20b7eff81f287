"""Trainings by name: the options that the method has. ``apibench train --preset NAME``; its ``--help`` says what each is for.

``paper``, ``noise``, ``affine`` and ``bsn`` are the settings of the weights that come with apibench (their cards are beside
them); ``noise`` and ``bsn`` were started from other weights (``--start``).
"""

from __future__ import annotations

from dataclasses import replace

from apibench.purifiers.blindspot import AFFINE, BlindSpotSettings
from apibench.purifiers.crops import TrainingSettings
from apibench.purifiers.smoothing import Smoothing

_NOISE = TrainingSettings(
    noise=(12.0, 12.0),
    noise_width=1.0,
    batch=2,
    crop=144,
    max_side=384,
    learning_rate=1e-3,
    steps=700,
    validate_every=50,
)

PRESETS = {
    "paper": TrainingSettings(),
    "range": TrainingSettings(smoothing=Smoothing(11, 1.5), widths=(0.7, 2.0)),
    "small": TrainingSettings(network=BlindSpotSettings(filters=32)),
    "noise": _NOISE,
    "affine": replace(
        _NOISE,
        network=BlindSpotSettings(filters=32, form=AFFINE),
        smoothing=Smoothing(5, 0.7),
        learning_rate=3e-3,
        steps=1600,
        validate_every=100,
    ),
    # A kernel of one pixel: no smoothing.
    "bsn": replace(_NOISE, smoothing=Smoothing(1, 1.0), steps=150),
}
