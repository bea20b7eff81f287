"""Seconds and peak memory of ``apibench report`` on a store of many responses.

    python benchmarks/report_scale.py [--photographs 1000] [--store KEEP.sqlite] [--against] [--profile]

A store is made up as four vendors' adapters would fill it: every photograph clean and under four attacks (so many epsilons), each
as it is and behind four purifier settings, so 25 variants and, of 1,000 photographs, 100,000 responses of ten labels each in the
vendors' own form. Labels are those of a random class, lost by the attack and given back by the purifier with fixed
probabilities. There are no image files, so neither the pictures nor the noise are in the time. The report is written in a
process of its own; the peak is that process's resident set size, libraries included.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import multiprocessing
import pstats
import resource
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from apibench.labels import ImageNetClass, vocabulary
from apibench.query import registry, schema

PURIFIERS = ("none", "gaussian/2", "ncis/1", "ncis/2", "ncis/4")
VARIANTS = ("clean", *(f"mi-di/eps{bound}" for bound in (2, 4, 8, 16)))
LABELS = 10
Said = list[tuple[ImageNetClass, float]]


def keeps(attack: str, purifier: str) -> float:
    """The probability that a variant keeps the clean image's first label."""
    if attack == "clean":
        return 1.0 if purifier == "none" else 0.95 - 0.02 * int(purifier[-1])
    lost = (0.2, 0.35, 0.6, 0.8)[VARIANTS.index(attack) - 1]
    return 1 - lost if purifier == "none" else 1 - lost * (0.9 - 0.1 * PURIFIERS.index(purifier))


def aws(said: Said) -> bytes:
    labels = [
        {
            "Name": one.name,
            "Confidence": 100 * score,
            "Instances": [],
            "Parents": [{"Name": name} for name in one.parents],
        }
        for one, score in said
    ]
    return json.dumps({"Labels": labels, "LabelModelVersion": "3.0"}).encode()


def azure(said: Said) -> bytes:
    tags = [{"name": one.name, "confidence": score} for one, score in said]
    return json.dumps({"tags": tags, "requestId": "0", "metadata": {}, "modelVersion": "2021-05-01"}).encode()


def google(said: Said) -> bytes:
    found = [
        {"mid": f"/m/{one.index}", "description": one.name, "score": score, "topicality": score} for one, score in said
    ]
    return json.dumps({"responses": [{"labelAnnotations": found}]}).encode()


def clarifai(said: Said) -> bytes:
    """A MultiOutputResponse, by the field numbers of Clarifai's public protocol buffers."""

    def part(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    ok = part(1, _varint(1 << 3) + _varint(10000))
    concepts = b"".join(
        part(
            3,
            part(1, f"ai_{one.index}".encode())
            + part(2, one.name.encode())
            + _varint(3 << 3 | 5)
            + struct.pack("<f", score),
        )
        for one, score in said
    )
    model = part(4, part(6, part(1, b"aa7f35c01e0642fda5cf400f543e7c40")))
    return ok + part(2, part(2, ok[2:]) + model + part(6, concepts))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


VENDORS = {"aws": aws, "azure": azure, "clarifai": clarifai, "google": google}


def make(path: Path, photographs: int, *, campaign: str = "default", seed: int = 0) -> int:
    """Write the store; the number of responses in it."""
    draw = np.random.default_rng(seed)
    classes = vocabulary().classes
    adapters = {name: registry.adapter(name) for name in VENDORS}
    images, attempts, responses = [], [], []
    for photograph in range(photographs):
        truth = photograph % len(classes)
        source = hashlib.sha256(f"photograph {photograph}".encode()).hexdigest()
        for attack in VARIANTS:
            for purifier in PURIFIERS:
                variant = attack if purifier == "none" else f"{attack}+{purifier}"
                sha256 = hashlib.sha256(f"{source} {variant}".encode()).hexdigest()
                images.append(
                    (sha256, variant, source, f"{photograph:05}", truth, "given", sha256, "set", f"{photograph:05}.png")
                )
                for provider, write in VENDORS.items():
                    kept = draw.random() < keeps(attack, purifier)
                    others = [classes[i] for i in draw.integers(0, len(classes), LABELS)]
                    shown = [classes[truth], *others[1:]] if kept else others
                    scores = np.sort(draw.random(LABELS))[::-1].round(6)
                    raw = write(list(zip(shown, scores.tolist(), strict=True)))
                    labels = json.dumps([vars(label) for label in adapters[provider].parse(raw).labels])
                    key = (campaign, provider, "custom", "{}", sha256)
                    number = len(attempts) + 1
                    attempts.append(
                        (number, *key, "2026-01-01", "2026-01-01", "answered", 0.1, 0.001, number, 1, "yes")
                    )
                    responses.append((*key, number, raw, labels, None, 0.1, "2026-01-01", 0.001))
    with closing(sqlite3.connect(path)) as connection, connection:
        schema.prepare(path, connection)
        insert(
            connection, "images", "sha256 variant source image_id label label_source pixels_sha256 folder file", images
        )
        key = "campaign provider origin settings sha256"
        about = "started_at finished_at outcome latency price request sent billing"
        insert(connection, "attempts", f"id {key} {about}", attempts)
        about = "attempt_id raw labels model_version latency received_at price"
        insert(connection, "responses", f"{key} {about}", responses)
    return len(responses)


def insert(connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[tuple[object, ...]]) -> None:
    names = columns.split()
    places = ", ".join("?" * len(names))
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)


def report(
    store: Path, against: Path | None, profile: bool, found: multiprocessing.Queue[tuple[float, float, float]]
) -> None:
    """Write the report; seconds by the clock, seconds of processor and MiB go into ``found``."""
    from apibench.report import write_report

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as out:
        started, worked = time.perf_counter(), time.process_time()
        if profile:
            profiler.enable()
        write_report(store, Path(out), **({} if against is None else {"against": str(against)}))
        profiler.disable()
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
        for path in sorted(Path(out).rglob("*")):
            if path.is_file() and profile:
                print(f"{path.stat().st_size / 2**20:9.2f} MiB {path.relative_to(out)}")
    found.put((seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20))
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)


def measure(store: Path, against: Path | None = None, profile: bool = False) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of processor, MiB."""
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    found: multiprocessing.Queue[tuple[float, float, float]] = context.Queue()
    process = context.Process(target=report, args=(store, against, profile, found))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the report failed")
    return found.get()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--store", type=Path, help="keep the store there, or use the one that is")
    parser.add_argument("--against", action="store_true", help="compare with a second store of the same photographs")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "store.sqlite"
        if not store.exists():
            started = time.perf_counter()
            count = make(store, given.photographs)
            print(
                f"{count} responses, {store.stat().st_size / 2**20:.0f} MiB, made in {time.perf_counter() - started:.0f} s"
            )
        other = Path(folder) / "other.sqlite" if given.against else None
        if other:
            make(other, given.photographs, seed=1)
        seconds, cpu, peak = measure(store, other, given.profile)
        print(f"report: {seconds:.1f} s ({cpu:.1f} s of processor), peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
