"""The processes of a run: one, or as many as torchrun starts."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from stillroom.errors import ConfigError, StillroomError, printable
from stillroom.model.device import resolve_device

T = TypeVar("T")
# The other ranks wait while the first one counts pairs or scores the model.
PATIENCE = timedelta(hours=2)
# gloo's errors name its source file, "[.../gloo/transport/tcp/pair.cc:534] Connection closed by peer ...".
LOST = re.compile(r"\bgloo/|gloo::|\bconnection (closed|reset|refused)\b|\bbroken pipe\b", re.IGNORECASE)


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

    def on_every(self, function: Callable[[], T]) -> T:
        """Call `function` on every rank; return its own result, or raise one rank's `StillroomError` on every rank."""
        if self.group is None:
            return function()
        own, answer = None, []
        try:
            answer.append(function())
        except StillroomError as error:
            own = error
        for failed in self.collect(own):
            if failed is not None:
                raise failed
        return answer[0]

    def collect(self, value: T) -> list[T]:
        """Return every rank's value, in rank order."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def numbers(self, own: int) -> list[int]:
        """Return every rank's number, in rank order; cheaper than `collect`."""
        if self.group is None:
            return [own]
        sent = torch.tensor([own], device=self.device)
        found = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(found, sent, group=self.group)
        return [int(number) for number in torch.cat(found).tolist()]

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
        device: "auto", "cpu" or a GPU; with several ranks a GPU without a number becomes the rank's own, and after an
            error their processes end here (see `_end`).

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
    if node > 1 and place.startswith("cuda:"):
        raise ConfigError(f"device is '{place}', but there are {node} ranks on this machine; leave its number out")
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
    except BaseException as error:
        shown = _plain(error, rank)
        if backend == "nccl":
            _end(shown)
        # This closes the connections, and the other ranks notice.
        dist.destroy_process_group()
        if shown is error:
            raise
        raise shown from None
    dist.destroy_process_group()


def _plain(error: BaseException, rank: int) -> BaseException:
    """Return an error of the exchange between ranks as one for people, any other as it is."""
    if isinstance(error, RuntimeError) and not isinstance(error, StillroomError) and _is_lost_rank(error):
        return StillroomError(f"rank {rank}: another rank ended or cannot be reached: {_first_line(error)}")
    return error


def _end(error: BaseException) -> NoReturn:
    """Say what went wrong and end this process at once, without Python's own way out.

    With NCCL that way can take hours: leaving the group waits for work that is under way, an all-reduce that waits for
    this very rank; torchrun ends the others only after one has died.
    """
    status = 2 if isinstance(error, StillroomError | OSError) else 1
    if isinstance(error, KeyboardInterrupt):
        error, status = StillroomError("stopped; with --resume the same command goes on from the last checkpoint"), 130
    if isinstance(error, StillroomError | OSError):
        sys.stderr.write(f"stillroom: {printable(' '.join(str(error).split()))}\n")
    else:
        traceback.print_exception(error)
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error is of the exchange between ranks: torch's own kind, or of gloo, which has none."""
    return isinstance(error, dist.DistError) or LOST.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
