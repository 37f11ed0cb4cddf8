"""The processes of a run: one, or as many as torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from stillroom.errors import ConfigError, StillroomError
from stillroom.model.device import resolve_device

T = TypeVar("T")
# The other ranks wait while the first one counts pairs or scores the model.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the run's.

    Attributes:
        rank: its number, 0-based.
        world: how many there are.
        node_size: how many of them share this machine's cores.
        device: its own.
        group: all of them; None if there is one only, which then never communicates.
    """

    rank: int
    world: int
    node_size: int
    device: torch.device
    group: dist.ProcessGroup | None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def on_first(self, function: Callable[[], T]) -> T:
        """Call `function` on the first rank; return its result, or raise its `StillroomError`, on every rank."""
        if self.group is None:
            return function()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[1] = function()
            except StillroomError as error:
                answer[0] = error
        dist.broadcast_object_list(answer, src=0, group=self.group, device=self.device)
        if answer[0] is not None:
            raise answer[0]
        return answer[1]

    def collect(self, value: T) -> list[T]:
        """Return every rank's value, in rank order."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of a detached tensor."""
        total = values.detach().clone()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def spread(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite every rank's tensors with the first rank's, in one message for each type."""
        if self.group is None:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for same in by_type.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0, group=self.group)
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Args:
        device: "auto", "cpu" or a GPU; with several ranks a GPU without a number becomes the rank's own.

    Raises:
        ConfigError: no such device, fewer GPUs than ranks on a machine, or the ranks do not find each other.
        StillroomError: a rank was lost on the way.
    """
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    place = resolve_device(device)
    if world == 1:
        yield Ranks(rank=0, world=1, node_size=1, device=torch.device(place), group=None)
        return
    local, node = (int(os.environ.get(name, "1")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if place == "cuda":
        if node > torch.cuda.device_count():
            raise ConfigError(f"{node} ranks on a machine with {torch.cuda.device_count()} GPUs; start one a GPU")
        place = f"cuda:{local}"
        torch.cuda.set_device(local)
    backend = "nccl" if place.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(f"rank {rank} of {world} did not find the others at {where}: {_first_line(error)}") from None
    try:
        group = dist.group.WORLD
        yield Ranks(rank=rank, world=world, node_size=node, device=torch.device(place), group=group)
    except (StillroomError, KeyboardInterrupt):
        raise
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        raise StillroomError(f"rank {rank}: another rank ended or cannot be reached: {_first_line(error)}") from None
    finally:
        dist.destroy_process_group()


def _is_lost_rank(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in words for word in ("gloo", "nccl", "connection", "rank "))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
