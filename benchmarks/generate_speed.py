"""CPU seconds an image of the attack, beside the bare forward and backward passes of the same networks, in one process.

    python benchmarks/generate_speed.py [--surrogate NAME]... [--rounds 7] [--side 512]

Both are timed in turn, round by round, on one thread, in process time; the ratio's median and range are printed. The bare
passes are ten of each network on a tensor of its own input size: no resizing, no view, no update, no file.
"""

from __future__ import annotations

import argparse
import statistics
import time

from apibench import photographs
from apibench._torch import torch
from apibench.attacks.ensembles import MeanLogits
from apibench.attacks.loop import AttackSettings
from apibench.attacks.stage import attack_pixels
from apibench.classifiers import Classifier, load_all
from apibench.imageset import decode_png, encode_png, pixels_sha256


def bare(classifiers: list[Classifier], inputs: list[torch.Tensor], steps: int) -> None:
    for _ in range(steps):
        for classifier, x in zip(classifiers, inputs, strict=True):
            x = x.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(classifier.network(x), torch.tensor([0]))
            torch.autograd.grad(loss, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surrogate", action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.surrogate or ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]
    classifiers = load_all(names)
    ensemble, settings = MeanLogits(classifiers), AttackSettings()
    pictures = [photographs.decode(item.path, arguments.side) for item in photographs.packaged("pypi:foolbox")]
    inputs = [
        torch.rand(1, 3, c.input.size, c.input.size).contiguous(memory_format=torch.channels_last) for c in classifiers
    ]
    bare(classifiers, inputs, 3)  # warm-up
    ratios, ours, theirs = [], [], []
    for turn in range(arguments.rounds):
        picture = pictures[turn % len(pictures)]
        started = time.process_time()
        bare(classifiers, inputs, settings.steps)
        between = time.process_time()
        adversarial = attack_pixels(picture, 0, pixels_sha256(picture), ensemble, settings)
        decode_png(encode_png(adversarial))  # what writing an image costs beside the disk
        ended = time.process_time()
        theirs.append(between - started)
        ours.append(ended - between)
        ratios.append(ours[-1] / theirs[-1])
    print(f"bare passes {statistics.median(theirs):.3f} s, attack {statistics.median(ours):.3f} s an image (medians)")
    print(
        f"ratio {statistics.median(ratios):.3f} (range {min(ratios):.3f} to {max(ratios):.3f}), {arguments.rounds} rounds"
    )


if __name__ == "__main__":
    main()
