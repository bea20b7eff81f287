"""20,000 calls through the vendors' real SDKs while every fifth request meets a fault: is any answer lost, or paid for twice?

    python benchmarks/query_soak.py [--calls 20000] [--share 0.2] [--concurrency 4] [--provider NAME]...

An emulator in a process of its own answers for the four vendors at the same time, each with the same share of the calls, with
labels drawn by chance. All kinds of fault that the emulator has are equally likely, the expired key, which ends a run, among
them. ``apibench query``'s own stage asks until every image is answered or refused: a run that ends before that is started
again, on the same store. Clarifai and Google are asked about two images a request, so that one may fail inside a success. What
hangs or trickles lasts twice as long as a call may; the waits between attempts, Retry-After included, are cut short.

Then, of each vendor: every image has exactly one stored outcome, and nothing was sent after it; no image is on the emulator's
bill more often than the store has answers and uncertain attempts of it; all that the emulator met is in the ledger; the store
is sound. The memory of the process that asks does not grow. The exit code is 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import query_chaos

from apibench.emulator.faults import FaultKind
from apibench.imageset import ImageSet
from apibench.query import registry, stage, status
from apibench.query.contract import ProviderOptions
from apibench.query.policy import OnUncertain, RetryPolicy
from apibench.query.result import HaltReason, QueryReport
from apibench.query.store import ResponseStore

SERVE = """
import json, sys
from pathlib import Path
from apibench.emulator import Answerer, Emulator, Faults
from apibench.query.contract import WireKind
bill, providers, *faults = sys.argv[1:]
providers = providers.split(",")
scripts = {name: Faults.parse(faults, seed) for seed, name in enumerate(providers)}
with Emulator(answerer=Answerer.random(), providers=providers, bill=Path(bill), faults=scripts) as emulator:
    kinds = {wire.kind for wire in emulator._wires}
    print(json.dumps({kind.value: emulator.endpoint(kind) for kind in kinds}), flush=True)
    emulator.wait()
    print(json.dumps(emulator.hits), flush=True)
"""
BATCH = {"aws": 1, "azure": 1, "clarifai": 2, "google": 2}
TIMEOUT = 0.5  # seconds a call may take
LONG = {FaultKind.HANG: ":1", FaultKind.SLOW: ":1"}
POLICY = RetryPolicy(first=0.02, longest=0.2, longest_retry_after=0.2)
EVERY = 0.1  # seconds between two looks at the memory
GROWTH = 1.05  # the most memory of the last quarter, to that of the second: the first loads the SDKs
JUDGED = 2000  # calls; a shorter run is half loading


@dataclass
class Emulated:
    """The emulator's side: where it listens, its bill as counts by (provider, SHA-256), and what it met, when it has ended."""

    urls: dict[str, str]
    bill: Counter[tuple[str, str]] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)


