"""The processes among which rows are shared out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Group:
    """The processes of torch.distributed that fit together, each with its share of the rows.

    Without any, this process fits alone. All of them have to call the same methods in the same
    order. What they decide, they decide by numbers that are the same to the bit in all of them:
    sums over the processes, and what the first one says.
    """

    def __init__(self, processes: distributed.ProcessGroup | None = None) -> None:
        self._processes = processes
        self.rank, self.size = 0, 1
        if processes is None:
            return
        if not (distributed.is_available() and isinstance(processes, distributed.ProcessGroup)):
            raise TypeError(
                "group must be a process group of torch.distributed that this process is in, as "
                f"torch.distributed.group.WORLD is, got {type(processes).__name__}"
            )
        self.rank = distributed.get_rank(processes)
        self.size = distributed.get_world_size(processes)

    def add_up(self, *parts: Tensor) -> None:
        """Replaces tensors of one dtype by their sums over the processes, in one message."""
        if self._processes is None:
            return
        message = torch.cat([part.reshape(-1) for part in parts])
        distributed.all_reduce(message, group=self._processes)
        for part, total in zip(parts, message.split([x.numel() for x in parts]), strict=True):
            part.copy_(total.view_as(part))

    def first(self, x: Tensor) -> Tensor:
        """What the first process has."""
        if self._processes is not None:
            distributed.broadcast(x, group=self._processes, group_src=0)
        return x

    def first_object(self, x: T) -> T:
        """What the first process has, of any type."""
        if self._processes is None:
            return x
        message = [x]
        distributed.broadcast_object_list(message, group=self._processes, group_src=0)
        return x if self.rank == 0 else message[0]

    def gather_objects(self, x: T) -> list[T]:
        """What each process has."""
        if self._processes is None:
            return [x]
        gathered: list[Any] = [None] * self.size
        distributed.all_gather_object(gathered, x, group=self._processes)
        return gathered

    def each(self, make: Callable[[], T]) -> T:
        """What is made in this process, unless one of them fails: the others would wait for it."""
        error: Exception | None = None
        try:
            made = make()
        except Exception as raised:
            error = raised
        failures = self.gather_objects(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise ValueError(f"process {rank} of the group has failed: {failure}")
        return made


ALONE = Group()
