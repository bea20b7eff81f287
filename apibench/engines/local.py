"""The engine of this machine: in this process, or in one a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

from apibench.engines.job import Failures, Job, Worker
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord
from apibench.progress import Progress


def run(
    job: Job, chunks: Iterable[list[ImageRecord]], devices: Sequence[str], threads: int | None, bar: Progress[Any]
) -> Failures:
    """Do a job with a worker on each of ``devices``; see :func:`apibench.engines.run`."""
    failed: Failures = []
    if len(devices) == 1:
        worker = job.begin(devices[0])
        for chunk in chunks:
            failed += worker.make(chunk)
            bar.advance(len(chunk))
        return failed
    parts = list(chunks)
    devices = devices[: max(1, len(parts))]
    # Spawned, not forked: threads and a GPU's context do not survive a fork.
    context = get_context("spawn")
    waiting: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        waiting.put(device)
    stop = context.Event()
    about = waiting, stop, job, threads or _share(len(devices)), os.getpid()
    pool = ProcessPoolExecutor(len(devices), context, _Here.enter, about)
    try:
        futures: dict[Future[Failures], int] = {}
        with _uninterrupted():
            futures.update((pool.submit(_Here.make, part), len(part)) for part in parts)
        for future in as_completed(futures):
            failed += future.result()
            bar.advance(futures[future])
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.kill()  # files are written whole or not at all; waiting could take as long as a chunk does
        raise
    except BrokenProcessPool as error:
        raise ApibenchError(
            "a worker's process ended (killed, or out of memory). What was made is kept; the same command goes on."
        ) from error
    finally:
        stop.set()  # what waits is not begun any more; what is under way is finished
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are started here do not see Ctrl-C: the one who waits for them does, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _share(workers: int) -> int:
    """Threads of a worker, where nothing is said: the machine's cores shared out."""
    from apibench._torch import torch

    return max(1, torch.get_num_threads() // workers)


class _Here:
    """A worker's process: the worker, once it has begun, and what it takes to begin."""

    _waiting: tuple[Job, str]
    _stop: Event
    _worker: Worker | None = None

    @classmethod
    def enter(cls, devices: SimpleQueue[str], stop: Event, job: Job, threads: int, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it was not inherited
        from apibench._torch import torch

        torch.set_num_threads(threads)
        cls._waiting, cls._stop = (job, devices.get()), stop
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    @classmethod
    def make(cls, chunk: list[ImageRecord]) -> Failures:
        if cls._stop.is_set():
            return []
        if cls._worker is None:  # here, and not on entering, whose errors do not reach the one who waits
            job, device = cls._waiting
            cls._worker = job.begin(device)
        return cls._worker.make(chunk)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for ever for its next chunk."""
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os._exit(1)
