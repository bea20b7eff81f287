"""CPU seconds an image of ``generate``, beside the bare forward and backward passes of the same networks, in one process.

    python benchmarks/generate_speed.py [--images SET] [--surrogate NAME]... [--rounds 7] [--count 4]

Timed in turn, round by round, on one thread, in process time; medians and the range of the ratios are printed. The bare passes
are ten of each network on a tensor of its own input size: no resizing, no view, no update; once of the networks as they come, and
once with batch norms folded, as ``generate`` uses them. ``generate`` is the whole stage:
reading and checking the clean file, the attack, the bound, writing and syncing PNG and JSON; start-up is taken off by timing
one image and 1 + COUNT.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from apibench import photographs
from apibench._torch import torch
from apibench.attacks import stage
from apibench.attacks.loop import AttackSettings
from apibench.classifiers import Classifier, load
from apibench.imageset import ImageSet


def bare(classifiers: list[Classifier], steps: int) -> float:
    """Process seconds of ``steps`` forward and backward passes of each network."""
    inputs = [torch.rand(1, 3, c.input.size, c.input.size) for c in classifiers]
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    started = time.process_time()
    for _ in range(steps):
        for classifier, given in zip(classifiers, inputs, strict=True):
            x = given.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(classifier.network(x), torch.tensor([0]))
            torch.autograd.grad(loss, x)
    return time.process_time() - started


def generate(images: ImageSet, names: list[str], settings: AttackSettings, first: int, count: int) -> float:
    """Process seconds of the stage on ``count`` images from ``first`` on."""
    part = ImageSet(images.folder, images.records[first : first + count])
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        stage.generate(part, Path(folder) / "adv", settings, names)
        return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a clean image set; default: the foolbox package's photographs")
    parser.add_argument("--surrogate", action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.surrogate or ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]
    settings = AttackSettings("mi-di")
    as_they_come, as_folded = [load(name, fold=False) for name in names], [load(name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            images = ImageSet.load(arguments.images)
        else:
            images = photographs.import_folder("pypi:foolbox", Path(folder) / "clean").images
        bare(as_they_come, 3)  # warm-up
        ours: list[float] = []
        theirs: dict[str, list[float]] = {"as they come": [], "folded": []}
        for turn in range(arguments.rounds):
            first = turn * (arguments.count + 1) % (len(images.records) - arguments.count)
            for kind, classifiers in (("as they come", as_they_come), ("folded", as_folded)):
                theirs[kind].append(statistics.mean(bare(classifiers, settings.steps) for _ in range(arguments.count)))
            start_up = generate(images, names, settings, first, 1)
            ours.append((generate(images, names, settings, first, 1 + arguments.count) - start_up) / arguments.count)
    print(f"generate {statistics.median(ours):.3f} s an image (medians of {arguments.rounds} rounds)")
    for kind, seconds in theirs.items():
        ratios = [a / b for a, b in zip(ours, seconds, strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"bare passes, networks {kind}: {statistics.median(seconds):.3f} s; ratio {spread}")


if __name__ == "__main__":
    main()
