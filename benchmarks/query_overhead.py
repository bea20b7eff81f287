"""CPU time of a call through apibench beside the vendor's bare SDK, for each wire: what the ledger and the engine cost.

    python benchmarks/query_overhead.py [--calls 200] [--rounds 5] [--wire NAME]... [--profile]

An emulator in a process of its own answers at once, so all that this process computes is SDK, loopback and apibench. Bare SDK and
apibench's engine take turns on the same images, one request at a time and then four; what is counted is the time that this
process was on a CPU, in user and in system mode, with all of its threads. The figures are medians over the rounds. apibench
commits every intent and every answer to a store on disk, each commit with a sync. ``--profile`` says where a call's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import query_speed

from apibench.query import preflight, pricing, registry
from apibench.query.contract import ProviderOptions
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore

GOAL = 1.5  # milliseconds more than the bare SDK
SHOWN = 40  # functions of a profile


def cpu_ms(work: Callable[[], Any], calls: int) -> float:
    """Milliseconds of CPU time a call, of all threads of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return 1000 * seconds / calls


def bare(call: query_speed.Call, images: Sequence[bytes], concurrency: int) -> None:
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(call, images))


class Profiled(Engine):
    """An engine of one worker, whose work is profiled."""

    profile = cProfile.Profile(time.thread_time)  # waiting for a disk or a reply is no work

    def _work(self, batches: Any) -> None:
        self.profile.runcall(super()._work, batches)


class Asking:
    """apibench's engine as ``apibench query`` makes it, over one client; each run with a store of its own."""

    def __init__(self, wire: str, url: str, folder: Path, images: Sequence[bytes]) -> None:
        self.name, settings = query_speed.WIRES[wire]
        adapter = registry.adapter(self.name)
        options = ProviderOptions(endpoint=url, emulated=True, settings=settings)
        self.provider = adapter.create(options)
        limits = adapter.info.limits.over(adapter.wire(options))
        self.prepare = preflight.prepare(adapter.info.title, limits)
        self.folder = folder
        self.questions = [
            Question(hashlib.sha256(image).hexdigest(), "x", lambda image=image: image)  # type: ignore[misc]
            for image in images
        ]

    def run(self, concurrency: int, engine: type[Engine] = Engine) -> None:
        with ResponseStore.open(self.folder / f"{time.monotonic_ns()}.sqlite") as store:
            key = Key("overhead", self.name, "emulated", "{}")
            made = engine(
                self.provider,
                store,
                key,
                price=0.0,
                concurrency=concurrency,
                unbilled=pricing.unbilled(self.name),
                prepare=self.prepare,
            )
            report = made.run(self.questions)
        assert report.answered == len(self.questions), report


def measure(wire: str, arguments: argparse.Namespace, folder: Path) -> None:
    name, settings = query_speed.WIRES[wire]
    kind = registry.adapter(name).wire(replace(ProviderOptions(), settings=settings)).value
    command = [sys.executable, "-c", query_speed.SERVE.format(provider=name, kind=kind)]
    images = query_speed.pictures(arguments.calls)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        assert emulator.stdout is not None
        url = emulator.stdout.readline().strip()
        call, asking = query_speed.BARE[wire](url), Asking(wire, url, folder, images)
        bare(call, images, 4)  # the SDK has loaded what it loads late, and the emulator remembers every image
        asking.run(4)
        for concurrency in (1, 4):
            alone, whole = [], []
            for _ in range(arguments.rounds):
                alone.append(cpu_ms(lambda n=concurrency: bare(call, images, n), len(images)))  # type: ignore[misc]
                whole.append(cpu_ms(lambda n=concurrency: asking.run(n), len(images)))  # type: ignore[misc]
            report(wire, concurrency, alone, whole)
        if arguments.profile:
            asking.run(1, Profiled)
        asking.provider.close()
        emulator.terminate()


def report(wire: str, concurrency: int, alone: Sequence[float], whole: Sequence[float]) -> None:
    more = statistics.median(w - a for w, a in zip(whole, alone, strict=True))
    each = ", ".join(f"{w:.2f}-{a:.2f}" for w, a in zip(whole, alone, strict=True))
    print(
        f"| {wire} | {concurrency} | {statistics.median(whole):.2f} | {statistics.median(alone):.2f} | {more:+.2f} "
        f"| {'yes' if more <= GOAL else 'no'} | {each} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wire", choices=query_speed.WIRES, action="append")
    parser.add_argument("--profile", action="store_true", help="print what the functions of a call take")
    arguments = parser.parse_args()
    print(f"| wire | at a time | apibench, ms a call | bare SDK, ms | more, ms | at most {GOAL}? | each round |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for wire in arguments.wire or query_speed.WIRES:
            measure(wire, arguments, Path(folder))
    if arguments.profile:
        pstats.Stats(Profiled.profile).sort_stats("cumulative").print_stats(SHOWN)


if __name__ == "__main__":
    main()
