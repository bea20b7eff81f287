"""Seconds an image of MI-FGSM on an ensemble, beside the bare passes of the same networks and other libraries, in one process.

    python benchmarks/attack_speed.py [--images SET] [--surrogate NAME]... [--random ARCH]... [--transferattack DIR]
                                      [--batch N] [--rounds 7] [--steps 10] [--device cuda] [--dtype bfloat16] [--nchw]

Everything attacks the same images with the same networks, as this project loads them (batch norms folded, channels last, the
resizing inside): epsilon 16/255, the cross-entropy of the mean of the logits. Timed in turn, round by round, each round beginning
with another row; on one thread and in process time on a CPU, in synchronised wall time on a GPU. Ratios are taken round by round;
their median is printed with the whole range. Networks: ``--surrogate``, else of ``--random`` architectures, seeded random weights
(three ResNet-18 by default). ``--batch`` above 1: images resized to ``--side``, moved in a circle where the set has too few.

* *bare passes*: forward and backward passes of each network down to its own input, and nothing else; also of the networks as
  timm makes them (nothing folded, NCHW);
* *the loop* is :func:`apibench.attacks.loop.attack`; *the stage* is ``apibench generate``, files, checks and measures included,
  but not what is done once for a set: checking, hashing and loading the networks;
* torchattacks, TransferAttack (a checkout's folder), ART and foolbox, called as their pages say; a library that is not there is
  named and left out. *Trainable*: weights as a network comes; *frozen*: none asks for a gradient. From TransferAttack only the
  loading of networks by name is replaced, which would fetch weights and move them to a GPU.

Printed too: forward passes of a network, an image; and the share of pixel values that, rounded to 8 bits, equal the loop's. In
float32 the last bits of a gradient turn signs, and one turned sign others: in ``--dtype float64`` the same attack gives the same
pixels. Two differ for other reasons: ART computes its steps in float32, foolbox takes a gradient's sign before adding it up.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from apibench import photographs, text
from apibench._torch import torch
from apibench.attacks import stage
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.classifiers import Classifier, load
from apibench.engines import EngineSettings
from apibench.imageset import ImageRecord, ImageSet, SetWriter
from apibench.pixels import LEVELS, to_pixels, to_tensor

Tensor = torch.Tensor
EPSILON = 16
OURS = "apibench, the loop"
TYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Batch:
    """``x``: (N, 3, H, W) in [0, 1], whole levels; ``labels``: (N,), the ensemble's own where the set says none."""

    x: Tensor
    labels: Tensor
    records: Sequence[ImageRecord]


#: What is timed; the images it made, if any.
Step = Callable[[], Tensor | None]
#: Everything that is not to be timed is done in making the step.
Row = Callable[[Batch], Step]


# --- the networks ---


class AsAsked(torch.nn.Module):
    """A network under another type or memory layout; what goes in and comes out stays as it was."""

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype, nchw: bool) -> None:
        super().__init__()
        layout = torch.contiguous_format if nchw else torch.channels_last
        self.network, self.dtype, self.layout = network.to(memory_format=layout), dtype, layout

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is torch.bfloat16):
            logits: Tensor = self.network(x.contiguous(memory_format=self.layout))
        return logits.to(x.dtype)


def random_weights(architectures: Sequence[str], folder: Path) -> list[str]:
    """Checkpoints with random weights, by the names that ``--surrogate`` takes."""
    import timm
    from safetensors.torch import save_file

    names = []
    for seed, architecture in enumerate(architectures):
        torch.manual_seed(seed)
        network = timm.create_model(architecture)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # some start at zero, which switches their block off
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
        path = folder / f"{seed}.safetensors"
        save_file(network.state_dict(), path)
        names.append(f"file:{architecture}={path}")
    return names


def loaded(names: Sequence[str], device: str, dtype: torch.dtype, nchw: bool, fold: bool = True) -> list[Classifier]:
    classifiers = [
        load(name, device, fold=fold).to(torch.float64 if dtype is torch.float64 else None) for name in names
    ]
    if nchw or dtype is torch.bfloat16:
        for classifier in classifiers:
            classifier.network = AsAsked(classifier.network, dtype, nchw)
    return classifiers


# --- the rows ---


def bare(classifiers: Sequence[Classifier], steps: int) -> Row:
    def ready(batch: Batch) -> Step:
        with torch.no_grad():
            inputs = [classifier.prepare(batch.x) for classifier in classifiers]

        def step() -> None:
            for _ in range(steps):
                for classifier, given in zip(classifiers, inputs, strict=True):
                    x = given.detach().requires_grad_()
                    loss = torch.nn.functional.cross_entropy(classifier.network(x), batch.labels, reduction="sum")
                    torch.autograd.grad(loss, x)

        return step

    return ready


def the_loop(ensemble: Surrogates, steps: int) -> Row:
    settings = AttackSettings("mi", EPSILON, steps)

    def ready(batch: Batch) -> Step:
        generators = [generator(0, record.pixels_sha256) for record in batch.records]
        return lambda: attack(batch.x, batch.labels, ensemble, settings, generators).images

    return ready


