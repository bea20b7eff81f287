"""Engines: where the images of a set are made. On this machine (the default), or on a Ray cluster.

A stage says what is to be done as a :class:`~apibench.engines.job.Job`, which is picklable; an engine begins it on each of its
workers once, and hands out the images. Workers write into the set themselves, so that what is made is kept, whatever ends next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from apibench.defaults import ENGINES, LOCAL, RAY
from apibench.engines.job import Failures, Job, chunks, devices
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord
from apibench.progress import Progress


@dataclass(frozen=True)
class EngineSettings:
    """Where to compute.

    ``workers``: how many; None: on this machine one, or one a GPU where ``device`` is ``cuda``; on a cluster as many as it has
    room for. ``threads`` are a worker's own; None leaves this machine's as they are, and gives one to a worker of a cluster.
    ``address``: of a Ray cluster that is there; None: Ray starts one on this machine, for as long as the work takes.
    """

    name: str = LOCAL
    device: str = "cpu"
    workers: int | None = None
    threads: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Raises ApibenchError where settings do not go together."""
        if self.name not in ENGINES:
            raise ApibenchError(f"engine {self.name}: no such engine; there are {', '.join(ENGINES)}")
        if self.address is not None and self.name != RAY:
            raise ApibenchError(f"--address {self.address}: only a Ray cluster has one; give --engine ray")
        if self.name == RAY and self.device.startswith("cuda:"):
            raise ApibenchError(f"--device {self.device}: Ray gives each worker a GPU; give --device cuda")
        if self.name == RAY and find_spec("ray") is None:
            raise ApibenchError(
                "--engine ray: Ray is not installed; apibench's extra 'ray' brings it: pip install '.[ray]'"
            )


HERE = EngineSettings()


def run(job: Job, records: Sequence[ImageRecord], engine: EngineSettings) -> Failures:
    """Do the job for every record; (id, reason) of images that cannot be made. Raises ApibenchError where it cannot go on."""
    parts = chunks(records, job.chunk)
    try:
        return sorted(_run(job, records, parts, engine))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for its name alone
            raise
        raise ApibenchError("the GPU's memory is full; give a smaller --chunk. What was made is kept.") from error


def _run(
    job: Job, records: Sequence[ImageRecord], parts: Iterator[list[ImageRecord]], engine: EngineSettings
) -> Failures:
    with Progress(range(len(records)), job.title, unit="image") as bar:
        if engine.name == RAY:
            from apibench.engines import cluster

            return cluster.run(job, parts, engine, bar)
        from apibench.engines import local

        return local.run(job, parts, devices(engine.device, engine.workers), engine.threads, bar)
