"""What an engine is given to do: a job, which a worker begins once and then does, some images at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from apibench.imageset import ImageRecord

Failures = list[tuple[str, str]]  # (id, reason)


class Worker(Protocol):
    """Something that makes images, with its networks loaded."""

    def make(self, records: Sequence[ImageRecord]) -> Failures:
        """Read, make and write each image; (id, reason) of those that cannot be read.

        Raises ApibenchError or OSError where no image could be made (a full disk, networks that give no numbers).
        """
        ...


class Job(Protocol):
    """Picklable; what it names must mean the same wherever it is begun."""

    @property
    def title(self) -> str:
        """What the progress bar says."""
        ...

    @property
    def chunk(self) -> int:
        """Images that are made at a time."""
        ...

    @property
    def out(self) -> Path:
        """The folder of the set."""
        ...

    def begin(self, device: str) -> Worker:
        """Load what is needed. Raises ApibenchError where that is not there."""
        ...


def chunks(records: Sequence[ImageRecord], size: int) -> Iterator[list[ImageRecord]]:
    """At most ``size`` at a time, of the same height and width; in their order, as far as that allows."""
    waiting: defaultdict[tuple[int, int], list[ImageRecord]] = defaultdict(list)
    for record in records:
        alike = waiting[record.height, record.width]
        alike.append(record)
        if len(alike) == size:
            yield waiting.pop((record.height, record.width))
    yield from waiting.values()


def devices(device: str, workers: int | None) -> list[str]:
    """The device of each worker of this machine: ``cuda`` means all its GPUs, ``cuda:1`` that one."""
    if device != "cuda":
        return [device] * (workers or 1)
    from apibench._torch import torch

    count = max(1, torch.cuda.device_count())
    return [f"cuda:{index % count}" for index in range(workers or count)] if count > 1 else ["cuda"] * (workers or 1)
