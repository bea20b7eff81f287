"""A training by several processes of one machine: each its share of every batch, the gradients averaged over all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from apibench._torch import torch
from apibench.errors import ApibenchError

Tensor = torch.Tensor


@dataclass(frozen=True)
class Worker:
    """Process ``index`` of ``count``. One alone needs no other, and does nothing for their sake."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.index == 0

    def share(self, batch: Tensor) -> Tensor:
        """This worker's part of a batch, (batch / count, ...). Parts are equal, so that the mean of their means is the mean."""
        return batch[self.index :: self.count]

    def average_gradients(self, network: torch.nn.Module) -> None:
        """Replace every gradient by its mean over the workers: one message for all of them."""
        if self.count == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def wait(self) -> None:
        """Until every worker has come here."""
        if self.count > 1:
            torch.distributed.barrier()


def run_workers(count: int, batch: int, device: str, work: Callable[[Worker, str], None]) -> None:
    """Run ``work(worker, device)`` in ``count`` processes; on ``cuda`` each has a GPU of its own.

    ``work`` is picklable. Raises ApibenchError with the first worker's words where one fails; the others are then ended.
    """
    if batch % count:
        raise ApibenchError(f"--processes {count}: a batch of {batch} cannot be shared equally among {count}")
    if device == "cuda" and count > torch.cuda.device_count():
        raise ApibenchError(f"--processes {count}: there are only {torch.cuda.device_count()} GPUs here")
    processes = cast(Any, torch.multiprocessing)  # it exports what it holds at run time only
    with tempfile.TemporaryDirectory(prefix="apibench-") as folder:
        meeting = Path(folder) / "meeting"
        try:
            processes.spawn(_worker, (count, device, str(meeting), torch.get_num_threads(), work), nprocs=count)
        except processes.ProcessRaisedException as error:
            # It comes as a traceback in words, at whose end the error itself stands.
            raise ApibenchError(str(error).rpartition("Error: ")[2].strip()) from error
        except processes.ProcessExitedException as error:
            raise ApibenchError(f"a training process ended: {error}. The last checkpoint is kept.") from error


def _worker(
    index: int, count: int, device: str, meeting: str, threads: int, work: Callable[[Worker, str], None]
) -> None:
    torch.set_num_threads(max(1, threads // count))
    if device == "cuda":
        device = f"cuda:{index}"
        torch.cuda.set_device(index)
    if index:
        os.environ["TQDM_DISABLE"] = "1"  # one bar is enough
    backend = "nccl" if device.startswith("cuda") else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=index, world_size=count)
    try:
        work(Worker(index, count), device)
    finally:
        torch.distributed.destroy_process_group()
