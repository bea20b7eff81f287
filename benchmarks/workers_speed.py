"""Wall time of ``generate`` and ``purify``: one worker, two processes, two workers of a Ray cluster. Are the bytes the same?

    python benchmarks/workers_speed.py --clean SET [--images 24] [--workers 2] [--rounds 3] [--attack NAME] [--purifier ncis]

The cluster is one that Ray starts on this machine, as ``--engine ray`` without an address does; its start, and the loading of
networks, are in the time. Rounds in turn; medians. One thread a worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from apibench import defaults, purifiers
from apibench._torch import torch
from apibench.attacks.loop import AttackSettings
from apibench.attacks.stage import generate
from apibench.engines import EngineSettings
from apibench.imageset import ImageSet
from apibench.purifiers.stage import purify


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compare(title: str, make: Callable[[Path, EngineSettings], object], workers: int, rounds: int) -> None:
    """Time what ``make`` makes in a folder with each engine, and print it."""
    engines = {
        "one worker": EngineSettings(threads=1),
        f"{workers} processes": EngineSettings(workers=workers, threads=1),
        f"{workers} workers of a cluster": EngineSettings("ray", workers=workers, threads=1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as base:
        first: dict[str, bytes] = {}
        for turn in range(rounds):
            for name, engine in engines.items():
                out = Path(base) / f"{turn}-{name.replace(' ', '-')}"
                started = time.perf_counter()
                make(out, engine)
                seconds[name].append(time.perf_counter() - started)
                first = first or files(out)
                if files(out) != first:
                    raise SystemExit(f"{title}: {name}: other bytes than one worker's")
    alone = seconds["one worker"]
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(alone, taken, strict=True)]
        print(
            f"{title}: {name}: {statistics.median(taken):.1f} s; {statistics.median(ratios):.2f} times as fast as one worker "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(f"{title}: {len(first)} files, the same bytes every time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attack", default=defaults.ATTACK)
    parser.add_argument("--purifier", default="ncis")
    parser.add_argument("--surrogate", action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = ImageSet.load(given.clean)
    clean = ImageSet(whole.folder, whole.records[: given.images])
    names = given.surrogate or list(defaults.SURROGATES)
    settings, purifier = AttackSettings(given.attack, 8), purifiers.create(given.purifier, 2)
    compare(
        f"generate {settings.name}, {len(clean.records)} images",
        lambda out, engine: generate(clean, out, settings, names, engine=engine),
        given.workers,
        given.rounds,
    )
    compare(
        f"purify {purifier.variant}, {len(clean.records)} images",
        lambda out, engine: purify(clean, out, purifier, engine=engine),
        given.workers,
        given.rounds,
    )


if __name__ == "__main__":
    main()
