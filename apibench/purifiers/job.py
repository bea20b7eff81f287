"""``apibench train``: from options to a training, in this process or in several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apibench._torch import torch
from apibench.purifiers import training
from apibench.purifiers.crops import TrainingSettings
from apibench.purifiers.presets import PRESETS
from apibench.purifiers.training import Machine
from apibench.purifiers.workers import Worker, run_workers


def settings(preset: str, options: Mapping[str, Any]) -> TrainingSettings:
    """A preset with what was said otherwise. Raises ValueError where it does not make a training."""
    base = PRESETS[preset]
    network = {key: options[key] for key in ("layers", "filters") if key in options}
    smoothing = {key: options[key] for key in ("kernel", "sigma") if key in options}
    others = {key: value for key, value in options.items() if key not in (*network, *smoothing)}
    return replace(
        base, network=replace(base.network, **network), smoothing=replace(base.smoothing, **smoothing), **others
    )


def train(
    images: Path,
    out: Path,
    chosen: TrainingSettings,
    device: str = "cpu",
    precision: str = "auto",
    compiled: bool | None = None,
    processes: int = 1,
    start: Path | None = None,
) -> dict[str, Any]:
    """Train, and return the summary. ``precision`` auto and ``compiled`` None are what the device is fastest with."""
    on_gpu = torch.device(device).type == "cuda"
    if precision == "auto":
        precision = "bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"
    compiled = on_gpu if compiled is None else compiled
    if processes == 1:
        return training.train(images, out, chosen, Machine(device, precision, compiled), start)
    run_workers(processes, chosen.batch, device, _Part(images, out, chosen, precision, compiled, start))
    summary: dict[str, Any] = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return summary


@dataclass(frozen=True)
class _Part:
    """What each process does. A class and no closure, since it is sent to them."""

    images: Path
    out: Path
    settings: TrainingSettings
    precision: str
    compiled: bool
    start: Path | None

    def __call__(self, worker: Worker, device: str) -> None:
        machine = Machine(device, self.precision, self.compiled, worker)
        training.train(self.images, self.out, self.settings, machine, self.start)