def the_stage(images: ImageSet, classifiers: list[Classifier], steps: int, device: str) -> Row:
    settings = AttackSettings("mi", EPSILON, steps)
    names = [classifier.name for classifier in classifiers]

    def ready(batch: Batch) -> Step:
        part = ImageSet(images.folder, batch.records)
        once = {"load_all": lambda *_: classifiers, "check_all": lambda _: None, "canonical": str}

        def step() -> Tensor:
            with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(stage, **once):
                out, engine = Path(folder) / "adv", EngineSettings(device=device)
                made = stage.generate(part, out, settings, names, chunk=len(batch.x), engine=engine).images
                torch.backends.cudnn.deterministic = False  # the stage sets it; no other row asks for it
                assert made is not None
                return torch.cat([to_tensor(made.read_pixels(record)) for record in made.records])

        return step

    return ready


def torchattacks(ensemble: Surrogates, steps: int) -> Row:
    from torchattacks import MIFGSM

    epsilon = EPSILON / LEVELS
    made = MIFGSM(ensemble, eps=epsilon, alpha=epsilon / steps, steps=steps, decay=1.0)
    return lambda batch: lambda: made(batch.x, batch.labels)


def transferattack(ensemble: Surrogates, steps: int) -> Row:
    from transferattack.gradient.mifgsm import MIFGSM
    from transferattack.utils import EnsembleModel

    class OnTheseNetworks(MIFGSM):  # type: ignore[misc]
        def load_model(self, model_name: Any) -> Any:
            return EnsembleModel(model_name)

    epsilon = EPSILON / LEVELS
    made = OnTheseNetworks(list(ensemble.classifiers), epsilon=epsilon, alpha=epsilon / steps, epoch=steps, decay=1.0)
    return lambda batch: lambda: batch.x + made(batch.x, batch.labels)


def art(ensemble: Surrogates, steps: int) -> Row:
    from art.attacks.evasion import MomentumIterativeMethod
    from art.estimators.classification import PyTorchClassifier

    epsilon = EPSILON / LEVELS

    def ready(batch: Batch) -> Step:
        estimator = PyTorchClassifier(
            ensemble,
            torch.nn.CrossEntropyLoss(),
            tuple(batch.x.shape[1:]),
            1000,
            clip_values=(0.0, 1.0),
            device_type="cpu" if batch.x.device.type == "cpu" else "gpu",
        )
        made = MomentumIterativeMethod(
            estimator,
            eps=epsilon,
            eps_step=epsilon / steps,
            decay=1.0,
            max_iter=steps,
            batch_size=len(batch.x),
            verbose=False,
        )
        x, labels = batch.x.cpu().numpy(), batch.labels.cpu().numpy()
        return lambda: torch.from_numpy(made.generate(x, labels))

    return ready


def foolbox(ensemble: Surrogates, steps: int) -> Row:
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfMomentumIterativeFastGradientMethod

    epsilon = EPSILON / LEVELS
    made = LinfMomentumIterativeFastGradientMethod(momentum=1.0, abs_stepsize=epsilon / steps, steps=steps)

    def ready(batch: Batch) -> Step:
        model = PyTorchModel(ensemble, bounds=(0, 1), device=batch.x.device)
        return lambda: made(model, batch.x, batch.labels, epsilons=epsilon)[1]

    return ready


PEERS = {"torchattacks": torchattacks, "TransferAttack": transferattack, "ART": art, "foolbox": foolbox}


def peers(ensemble: Surrogates, trainable: Surrogates, steps: int) -> dict[str, Row]:
    rows = {}
    for name, make in PEERS.items():
        try:
            rows[f"{name}, trainable"] = make(trainable, steps)
            rows[f"{name}, frozen"] = make(ensemble, steps)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return rows


# --- the measuring ---


@dataclass
class Measured:
    """One value a round, but ``forwards``: of a network, an image."""

    seconds: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)
    forwards: float = 0.0


def timed(step: Step, device: str) -> tuple[float, Tensor | None]:
    clock = time.process_time if device == "cpu" else time.perf_counter

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return clock()

    started = now()
    made = step()
    return now() - started, made


