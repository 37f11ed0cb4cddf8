"""Batches from shards that need not fit in memory: decoded in worker processes, in an order that knows none of them.

Lanes (`stillroom.train.lanes`) are shared out to ranks, and a rank's lanes to its workers. A worker gives, step by
step, the decoded pictures of its lanes; the main process puts the lanes of a step together in their order.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stillroom.data import Shard
from stillroom.errors import ConfigError, StillroomError
from stillroom.records import Fault
from stillroom.train.batch import Batch
from stillroom.train.lanes import Order, rank_lanes
from stillroom.train.slots import Keep, SlotCounts, keep_all, tell_lost
from stillroom.train.stream_reader import LaneRows, ShardCursor, decode_slots, read_lane

# Steps that a worker decodes ahead: two cover a slow one, each costs a batch of decoded pictures.
PREFETCH = 2
DEAD = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)")


@dataclass(frozen=True, kw_only=True)
class ShardStream:
    """A rank's share of the batches of a run; everything in it must be picklable where `workers` is above 0.

    Attributes:
        shards: of the data set.
        slots: `count_slots` of them.
        to_pixels: from encoded bytes to (S, S, 3) uint8, always the same S; raises `ImageError`.
        keep: as it was for `count_slots`.
        batch_size: pairs of a step over all ranks.
        lanes: streams that a batch is put together from; part of the order, so equal for equal runs.
        shuffle: encoded pairs held in memory over all ranks, among which the order is random.
        seed: of the order.
        workers: processes that read and decode, at most one a lane; 0 does it in this process.
        rank: of this process.
        world: number of ranks.

    Raises:
        ConfigError: fewer slots than a batch takes, or fewer lanes than ranks.
    """

    shards: Sequence[Shard]
    slots: SlotCounts
    to_pixels: Callable[[bytes], np.ndarray]
    keep: Keep = keep_all
    batch_size: int
    lanes: int = 8
    shuffle: int = 16_384
    seed: int = 0
    workers: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; it must be 0 or more")
        _ = self.own_lanes

    @cached_property
    def order(self) -> Order:
        """Which slots each step takes."""
        return Order(
            counts=self.slots.counts,
            batch_size=self.batch_size,
            lanes=self.lanes,
            shuffle=self.shuffle,
            seed=self.seed,
        )

    @cached_property
    def own_lanes(self) -> range:
        """The lanes of this rank."""
        return rank_lanes(len(self.order.shares), self.rank, self.world)

    def batches(self, start: int, stop: int) -> Iterator[tuple[Batch, list[Fault]]]:
        """Yield this rank's share of steps `start` to `stop` (0-based), and why pairs are missing from it.

        A batch is smaller where slots turned out broken. What a step holds does not depend on `start`, `workers`,
        `rank` or `world`: the shares of all ranks, one after the other, are the batch of a single process.

        Raises:
            StillroomError: a worker process died.
        """
        told: set[str] = set()
        for batch, faults in self._batches(start, stop):
            tell_lost(faults, told)
            yield batch, faults

    def _batches(self, start: int, stop: int) -> Iterator[tuple[Batch, list[Fault]]]:
        workers = min(self.workers, len(self.own_lanes))
        if workers == 0:
            for item in lane_items(self, self.own_lanes, start, stop):
                yield _merge([item])
            return
        # Captions and faults of all pairs are not for every worker.
        loader = _start_loader(LaneDataset(replace(self, slots=self.slots.bare), start, stop), workers)
        try:
            while items := list(islice(loader, workers)):
                yield _merge([_received(item) for item in items])
            return
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            if not _tells_death(error):
                raise
        finally:
            # Ends the workers that are left. For the same reason the error below is raised where it has no context:
            # the loader's own error would hold the loader.
            del loader
        raise StillroomError(
            "a worker process that decodes pictures died (killed, out of memory, or /dev/shm is full); "
            "run again to go on, with fewer workers or a smaller shuffle"
        )


# The rows of some lanes of a step, and the pictures of all of them, (n, S, S, 3) uint8.
Item = tuple[list[LaneRows], np.ndarray]


def lane_items(stream: ShardStream, lanes: Sequence[int], start: int, stop: int) -> Iterator[Item]:
    """Yield what some lanes give to each step from `start` to `stop`."""
    shares, ends = stream.order.shares, stream.order.ends
    readers = [
        read_lane(stream.order, lane, start * shares[lane], ShardCursor(stream.shards, stream.slots, stream.keep))
        for lane in lanes
    ]
    for _ in range(start, stop):
        pictures: list[np.ndarray] = []
        rows = [
            decode_slots(islice(reader, shares[lane]), ends[lane], stream.to_pixels, pictures)
            for lane, reader in zip(lanes, readers, strict=True)
        ]
        yield rows, np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)


def _merge(items: Sequence[Item]) -> tuple[Batch, list[Fault]]:
    """Put a step together from its workers' items: the j-th lane is number j // n of item j % n."""
    count, used = len(items), [0] * len(items)
    lanes: list[LaneRows] = []
    parts: list[np.ndarray] = []
    for number in range(sum(len(rows) for rows, _ in items)):
        rows, pictures = items[number % count]
        lane, first = rows[number // count], used[number % count]
        used[number % count] += len(lane.keys)
        lanes.append(lane)
        if lane.keys:
            parts.append(pictures[first : first + len(lane.keys)])
    batch = Batch(
        shards=[name for lane in lanes for name in lane.shards],
        keys=[key for lane in lanes for key in lane.keys],
        captions=[caption for lane in lanes for caption in lane.captions],
        # One worker's pictures are in order as they are; not to copy them saves a pass over the batch.
        pictures=np.concatenate(parts) if count > 1 and parts else items[0][1],
        positions=np.array([place for lane in lanes for place in lane.positions], dtype=np.int64),
    )
    return batch, [fault for lane in lanes for fault in lane.faults]


class LaneDataset(IterableDataset):
    """A rank's lanes for the workers of a `DataLoader`: of n, worker w serves lanes w, w + n, ..., an item a step."""

    def __init__(self, stream: ShardStream, start: int, stop: int) -> None:
        self.stream, self.start, self.stop = stream, start, stop

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor] | StillroomError]:
        worker = get_worker_info()
        assert worker is not None
        lanes = self.stream.own_lanes[worker.id :: worker.num_workers]
        try:
            for rows, pictures in lane_items(self.stream, lanes, self.start, self.stop):
                # Tensors lie in shared memory, so what goes through the pipe stays below the size that is written at
                # once: a worker that is killed cannot leave half a message that the main process waits on for ever.
                # There are two of them, each with a file descriptor, for all lanes and fields.
                yield torch.frombuffer(bytearray(pickle.dumps(rows)), dtype=torch.uint8), torch.from_numpy(pictures)
        except StillroomError as error:
            # Raised here, it would reach the main process as a traceback in a message.
            yield error


