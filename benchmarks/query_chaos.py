"""kill -9 at random moments of a query against an emulator in another process, again and again; and a cap under fire.

    python benchmarks/query_chaos.py [--rounds 200] [--images 200] [--workers 8] [--provider aws] [--batch 1]

The emulator keeps its bill on disk, one line an image that it answered. After each kill the store must be sound, and the bill
must not exceed the images with a stored answer by more than what was in flight at the kills, counted in the store.
Then a cap of half as many calls as images, with faults (throttling, 500, lost answers) and ten kills, and once more to the end:
the emulator must have met no more requests than that.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apibench.cli import cli
from apibench.imageset import SetWriter
from apibench.query import registry, stage, status
from apibench.query.contract import ProviderOptions, WireKind
from apibench.query.store import ResponseStore
from apibench.terminal import run_command

SERVE = """
import sys
from pathlib import Path
from apibench.emulator import Answerer, Emulator, Faults
from apibench.query.contract import WireKind
provider, kind, bill, latency, *faults = sys.argv[1:]
with Emulator(answerer=Answerer.random(), providers=[provider], bill=Path(bill), latency=float(latency),
              faults=Faults.parse(faults)) as emulator:
    print(emulator.endpoint(WireKind(kind)), flush=True)
    emulator.wait()
    print(emulator.hits.total(), flush=True)
"""
LATENCY = 0.2


@dataclass
class Served:
    """An emulator in a process of its own; ``hits`` is known when it has ended."""

    url: str
    bill: Path
    hits: int = 0

    @property
    def billed(self) -> int:
        return len(self.bill.read_text().splitlines()) if self.bill.exists() else 0


@contextmanager
def served(provider: str, bill: Path, *faults: str) -> Iterator[Served]:
    kind = registry.adapter(provider).wire(ProviderOptions()).value
    command = [sys.executable, "-c", SERVE, provider, kind, str(bill), str(LATENCY), *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = Served(process.stdout.readline().strip(), bill)
        yield found
        process.send_signal(signal.SIGTERM)
        found.hits = int(process.stdout.readline())


def make_images(folder: Path, count: int) -> Path:
    """So many small pictures, all of them different."""
    writer = SetWriter(folder, {"stage": "import"})
    for i in range(count):
        pixels = np.full((96, 96, 3), 128, dtype=np.uint8)
        pixels[0, 0] = (i % 256, i // 256, 0)
        writer.write(f"image{i:05}", pixels, variant="clean", label=0, label_source="given")
    writer.finish(f"image{i:05}" for i in range(count))
    return folder


def ask(words: list[str], kill_after: float | None) -> int | None:
    """Run a query; kill it so many seconds after its forecast, which comes right before its first request. Its exit code.

    A fork of this process, which has imported everything already: 200 starts of Python and an SDK would take most of the time.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.dup2(writing, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            code = run_command(cli, words)
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as said:
        said.readline()
        deadline = time.monotonic() + (3600.0 if kill_after is None else kill_after)
        while time.monotonic() < deadline:
            ended, state = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(state)
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None


def look(path: Path) -> tuple[int, int]:
    """Answers in a store, and attempts without an outcome; the store is sound."""
    with ResponseStore.open(path, read_only=True) as store:
        problems = status.check(store)
        assert not problems, problems
        with store.reading() as connection:
            (answers,) = connection.execute("SELECT COUNT(*) FROM responses").fetchone()
            (open_,) = connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone()
    return int(answers), int(open_)


def kills(arguments: argparse.Namespace, folder: Path, images: Path) -> None:
    adapter = registry.adapter(arguments.provider)
    # Imports what a query does: what knows the names of networks, and the SDK (but for gRPC, whose threads bear no fork).
    if adapter.wire(ProviderOptions()) is WireKind.HTTP:
        adapter.create(ProviderOptions(endpoint="http://127.0.0.1:1", emulated=True)).close()
    stage.estimate(stage.QuerySettings(arguments.provider, emulated=True), 0)
    draw = random.Random(0)
    store, started = folder / "kills.sqlite", time.monotonic()
    killed = in_flight = campaign = most = 0
    with served(arguments.provider, folder / "bill.jsonl") as emulator:
        words = ["query", "--provider", arguments.provider, "--emulated", "--endpoint", emulator.url]
        words += ["--images", str(images), "--store", str(store), "--concurrency", str(arguments.workers)]
        words += ["--rate", "20", "--batch", str(arguments.batch)]
        words += ["--on-uncertain", "insist"]  # an image in flight at two kills is to have an answer in the end, too
        while killed < arguments.rounds:
            code = ask([*words, "--campaign", f"c{campaign}"], draw.uniform(0.0, 1.2))
            time.sleep(LATENCY + 0.3)  # what was in flight is answered and billed
            if code is not None:
                assert code == 0, code
                campaign += 1
                continue
            killed += 1
            answers, open_ = look(store)
            in_flight, most = in_flight + open_, max(most, open_)
            assert emulator.billed <= answers + in_flight, (emulator.billed, answers, in_flight)
            if killed % 20 == 0:
                print(f"  {killed} kills, {time.monotonic() - started:.0f} s", flush=True)
        assert ask([*words, "--campaign", f"c{campaign}"], None) == 0
        billed = emulator.billed
    answers, open_ = look(store)
    asked = (campaign + 1) * arguments.images
    assert (answers, open_) == (asked, 0)
    assert asked <= billed <= asked + in_flight
    with sqlite3.connect(store) as connection:
        (uncertain,) = connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome = 'uncertain'").fetchone()
    how = f"{arguments.workers} at a time, {arguments.batch} images a request"
    print(
        f"kills: {killed} of {arguments.provider}, {how}: {asked} images asked about, {answers} answers, bill {billed} (at most "
        f"{asked + in_flight}: {in_flight} images were in flight at the kills, {most} at most at one; {uncertain} uncertain); "
        f"sound after every kill; {time.monotonic() - started:.0f} s",
        flush=True,
    )


def cap(arguments: argparse.Namespace, folder: Path, images: Path) -> None:
    draw = random.Random(1)
    store, most = folder / "cap.sqlite", arguments.images // 2
    faults = ("throttle=0.1", "500=0.1", "drop-after=0.1", "drop=0.05")
    killed = 0
    with served(arguments.provider, folder / "cap.jsonl", *faults) as emulator:
        words = [
            "query",
            "--provider",
            arguments.provider,
            "--emulated",
            "--endpoint",
            emulator.url,
            "--images",
            str(images),
        ]
        words += ["--store", str(store), "--concurrency", "8", "--max-calls", str(most)]
        for _ in range(10):
            killed += ask(words, draw.uniform(0.0, 0.8)) is None
        again = [ask(words, None) for _ in range(2)]
        billed = emulator.billed
    with ResponseStore.open(store, read_only=True) as opened:
        calls = opened.calls("default", real=False)
    answers, _ = look(store)
    print(
        f"cap: --max-calls {most}, 8 at a time, {', '.join(faults)}, {killed} kills: {calls} calls in the store, {emulator.hits} "
        f"requests met by the emulator, bill {billed}, {answers} answers; exit codes afterwards {again}"
    )
    assert emulator.hits <= calls <= most
    assert answers <= billed <= emulator.hits
    assert again == [4, 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--provider", default="aws")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = make_images(folder / "images", arguments.images)
        kills(arguments, folder, images)
        cap(arguments, folder, images)


if __name__ == "__main__":
    main()
