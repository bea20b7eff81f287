"""Does a query reach each provider's rate at an ordinary latency, and never go above it?

    python benchmarks/query_rate.py [--seconds 20] [--latency 0.2] [--provider NAME]...

An emulator in a process of its own answers each request after the latency. Rates and numbers of requests at a time are the
defaults, as for the vendor itself. *Sent* is counted where requests are handed to the vendor's SDK: the rate between the first
and the last of them, and the most within any second (half-open, at every request). *Answered* is the same by the times on the
emulator's bill, on the other side of SDK and loopback.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import query_chaos

from apibench.imageset import ImageSet
from apibench.query import registry, stage
from apibench.query.contract import EncodedImage, Outcome, Provider, ProviderOptions
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore


class Timed:
    """A provider, and when it was called."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.info, self.settings, self.host = inner.info, inner.settings, inner.host
        self.times: list[float] = []

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        self.times.append(time.monotonic())
        return self.inner.label(images)

    def close(self) -> None:
        self.inner.close()


def figures(times: Sequence[float]) -> tuple[float, int]:
    """The rate, and the most within any second."""
    ordered = sorted(times)
    most = max(sum(start <= other < start + 1 for other in ordered[i:]) for i, start in enumerate(ordered))
    return (len(ordered) - 1) / (ordered[-1] - ordered[0]), most


def measure(name: str, folder: Path, images: ImageSet, seconds: float) -> None:
    adapter = registry.adapter(name)
    query = stage.QuerySettings(name)
    rate, at_a_time = query.rate(adapter.info), query.at_a_time(adapter.info)
    assert rate is not None
    records = images.records[: int(rate * seconds)]
    questions = [Question(r.sha256, r.id, lambda r=r: images.read_bytes(r)) for r in records]  # type: ignore[misc]
    with query_chaos.served(name, folder / f"{name}.jsonl") as emulator:
        options = ProviderOptions(endpoint=emulator.url, emulated=True, concurrency=at_a_time)
        provider = Timed(adapter.create(options))
        provider.label([EncodedImage(data := images.read_bytes(images.records[-1]), hashlib.sha256(data).hexdigest())])
        provider.times.clear()  # the SDK has loaded what it loads with the first call
        warm = emulator.billed
        with ResponseStore.open(folder / f"{name}.sqlite") as store:
            key = Key("rate", name, "emulated", "{}")
            report = Engine(provider, store, key, concurrency=at_a_time, per_second=rate).run(questions)
        provider.close()
        lines = [json.loads(line) for line in emulator.bill.read_text().splitlines()[warm:]]
    assert report.answered == len(questions), report
    sent, most_sent = figures(provider.times)
    answered, most_answered = figures([datetime.fromisoformat(line["time"]).timestamp() for line in lines])
    print(
        f"| {name} | {rate:g} | {at_a_time} | {len(questions)} | {sent:.2f} ({sent / rate:.1%}) | {most_sent} "
        f"| {answered:.2f} | {most_answered} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--provider", action="append")
    arguments = parser.parse_args()
    query_chaos.LATENCY = arguments.latency
    print("| provider | permitted | at a time | calls | sent a second | most sent in any | answered a second | most |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = ImageSet.load(query_chaos.make_images(folder / "images", int(30 * arguments.seconds) + 1))
        for name in arguments.provider or ["aws", "clarifai", "azure", "google"]:
            measure(name, folder, images, arguments.seconds)


if __name__ == "__main__":
    main()