@contextmanager
def counting(networks: Sequence[torch.nn.Module]) -> Iterator[list[int]]:
    """The images that went forward through any of the networks."""
    count = [0]

    def add(_: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        count[0] += len(given[0])

    hooks = [network.register_forward_pre_hook(add) for network in networks]
    yield count
    for hook in hooks:
        hook.remove()


def measure(
    rows: dict[str, Row], batches: Iterator[Batch], ensembles: Sequence[Sequence[Classifier]], rounds: int, device: str
) -> dict[str, Measured]:
    """After a round that warms up, in which forward passes are counted: every row once a round, on the round's own images."""
    found = {name: Measured() for name in rows}
    watched = [classifier.network for ensemble in ensembles for classifier in ensemble]
    batch = next(batches)
    for name, row in rows.items():
        with counting(watched) as count:
            timed(row(batch), device)
        found[name].forwards = count[0] / len(batch.x) / len(ensembles[0])
    order = list(rows)
    for turn, batch in zip(range(rounds), batches, strict=False):
        start = turn % len(order)
        made: dict[str, Tensor | None] = {}
        for name in order[start:] + order[:start]:
            seconds, made[name] = timed(rows[name](batch), device)
            found[name].seconds.append(seconds / len(batch.x))
        ours = levels(made[OURS])
        for name, images in made.items():
            if images is not None:
                found[name].equal.append(float((levels(images) == ours).double().mean()))
    return found


def levels(images: Tensor | None) -> Tensor:
    assert images is not None
    return images.detach().cpu().mul(LEVELS).round()


def table(found: dict[str, Measured]) -> str:
    lines = []
    for name, row in found.items():
        ratios = [a / b for a, b in zip(row.seconds, found[OURS].seconds, strict=True)]
        seconds = statistics.median(row.seconds)
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        equal = text.percent(statistics.mean(row.equal), 3) if row.equal else ""
        lines.append((name, f"{seconds:.3f}", f"{1 / seconds:.2f}", spread, f"{row.forwards:g}", equal))
    head = ("", "s an image", "images a s", "times as long as the loop", "forwards", "% equal")
    return text.table(head, lines, right=(1, 2, 4, 5))


# --- the images ---


def of_a_size(images: ImageSet, side: int, count: int, folder: Path) -> ImageSet:
    """A set of at least ``count`` images of ``side`` pixels, made from one of any sizes."""
    writer = SetWriter(folder, {"side": side})
    total = max(count, len(images.records))
    for number in range(total):
        turn, which = divmod(number, len(images.records))
        record = images.records[which]
        x = to_tensor(images.read_pixels(record))
        x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True).roll(turn, 3)
        about = {"variant": "clean", "label": record.label, "label_source": record.label_source}
        writer.write(f"{number:05d}", to_pixels(x), **about)
    made = writer.finish(f"{number:05d}" for number in range(total))
    assert made is not None
    return made


def batches(images: ImageSet, ensemble: Surrogates, size: int, device: str, double: bool) -> Iterator[Batch]:
    """Round and round through the set, ``size`` images at a time."""
    for start in itertools.count(0, size):
        places = sorted(
            number % len(images.records) for number in range(start, start + size)
        )  # as the stage keeps them
        chosen = [images.records[place] for place in places]
        x = torch.cat([to_tensor(images.read_pixels(record)) for record in chosen]).to(device)
        x = x.double().mul(LEVELS).round().div(LEVELS) if double else x
        with torch.no_grad():
            predicted = ensemble(x).argmax(1).tolist()
        labels = [own if record.label is None else record.label for own, record in zip(predicted, chosen, strict=True)]
        yield Batch(x, torch.tensor(labels, device=device), chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a clean image set; default: the foolbox package's photographs")
    parser.add_argument("--surrogate", action="append", help="a network, as for apibench generate")
    parser.add_argument("--random", action="append", help="a timm architecture, with random weights")
    parser.add_argument("--transferattack", type=Path, help="the checkout of TransferAttack")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, default=224, help="of the images of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=TYPES, default="float32", help="float64: images too; bfloat16: by autocast")
    parser.add_argument("--nchw", action="store_true", help="the networks in NCHW, not in channels last")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.transferattack:
        sys.path.insert(0, str(arguments.transferattack))
    device, steps = arguments.device, arguments.steps
    with tempfile.TemporaryDirectory() as folder:
        images = (
            ImageSet.load(arguments.images)
            if arguments.images
            else photographs.import_folder("pypi:foolbox", Path(folder) / "clean").images
        )
        if arguments.batch > 1:
            images = of_a_size(images, arguments.side, arguments.batch, Path(folder) / "sized")
        names = arguments.surrogate or random_weights(arguments.random or ["resnet18"] * 3, Path(folder))
        dtype = getattr(torch, arguments.dtype)
        classifiers = loaded(names, device, dtype, arguments.nchw)
        plain = loaded(names, device, dtype, nchw=True, fold=False)
        ensemble = Surrogates(classifiers)
        trainable = copy.deepcopy(ensemble).requires_grad_(True)
        rows = {
            "bare passes": bare(classifiers, steps),
            "bare passes, not folded, NCHW": bare(plain, steps),
            OURS: the_loop(ensemble, steps),
        }
        if dtype is not torch.float64:  # files are read as float32
            rows["apibench, the stage"] = the_stage(images, classifiers, steps, device)
        rows |= peers(ensemble, trainable, steps)
        source = batches(images, ensemble, arguments.batch, device, dtype is torch.float64)
        networks = [classifiers, plain, list(trainable.classifiers)]
        found = measure(rows, source, networks, arguments.rounds, device)
    clock = "process time, one thread" if device == "cpu" else f"wall time, {torch.cuda.get_device_name()}"
    print(
        f"\nMI-FGSM, {steps} steps, batch {arguments.batch}, {', '.join(names)}, {arguments.dtype}\n"
        f"medians of {arguments.rounds} rounds, {clock}; torch {torch.__version__}\n"
    )
    print(table(found))


if __name__ == "__main__":
    main()
