"""Self-supervised training of the blind-spot network: give back x from GS(x), by mean squared error.

Only photographs are used: no label, no classifier, no adversarial image (NCIS, arXiv 2106.11644). The kernel of GS, the crop,
the schedule and the number of steps are apibench's own choice, since the paper's were not at hand.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from apibench import photographs
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.imageset import Pixels, write_atomically
from apibench.progress import Progress
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings
from apibench.purifiers.ncis import FORMAT, HEADER
from apibench.purifiers.smoothing import Smoothing

Tensor = torch.Tensor


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained. ``crop`` is the side, in pixels, of what it predicts of a photograph at a time."""

    network: BlindSpotSettings = field(default_factory=BlindSpotSettings)
    smoothing: Smoothing = field(default_factory=Smoothing)
    steps: int = 2000
    batch: int = 4
    crop: int = 96
    learning_rate: float = 2e-3
    warmup: int = 50
    average: float = 0.995  # decay of the running mean of the weights: the mean is what is validated and kept
    validate_every: int = 100
    max_side: int = 512
    seed: int = 0

    @property
    def margin(self) -> int:
        return self.network.margin + self.smoothing.radius

    def rate(self, step: int) -> float:
        """Learning rate at a step: a linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Photographs:
    """Training and validation photographs, decoded: (H, W, 3) uint8 each. The split is by the hash of the file."""

    train: list[Pixels]
    validation: list[Pixels]
    sha256: str
    skipped: list[str]

    @classmethod
    def load(cls, folder: Path, settings: TrainingSettings) -> Photographs:
        """About a tenth is held out. Files that cannot be decoded, or are smaller than a crop, are skipped and named."""
        found, _ = photographs.find(folder)
        train: list[Pixels] = []
        validation: list[Pixels] = []
        skipped: list[str] = []
        digest = hashlib.sha256()
        side = settings.crop + 2 * settings.margin
        for item in Progress(found, "decode", unit="image"):
            try:
                pixels = photographs.decode(item.path, settings.max_side)
            except ApibenchError as error:
                skipped.append(str(error))
                continue
            if min(pixels.shape[:2]) < side:
                skipped.append(f"{item.path}: smaller than a crop of {side} pixels")
                continue
            sha = hashlib.sha256(item.path.read_bytes()).digest()
            digest.update(sha)
            (validation if sha[0] < 26 else train).append(pixels)
        if not validation and len(train) > 1:
            validation.append(train.pop())
        if not train or not validation:
            raise ApibenchError(f"{folder}: training needs at least 2 photographs of {side} pixels or more a side")
        return cls(train, validation, digest.hexdigest(), skipped)


class Trainer:
    """The state of a training: the network, its running mean, the optimiser and the losses so far.

    Every step draws its crops from a generator seeded by (seed, step), so a resumed training sees what it would have seen.
    """

    def __init__(self, settings: TrainingSettings, data: Photographs) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.data = data
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.network = BlindSpotNet(settings.network)
        self.mean = copy.deepcopy(self.network).requires_grad_(False)
        self.best = copy.deepcopy(self.mean.state_dict())
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))

    def crops(self, step: int) -> tuple[Tensor, Tensor]:
        """One batch: GS(x) with the margin that the network needs, and x; both (batch, 3, ., .) in [0, 1]."""
        draw = random.Random(f"{self.settings.seed}/{step}")  # noqa: S311
        pictures = [draw.choice(self.data.train) for _ in range(self.settings.batch)]
        return self.pair([_crop(p, self.settings.crop + 2 * self.settings.margin, draw) for p in pictures])

    def pair(self, pictures: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
        m = self.settings.margin
        return self.settings.smoothing.valid(x), x[..., m:-m, m:-m]

    def train_step(self) -> float:
        started = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.step)
        smooth, clean = self.crops(self.step)
        loss = torch.nn.functional.mse_loss(self.network(smooth), clean)
        if not math.isfinite(loss.item()):
            raise ApibenchError(f"training diverged at step {self.step}; use a smaller --learning-rate")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            for kept, now in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(now, 1 - min(self.settings.average, (self.step + 1) / (self.step + 10)))
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean squared error of the running mean on the middle of each held-out photograph, and that of GS alone."""
        side = self.settings.crop + 2 * self.settings.margin
        ours, smoothing = 0.0, 0.0
        for picture in self.data.validation:
            top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
            smooth, clean = self.pair([picture[top : top + side, left : left + side]])
            m = self.settings.network.margin
            ours += torch.nn.functional.mse_loss(self.mean(smooth), clean).item()
            smoothing += torch.nn.functional.mse_loss(smooth[..., m:-m, m:-m], clean).item()
        count = len(self.data.validation)
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
            state = torch.load(path, weights_only=True)
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
        return {"settings": asdict(self.settings), "photographs_sha256": self.data.sha256}

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
        return save({name: tensor.contiguous() for name, tensor in self.best.items()}, metadata=metadata)


def _crop(picture: Pixels, side: int, draw: random.Random) -> Pixels:
    """A random crop, turned and mirrored at random: (side, side, 3)."""
    top = draw.randint(0, picture.shape[0] - side)
    left = draw.randint(0, picture.shape[1] - side)
    crop = picture[top : top + side, left : left + side]
    crop = np.rot90(crop, draw.randrange(4))
    return np.ascontiguousarray(crop[:, ::-1] if draw.random() < 0.5 else crop)


def train(folder: Path, out: Path, settings: TrainingSettings) -> dict[str, Any]:
    """Train on a folder of photographs and write the best weights to ``out``; the losses go to a JSON beside it.

    A checkpoint beside ``out`` is written at every validation; started again, the training goes on from it.
    Returns the summary that the JSON holds.
    """
    if out.suffix != ".safetensors":
        raise ApibenchError(f"{out}: the weights are written as safetensors; name a file that ends in .safetensors")
    data = Photographs.load(folder, settings)
    trainer = Trainer(settings, data)
    checkpoint = out.with_suffix(".checkpoint")
    if checkpoint.is_file():
        trainer.resume(checkpoint)
    elif not trainer.history:
        trainer.record(None)
    progress = Progress(range(trainer.step, settings.steps), "train", unit="step")
    losses: list[float] = []
    for step in progress:
        losses.append(trainer.train_step())
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            entry = trainer.record(float(np.mean(losses)))
            losses.clear()
            progress.note(f"validation {entry['validation']:.5f} (smoothing alone {entry['smoothing']:.5f})")
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
        "best": best,
        "history": trainer.history,
    }
    write_atomically(out, trainer.weights())
    write_atomically(out.with_suffix(".json"), json.dumps(summary, indent=1).encode() + b"\n")
    return summary
