"""Self-supervised training of the blind-spot network: give back x from GS(x), by mean squared error.

Only photographs are used: no label, no classifier, no adversarial image (NCIS, arXiv 2106.11644). The kernel of GS, the crop,
the schedule and the number of steps are apibench's own choice, since the paper's were not at hand.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.imageset import write_atomically
from apibench.progress import Progress
from apibench.purifiers.blindspot import BlindSpotNet, crop
from apibench.purifiers.crops import Batch, Crops, Photographs, TrainingSettings
from apibench.purifiers.ncis import FORMAT, HEADER, load_weights
from apibench.purifiers.workers import Worker

Tensor = torch.Tensor

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Machine:
    """Where and how a training is computed. Device, worker and compilation change the last bits of what is trained.

    ``precision`` ``bfloat16`` is mixed precision: convolutions in bfloat16, weights, loss and optimiser in float32; for GPUs
    (a CPU without instructions for it is many times slower). ``compiled`` lets torch.compile fuse the network's many
    elementwise operations. ``worker`` is this process's part of the work.
    """

    device: str = "cpu"
    precision: str = "float32"
    compiled: bool = False
    worker: Worker = Worker()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"{self.precision}: no such precision; there are {', '.join(PRECISIONS)}")


class Trainer:
    """The state of a training: the network, its running mean, the optimiser and the losses so far.

    Several workers hold the same state: each computes the gradient of its share of every batch, and the mean of all shares is
    what every one of them steps by.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        data: Photographs,
        machine: Machine | None = None,
        start: Path | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.data = data
        self.machine = machine or Machine()
        self.crops = Crops(settings, data)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.start = "" if start is None else hashlib.sha256(start.read_bytes()).hexdigest()[:12]
        self.network = (BlindSpotNet(settings.network) if start is None else _begin(start, settings)).to(
            self.machine.device
        )
        self.mean = copy.deepcopy(self.network).requires_grad_(False)
        self.best = copy.deepcopy(self.mean.state_dict())
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self._forward: Callable[[Tensor], Tensor] = self.network
        if self.machine.compiled:
            self._forward = torch.compile(self.network)

    def train_step(self) -> float:
        """One step; the loss of this worker's share of the batch."""
        started = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.step)
        batch = Batch(*(self.machine.worker.share(x).to(self.machine.device) for x in self.crops.of_step(self.step)))
        kind = torch.device(self.machine.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.machine.precision == "bfloat16"):
            restored = self._forward(batch.seen)
        loss = batch.error(restored.float())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.machine.worker.average_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not math.isfinite(norm.item()):  # the same for all workers, so that all stop
            raise ApibenchError(f"training diverged at step {self.step}; use a smaller --learning-rate")
        self.optimiser.step()
        with torch.no_grad():
            for kept, now in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(now, 1 - min(self.settings.average, (self.step + 1) / (self.step + 10)))
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Error (weighted as in training) of the running mean on the middle of each held-out photograph, and that of GS alone."""
        ours, smoothing = 0.0, 0.0
        count = len(self.data.validation)
        for index in range(count):
            batch = Batch(*(x.to(self.machine.device) for x in self.crops.of_validation(index)))
            ours += batch.error(self.mean(batch.seen)).item()
            smoothing += batch.error(crop(batch.seen, self.settings.network.margin)).item()
        return ours / count, smoothing / count

    def record(self, training_loss: float | None) -> dict[str, Any]:
        """Validate, remember the weights if they are the best so far, and note the losses."""
        validation, smoothing = self.validate()
        if not self.history or validation < min(entry["validation"] for entry in self.history):
            self.best = copy.deepcopy(self.mean.state_dict())
        entry = {"step": self.step, "training": training_loss, "validation": validation, "smoothing": smoothing}
        self.history.append(entry)
        return entry

    def checkpoint(self) -> bytes:
        buffer = BytesIO()
        state = {
            "about": self.about(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def resume(self, path: Path) -> None:
        """Take up a checkpoint. Raises ApibenchError where it belongs to another training."""
        try:
            state = torch.load(path, weights_only=True, map_location=self.machine.device)
            about, expected = state["about"], self.about()
        except Exception as error:
            raise ApibenchError(f"{path}: not a checkpoint of a training ({error!s:.100})") from error
        if about != expected:
            raise ApibenchError(
                f"{path}: a checkpoint of another training (other settings or photographs).\n"
                "Give the settings it was made with, or remove it to start afresh."
            )
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.network.load_state_dict(state["network"])
        self.mean.load_state_dict(state["mean"])
        self.best = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])

    def about(self) -> dict[str, Any]:
        """What decides the result: the settings and the photographs."""
        about = {"settings": asdict(self.settings), "photographs_sha256": self.data.sha256}
        if self.start:
            about["start_sha256"] = self.start
        if self.machine.precision != "float32":
            about["precision"] = self.machine.precision
        return about

    def weights(self) -> bytes:
        """The best weights as safetensors, with all that is needed to run them in the header."""
        best = min(self.history, key=lambda entry: entry["validation"])
        header = {
            "format": FORMAT,
            "network": asdict(self.settings.network),
            "smoothing": asdict(self.settings.smoothing),
            "training": {
                **self.about(),
                "train": len(self.data.train),
                "validation": len(self.data.validation),
                "best": best,
                "steps_done": self.step,
            },
        }
        # One entry: safetensors writes several in no fixed order, and the same training should give the same bytes.
        metadata = {HEADER: json.dumps(header, sort_keys=True)}
        return save({name: tensor.cpu().contiguous() for name, tensor in self.best.items()}, metadata=metadata)


def _begin(start: Path, settings: TrainingSettings) -> BlindSpotNet:
    """The network of a weights file, to go on training. Raises ApibenchError where it is another one than asked for."""
    network = load_weights(start).network
    if network.settings != settings.network:
        raise ApibenchError(f"{start}: its network is {network.settings}, not {settings.network}")
    return network.train().requires_grad_(True)


def train(
    folder: Path, out: Path, settings: TrainingSettings, machine: Machine | None = None, start: Path | None = None
) -> dict[str, Any]:
    """Train on a folder of photographs and write the best weights to ``out``; the losses go to a JSON beside it.

    ``start``: weights to begin with, of the same network (their smoothing may be another). A checkpoint beside ``out`` is
    written at every validation; started again, the training goes on from it. Only the first
    of several workers writes and reports. Returns the summary that the JSON holds.
    """
    if out.suffix != ".safetensors":
        raise ApibenchError(f"{out}: the weights are written as safetensors; name a file that ends in .safetensors")
    data = Photographs.load(folder, settings)
    trainer = Trainer(settings, data, machine, start)
    first = trainer.machine.worker.first
    checkpoint = out.with_suffix(".checkpoint")
    if checkpoint.is_file():
        trainer.resume(checkpoint)
    elif not trainer.history:
        trainer.record(None)
    trainer.machine.worker.wait()  # until all have read the checkpoint, the first must not write another
    progress = Progress(range(trainer.step, settings.steps), "train", unit="step")
    losses: list[float] = []
    for step in progress:
        losses.append(trainer.train_step())
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            entry = trainer.record(float(np.mean(losses)))
            losses.clear()
            progress.note(f"validation {entry['validation']:.5f} (smoothing alone {entry['smoothing']:.5f})")
            if first:
                write_atomically(checkpoint, trainer.checkpoint())
                write_atomically(out, trainer.weights())
    best = min(trainer.history, key=lambda entry: entry["validation"])
    summary = {
        **trainer.about(),
        "train": len(data.train),
        "validation": len(data.validation),
        "skipped": data.skipped,
        "seconds": round(trainer.seconds, 1),
        "threads": torch.get_num_threads(),
        "workers": trainer.machine.worker.count,
        "device": trainer.machine.device,
        "precision": trainer.machine.precision,
        "best": best,
        "history": trainer.history,
    }
    if first:
        write_atomically(out, trainer.weights())
        write_atomically(out.with_suffix(".json"), json.dumps(summary, indent=1).encode() + b"\n")
    return summary
