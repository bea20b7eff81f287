"""The engine of a Ray cluster: an actor a worker, which holds its networks and writes into a folder that all machines see.

Ray starts the actors, wherever there is room, and says when one is lost; which image is whose is decided here, so that a lost
worker costs the images it was at, and nothing waits for a machine that does not come back.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apibench.engines.job import Failures, Job, Worker
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord
from apibench.progress import Progress

if TYPE_CHECKING:
    from apibench.engines import EngineSettings

Chunk = list[ImageRecord]

LOST_AT_MOST = (
    3  # workers to one image, which may be what kills them; or in a row, for each that there is room for, on loading
)
LOADING = ""
WAIT_FOR_A_WORKER = 300.0  # seconds, where none is left
WAIT_FOR_A_FILE = 30.0  # seconds that a network's file system may take to show what another machine wrote


def run(job: Job, chunks: Iterable[Chunk], engine: EngineSettings, bar: Progress[Any]) -> Failures:
    """Do a job on a cluster; see :func:`apibench.engines.run`."""
    import ray

    if engine.address is not None:
        _knock(engine.address)
    try:
        ray.init(address=engine.address or "local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (SystemExit, ConnectionError, ValueError, RuntimeError, OSError) as error:  # it exits where nobody answers
        where = f" at {engine.address}" if engine.address else ""
        raise ApibenchError(f"--engine ray: no cluster{where}: {_line(str(error))}") from error
    try:
        return _Run(job, engine, bar).over(chunks)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises ApibenchError where nobody listens: Ray itself would try for minutes. Addresses by name (``auto``) are Ray's."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ApibenchError(
            f"--engine ray: no cluster at {address}: {error}. 'ray start --head' starts one, and so does no --address"
        ) from error


class _Actor:
    """A worker, on whatever machine. ``folder``: where the command was started, which relative paths go by."""

    def __init__(self, job: Job, folder: str, device: str, threads: int) -> None:
        self._given = job, folder, device, threads
        self._worker: Worker | None = None

    def begin(self) -> None:
        """Load the networks: once, however many images follow."""
        job, folder, device, threads = self._given
        host = socket.gethostname()
        try:
            os.chdir(folder)
        except OSError as error:
            raise ApibenchError(f"worker on {host}: does not see {folder}; start in a folder that all see") from error
        from apibench._torch import torch

        torch.set_num_threads(threads)
        try:
            self._worker = job.begin(device)
        except ApibenchError as error:
            raise ApibenchError(f"worker on {host}: {error}") from error

    def make(self, chunk: Chunk) -> Failures:
        assert self._worker is not None
        return self._worker.make(chunk)


class _Run:
    """Who is at what. A worker is an actor's handle; a reference is what Ray calls work that is under way."""

    def __init__(self, job: Job, engine: EngineSettings, bar: Progress[Any]) -> None:
        import ray

        self.out, self.bar = job.out, bar
        self.threads = engine.threads or 1
        self.device = engine.device
        self.gpu = engine.device.startswith("cuda")
        self.workers = engine.workers or self._room()
        self.shared = ray.put(job)  # to each machine once
        self.todo: deque[Chunk] = deque()
        self.idle: list[Any] = []
        self.begins: dict[Any, Any] = {}  # reference -> worker
        self.works: dict[Any, tuple[Any, Chunk]] = {}  # reference -> worker, and what it is at
        self.lost: Counter[str] = Counter()
        self.failed: Failures = []

    def over(self, chunks: Iterable[Chunk]) -> Failures:
        import ray

        self.todo.extend(chunks)
        for _ in range(min(self.workers, len(self.todo))):
            self._start()
        while self.todo or self.works:
            self._hand_out()
            if not self.todo:
                self.idle.clear()  # an idle one may be on a machine that is gone; for what is lost from now on another is started
            ready, _ = ray.wait([*self.works, *self.begins], timeout=None if self.works else WAIT_FOR_A_WORKER)
            if not ready:
                raise ApibenchError(
                    f"--engine ray: no worker has loaded its networks within {WAIT_FOR_A_WORKER:.0f} s; has the cluster room for "
                    f"one of {self.threads} CPUs{' and a GPU' if self.gpu else ''}? What was made is kept."
                )
            self._over(ready[0])
        return self.failed

    def _hand_out(self) -> None:
        # By itself, so that no name holds on to a worker: one that nothing holds on to ends, and another may have its place.
        while self.todo and self.idle:
            worker, chunk = self.idle.pop(), self.todo.popleft()
            self.works[worker.make.remote(chunk)] = worker, chunk

    def _room(self) -> int:
        """Workers that the cluster has room for."""
        import ray

        there = ray.cluster_resources()
        return max(1, int(there.get("GPU", 0) if self.gpu else there.get("CPU", 0) // self.threads))

    def _start(self) -> None:
        import ray

        options = {"num_cpus": self.threads, "num_gpus": int(self.gpu), "max_restarts": 0, "max_task_retries": 0}
        worker = ray.remote(_Actor).options(**options).remote(self.shared, str(Path.cwd()), self.device, self.threads)
        self.begins[worker.begin.remote()] = worker

    def _over(self, reference: Any) -> None:
        """What a worker was at is over: it is free now, or lost, and then another is started."""
        import ray

        worker, chunk = self.works.pop(reference) if reference in self.works else (self.begins.pop(reference), None)
        try:
            failed = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:  # the worker is gone, or its machine
            self._lose(chunk, str(error))
            return
        self.idle.append(worker)
        if chunk is None:
            self.lost[LOADING] = 0
        else:
            self._done(chunk, failed)

    def _done(self, chunk: Chunk, failed: Failures) -> None:
        left_out = {id for id, _ in failed}
        self._look_at([record.id for record in chunk if record.id not in left_out])
        self.failed += failed
        self.bar.advance(len(chunk))

    def _lose(self, chunk: Chunk | None, why: str) -> None:
        name = chunk[0].id if chunk else LOADING
        self.lost[name] += 1
        if chunk is None:
            if self.lost[name] == LOST_AT_MOST * self.workers:
                raise ApibenchError(f"--engine ray: workers end before they have begun: {_line(why)}")
        elif len(chunk) > 1:  # one of them may be what kills workers: the others are not to be lost with it
            self.todo.extendleft([record] for record in reversed(chunk))
        elif self.lost[name] < LOST_AT_MOST:
            self.todo.appendleft(chunk)
        else:
            reason = f"{LOST_AT_MOST} workers were lost while they were at it"
            self._done(chunk, [(record.id, f"{record.file}: {reason}") for record in chunk])
        self._start()

    def _look_at(self, ids: Iterable[str]) -> None:
        """Raises ApibenchError where what a worker has written is not to be seen from here."""
        until = time.monotonic() + WAIT_FOR_A_FILE
        for id in ids:
            path = self.out / f"{id}.json"  # it comes after its PNG
            while not path.is_file():
                if time.monotonic() > until:
                    raise ApibenchError(f"{path}: a worker wrote it, and it is not here; all must see the same folder")
                with suppress(OSError):
                    next(self.out.iterdir(), None)  # makes some network file systems look again
                time.sleep(0.1)


def _cause(error: Any) -> Exception:
    """What was raised in a worker, as if it had been raised here."""
    cause = error.cause
    if isinstance(cause, ApibenchError | OSError):
        return cause
    return ApibenchError(f"--engine ray: a worker failed: {type(cause).__name__}: {_line(str(cause))}")


def _line(text: str) -> str:
    """The last line of what may be a traceback."""
    return (text.strip().splitlines() or ["?"])[-1][:300]
