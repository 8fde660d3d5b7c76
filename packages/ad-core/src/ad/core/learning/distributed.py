"""Several processes that learn together, one for each device: ``torchrun`` starts them.

    torchrun --nproc-per-node 2 -m ad.core.cli train mvtec bottle stfpm

A batch stays as large as it is for one process: each takes its share of it, gradients and what
layers count (running means) are averaged, and so N processes learn what one would, but for the
order in which numbers are added and for layers that look at a whole batch. Losses are computed in
ways of the trainer's own, with several optimisers, for which torch's wrapper of one module has no
room; so gradients are averaged here, after the backward pass.
"""

from __future__ import annotations

import atexit
import datetime
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ad.core.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

_BUCKET = 25 * 2**20
"""Bytes that are sent at once."""

_PATIENCE = datetime.timedelta(days=7)
"""How long others wait while one chooses a coreset or tests; torchrun ends them if it dies."""


def is_main() -> bool:
    """Whether this process is the one that writes and speaks; needs no torch."""
    return os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) <= 1


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run; without torchrun there is one, and nothing below costs anything."""

    rank: int = 0
    """Number of this process; 0 writes and speaks."""
    size: int = 1
    """How many there are."""

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared.

        Raises:
            SettingError: If it does not divide by the number of processes.
        """
        if batch_size % self.size:
            msg = (
                f"A batch is shared by the {self.size} processes: `batch_size` must divide by "
                f"{self.size}; got {batch_size}. Give another, or start another number of them."
            )
            raise SettingError(msg)

    def share(self, rows: Sequence[int]) -> tuple[Sequence[int], float]:
        """This process's part of a batch, and its weight in the batch's mean.

        Where a last batch has fewer rows than there are processes, those that are left over take
        its first row with weight 0: they go through the same motions and change nothing.
        """
        own = rows[self.rank :: self.size]
        return (own, len(own) / len(rows)) if len(own) else (rows[:1], 0.0)

    def average_gradients(self, parameters: Iterable[Tensor], weight: float) -> None:
        """Give every process the mean of all gradients, weighted."""
        if self.size > 1:
            self._sum([p.grad for p in parameters if p.grad is not None], weight)

    def average_buffers(self, modules: Iterable[nn.Module], weight: float) -> None:
        """Give every process the mean of what layers that learn have counted, weighted."""
        if self.size == 1:
            return
        import torch

        buffers = [
            buffer
            for top in modules
            for module in top.modules()
            if module.training
            for buffer in module.buffers(recurse=False)
            if buffer.is_floating_point() and buffer.numel()
        ]
        # The first one's values and the mean deviation from them: what is the same everywhere
        # stays what it is to the last digit.
        first = [buffer.clone() for buffer in buffers]
        self.follow(first)
        gaps = [buffer - start for buffer, start in zip(buffers, first, strict=True)]
        self._sum(gaps, weight)
        with torch.no_grad():
            for buffer, start, gap in zip(buffers, first, gaps, strict=True):
                buffer.copy_(start + gap)

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def mean(self, values: Mapping[str, float], weight: float) -> dict[str, float]:
        """The mean over the processes of numbers that each has under the same names, weighted."""
        if self.size == 1:
            return dict(values)
        import torch
        import torch.distributed as dist

        row = torch.tensor(list(values.values()), dtype=torch.float64)
        # A share of weight 0 may be anything, even infinite.
        row = row * weight if weight else torch.zeros_like(row)
        dist.all_reduce(row)
        return dict(zip(values, row.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([float(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def tell(self, value: T) -> T:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        told: T = box[0]
        return told

    def gather(self, value: T) -> list[T]:
        """Every process's value, in their order, in the first one; nothing in the others."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def _sum(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Weight tensors and add them up over the processes, in place, many at a time."""
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            flat = flat * weight if weight else torch.zeros_like(flat)
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


ALONE = World()

_JOINED = threading.Event()  # once this process is one of several, whatever becomes of the group


def join_world() -> World:
    """The processes that torchrun started with this one; one alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        # Once for all runs of the process: a second group would meet what the first one left.
        atexit.register(_leave)
    _JOINED.set()
    return World(dist.get_rank(), dist.get_world_size())


def end_process(status: int) -> None:
    """End a process that has learnt with others; one alone goes on.

    Gloo's threads may still hold tensors while the interpreter is taken apart, which now and then
    ends a run that has succeeded by SIGABRT (pytorch#190489), even after `destroy_process_group`:
    so it is not taken apart.

    Args:
        status: Exit status.
    """
    if not _JOINED.is_set():
        return
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():  # a program of one's own may have done it
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type that follow each other, up to the bytes that are sent at once."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        length = tensor.numel() * tensor.element_size()
        if bucket and (tensor.dtype != bucket[0].dtype or size + length > _BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += length
    if bucket:
        yield bucket
