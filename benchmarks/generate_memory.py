"""Peak memory of ``generate`` over sets of different sizes: images stream through, so more of them should need no more.

    python benchmarks/generate_memory.py [--counts 200 2000] [--side 64] [--attack mi-di] [--steps 1]

Each set is of random pictures and is attacked in a process of its own, with a SqueezeNet of random weights; the peak is the
process's resident set size, networks and libraries included. ``--attack admix`` draws other images of the set besides.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apibench.imageset import ImageSet, SetWriter


def paint(folder: Path, count: int, side: int) -> None:
    """A clean set of ``count`` pictures, each a colour with noise on it, of ten classes."""
    draw = np.random.default_rng(0)
    writer = SetWriter(folder, {"stage": "import"})
    for i in range(count):
        picture = draw.integers(0, 256, 3) + draw.normal(0, 20, (side, side, 3))
        writer.write(f"{i:06}", np.clip(picture, 0, 255).astype(np.uint8), variant="clean", label=i % 10)
    writer.finish(f"{i:06}" for i in range(count))


def attack(clean: Path, weights: Path, name: str, steps: int, peak: multiprocessing.Queue[float]) -> None:
    """Attack a set; its own peak, in MiB, goes into ``peak``."""
    from apibench._torch import torch
    from apibench.attacks.loop import AttackSettings
    from apibench.attacks.stage import generate

    torch.set_num_threads(1)
    settings = AttackSettings(name, steps=steps)
    generate(ImageSet.load(clean), clean.with_name("adv"), settings, [f"file:squeezenet1_1={weights}"])
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    peak.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def measure(count: int, side: int, name: str, steps: int) -> float:
    """MiB."""
    from apibench._torch import torch  # before torchvision, which it mends beside a CPU build

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save(importlib.import_module("torchvision.models").squeezenet1_1().state_dict(), weights)
        paint(Path(folder) / "clean", count, side)
        context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
        peak: multiprocessing.Queue[float] = context.Queue()
        process = context.Process(target=attack, args=(Path(folder) / "clean", weights, name, steps, peak))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"attack on {count} images failed")
        return peak.get()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--attack", default="mi-di")
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args(arguments)
    first = None
    for count in given.counts:
        peak = measure(count, given.side, given.attack, given.steps)
        first = first or peak
        print(
            f"{given.attack}, {count} images of {given.side} x {given.side}: peak {peak:.0f} MiB ({peak - first:+.0f})"
        )


if __name__ == "__main__":
    main()