@contextmanager
def served(providers: Sequence[str], bill: Path, share: float) -> Iterator[Emulated]:
    kinds = [kind for kind in FaultKind if kind is not FaultKind.OK]
    faults = [f"{kind}{LONG.get(kind, '')}={share / len(kinds)}" for kind in kinds]
    command = [sys.executable, "-c", SERVE, str(bill), ",".join(providers), *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = Emulated(json.loads(process.stdout.readline()))
        yield found
        process.send_signal(signal.SIGTERM)
        found.hits.update(json.loads(process.stdout.readline()))
    for line in map(json.loads, bill.read_text().splitlines()):
        found.bill[line["provider"], line["sha256"]] += 1


class Memory:
    """Looks at this process's resident memory now and then, in a thread of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []  # when, and MB
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append((time.monotonic(), resident * page / 1e6))
            if self._stop.wait(EVERY):
                return

    def quarters(self) -> list[float]:
        """The most in each quarter of the time."""
        begun, ended = self.seen[0][0], self.seen[-1][0]
        most = [0.0] * 4
        for when, used in self.seen:
            quarter = min(3, int(4 * (when - begun) / max(ended - begun, 1e-9)))
            most[quarter] = max(most[quarter], used)
        return most


@dataclass
class Asked:
    """One vendor's run, over all its starts. ``left``: images that were left uncertain; ``most_lost``: answers of any of them."""

    provider: str
    images: ImageSet
    store: Path
    starts: int = 0
    left: int = 0
    most_lost: int = 0
    seconds: float = 0.0
    halts: Counter[str] = field(default_factory=Counter)

    def ask(self, urls: dict[str, str], concurrency: int) -> None:
        kind = registry.adapter(self.provider).wire(ProviderOptions())
        query = stage.QuerySettings(
            self.provider,
            emulated=True,
            endpoint=urls[kind.value],
            batch=BATCH[self.provider],
            concurrency=concurrency,
            timeout=TIMEOUT,
            policy=POLICY,
        )
        begun = time.monotonic()
        self.left = len(self._start_until(query, lambda report: not report.failed).left)
        self.most_lost = max(Ledger.of(self.store).uncertain.values(), default=0)
        self._start_until(
            replace(query, on_uncertain=OnUncertain.INSIST), lambda report: not (report.failed or report.left)
        )
        self.seconds = time.monotonic() - begun

    def _start_until(self, query: stage.QuerySettings, ended: Callable[[QueryReport], bool]) -> QueryReport:
        """Start again and again, as far as that helps."""
        most = self.starts + 20 + len(self.images.records) // 10
        while True:
            self.starts += 1
            report = stage.query_images([self.images], self.store, query)
            if report.halted is HaltReason.STORE:
                raise RuntimeError(report.message)
            if report.halted is not None:
                self.halts[report.halted.value] += 1
            if (report.halted is None and ended(report)) or self.starts >= most:
                return report


@dataclass
class Ledger:
    """What a store holds in the end. ``answered`` and ``uncertain``: attempts by image; ``after``: attempts after an answer."""

    requests: int
    answers: Counter[str]
    refused: set[str]
    answered: Counter[str]
    uncertain: Counter[str]
    asked: set[str]
    after: int
    unsound: list[str]

    @classmethod
    def of(cls, path: Path) -> Ledger:
        with ResponseStore.open(path, read_only=True) as store:
            requests, unsound = store.calls("default", real=False), status.check(store)
            with store.reading() as connection:
                answers = Counter(dict(connection.execute("SELECT sha256, COUNT(*) FROM responses GROUP BY sha256")))
                rows = connection.execute("SELECT sha256, outcome, error_kind FROM attempts").fetchall()
                (after,) = connection.execute(
                    "SELECT COUNT(*) FROM attempts AS a JOIN responses AS r "
                    "USING (campaign, provider, origin, settings, sha256) WHERE a.id > r.attempt_id"
                ).fetchone()
        return cls(
            requests,
            answers,
            {sha256 for sha256, _, kind in rows if kind == "rejected"},
            Counter(sha256 for sha256, outcome, _ in rows if outcome == "answered"),
            Counter(sha256 for sha256, outcome, _ in rows if outcome == "uncertain"),
            {sha256 for sha256, _, _ in rows},
            after,
            unsound,
        )

    def problems(self, images: set[str], bill: Counter[str]) -> list[str]:
        """What does not hold. ``bill``: how often each image is on the emulator's."""
        counts = {
            "images have no outcome": len(images - set(self.answers) - self.refused),
            "images are answered and refused": len(set(self.answers) & self.refused),
            "images have more than one answer": sum(self.answers[i] > 1 or self.answered[i] > 1 for i in images),
            "attempts follow an answer": self.after,
            "answers are of images that nobody asked about": len(set(self.answers) - images),
            "billed images are not in the ledger": len(set(bill) - self.asked),
            "images are billed more often than the ledger knows": sum(
                bill[i] > self.answers[i] + self.uncertain[i] for i in images
            ),
            "answered images are on no bill": sum(bill[i] < self.answers[i] for i in images),
        }
        return self.unsound + [f"{count} {what}" for what, count in counts.items() if count]


def describe(asked: Asked, ledger: Ledger, bill: Counter[str]) -> str:
    sums = len(asked.images.records), asked.starts, ledger.requests, ledger.answers.total(), len(ledger.refused)
    money = asked.left, ledger.uncertain.total(), bill.total(), ledger.answers.total() + ledger.uncertain.total()
    return f"| {asked.provider} | {' | '.join(f'{n:,}' for n in (*sums, *money))} | {asked.seconds:.0f} |"


def soak(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Ask, print the figures, and say what does not hold."""
    providers = arguments.provider or list(BATCH)
    calls = math.ceil(arguments.calls / len(providers))
    most = calls * max(BATCH[name] for name in providers)
    images = ImageSet.load(query_chaos.make_images(folder / "images", most))
    runs = [
        Asked(name, ImageSet(images.folder, images.records[: calls * BATCH[name]]), folder / f"{name}.sqlite")
        for name in providers
    ]
    begun = time.monotonic()
    with served(providers, folder / "bill.jsonl", arguments.share) as emulator:
        with Memory() as memory, ThreadPoolExecutor(len(runs)) as pool:
            for future in [pool.submit(run.ask, emulator.urls, arguments.concurrency) for run in runs]:
                future.result()
        time.sleep(2 * TIMEOUT)  # what was given up may still be computed, and billed
    seconds = time.monotonic() - begun

    print(
        "| vendor | images | starts | requests | answered | refused | left | uncertain attempts | bill | at most | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    problems, requests = [], 0
    for run in runs:
        ledger = Ledger.of(run.store)
        bill = Counter({sha256: n for (name, sha256), n in emulator.bill.items() if name == run.provider})
        print(describe(run, ledger, bill))
        found = ledger.problems({record.sha256 for record in run.images.records}, bill)
        if run.most_lost > POLICY.uncertain + 1:
            found.append(f"an image was asked about after {run.most_lost - 1} lost answers")
        problems += [f"{run.provider}: {problem}" for problem in found]
        requests += ledger.requests
    met, quarters = emulator.hits.total(), memory.quarters()
    if met > requests:
        problems.append(f"the emulator met {met} requests, and the ledger has {requests}")
    if arguments.calls >= JUDGED and quarters[3] > GROWTH * quarters[1]:
        problems.append("the memory grows")
    print(f"\n{requests:,} requests, {met:,} met by the emulator, in {seconds:.0f} s; what became of them there:")
    print(", ".join(f"{outcome} {count:,}" for outcome, count in emulator.hits.most_common()))
    halts = sum((run.halts for run in runs), Counter[str]())
    print(f"Runs that ended early, by reason: {', '.join(f'{why} {n}' for why, n in halts.most_common()) or 'none'}.")
    print(f"Most memory in each quarter of the time: {', '.join(f'{used:.0f}' for used in quarters)} MB.")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.2, help="of requests that meet a fault")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time, of each vendor")
    parser.add_argument("--provider", choices=BATCH, action="append")
    with tempfile.TemporaryDirectory() as folder:
        problems = soak(parser.parse_args(), Path(folder))
    print("\n".join(problems) or "Every image has exactly one outcome, and the bill is covered by the ledger.")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