def _received(item: tuple[torch.Tensor, torch.Tensor] | StillroomError) -> Item:
    if isinstance(item, StillroomError):
        raise item
    rows, pictures = item
    return pickle.loads(rows.numpy().tobytes()), pictures.numpy()


def _tells_death(error: Exception) -> bool:
    """Whether an error of the loader means that a worker is gone."""
    if str(error).startswith("Caught "):  # how the loader begins what was raised within a worker
        return False
    # Shared memory is fetched from the worker that made it; where that was killed, the connection fails.
    return not isinstance(error, RuntimeError) or DEAD.search(str(error)) is not None


def _start_loader(dataset: LaneDataset, workers: int) -> Iterator[Any]:
    # The main process has threads (torch, a GPU's driver), so it must not be forked. A fork server has none, and
    # imports torch once for all workers instead of once for each.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    with _interrupts_blocked(), warnings.catch_warnings():
        # How many workers there are is for whoever set the number; torch compares it with the cores.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=PREFETCH,
            multiprocessing_context=context,
            worker_init_fn=_start_worker,
        )
        return iter(loader)


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the workers too; the main process says what there is to say and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # torch's own watch is on the process that forked the worker. That is the fork server, which lives as long as any
    # worker does, so both would outlive a main process that was killed.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: they inherit that, and have no traceback to print while they import."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Started within, the tracker would let Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
