"""Batches from pictures, or features of them, that are all held in memory; the order is the stream's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from stillroom.data import Shard
from stillroom.data.images import ImageError
from stillroom.progress import progress
from stillroom.records import Fault, Sample
from stillroom.train.batch import Batch
from stillroom.train.lanes import Order, rank_lanes
from stillroom.train.slots import Keep, SlotCounts, one_line, usable

CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class MemorySource:
    """A rank's share of the batches of a run; made by `read_pictures`.

    Attributes:
        shards: shard name of each of n usable pairs.
        keys: key of each.
        captions: with white space folded.
        pictures: (n, S, S, 3) uint8, or (n, F) float16.
        rows: (N,) int64, from slot to row; -1 where the slot's picture is broken.
        order: of the slots.
        rank: of this process.
        world: number of ranks.
        faults: pairs whose pictures are broken.
    """

    shards: list[str]
    keys: list[str]
    captions: list[str]
    pictures: np.ndarray
    rows: np.ndarray
    order: Order
    rank: int = 0
    world: int = 1
    faults: tuple[Fault, ...] = ()

    def batches(self, start: int, stop: int) -> Iterator[tuple[Batch, list[Fault]]]:
        """Yield this rank's share of steps `start` to `stop` (0-based); faults come with the first."""
        faults = list(self.faults)
        lanes = rank_lanes(len(self.order.shares), self.rank, self.world)
        for slots, positions in step_slots(self.order, lanes, start, stop):
            rows = self.rows[slots]
            positions, rows = positions[rows >= 0], rows[rows >= 0]
            batch = Batch(
                shards=[self.shards[row] for row in rows],
                keys=[self.keys[row] for row in rows],
                captions=[self.captions[row] for row in rows],
                pictures=self.pictures[rows],
                positions=positions,
            )
            yield batch, faults
            faults = []


def step_slots(order: Order, lanes: Sequence[int], start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the slots that some lanes give to each step, numbered through all shards, and their places in the batch."""
    begins = np.concatenate([[0], np.cumsum(order.counts)])
    readers = [_lane_slots(order, begins, lane, start * order.shares[lane]) for lane in lanes]
    positions = np.concatenate([np.arange(order.ends[lane], order.ends[lane + 1]) for lane in lanes])
    for _ in range(start, stop):
        slots = [
            number for lane, reader in zip(lanes, readers, strict=True) for number in islice(reader, order.shares[lane])
        ]
        yield np.array(slots, dtype=np.int64), positions


def _lane_slots(order: Order, begins: np.ndarray, lane: int, position: int) -> Iterator[int]:
    for window, used in order.windows(lane, position):
        slots = np.concatenate([np.arange(first, stop) + begins[shard] for shard, first, stop in window.pieces])
        yield from slots[window.order][used:].tolist()


def read_pictures(
    shards: Sequence[Shard],
    counted: SlotCounts,
    order: Order,
    *,
    keep: Keep,
    to_pixels: Callable[[bytes], np.ndarray],
    pool: Executor,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
    rank: int = 0,
    world: int = 1,
) -> MemorySource:
    """Read and decode every picture once.

    Args:
        shards: of the data set.
        counted: `count_slots` of them.
        order: of the slots.
        keep: as it was for `count_slots`.
        to_pixels: from encoded bytes to (S, S, 3) uint8; raises `ImageError`.
        pool: threads that decode; results do not depend on how many there are.
        encode: from (B, S, S, 3) uint8 to (B, F) float16, kept instead of the pictures.
        rank: of this process.
        world: number of ranks.
    """
    names: list[str] = []
    keys: list[str] = []
    captions: list[str] = []
    blocks: list[np.ndarray] = []
    faults: list[Fault] = []
    rows = np.full(order.total, -1, dtype=np.int64)
    begin = 0
    with progress("read pairs", order.total) as shown:
        for shard, count in zip(shards, counted.counts, strict=True):
            found = (item for item in usable(shard, keep, images=True) if isinstance(item, Sample))
            slots = enumerate(islice(found, count), begin)
            while chunk := list(islice(slots, CHUNK)):
                good = []
                for (slot, sample), picture in zip(
                    chunk, pool.map(lambda s: _decode(s[1], to_pixels), chunk), strict=True
                ):
                    if isinstance(picture, Fault):
                        faults.append(picture)
                        continue
                    rows[slot] = len(keys)
                    names.append(sample.shard)
                    keys.append(sample.key)
                    captions.append(one_line(sample.caption))
                    good.append(picture)
                if good:
                    block = np.stack(good)
                    blocks.append(block if encode is None else encode(block))
                shown.advance(len(chunk))
            begin += count
    return MemorySource(
        shards=names,
        keys=keys,
        captions=captions,
        pictures=np.concatenate(blocks) if blocks else np.zeros((0, 1, 1, 3), np.uint8),
        rows=rows,
        order=order,
        rank=rank,
        world=world,
        faults=tuple(faults),
    )


def _decode(sample: Sample, to_pixels: Callable[[bytes], np.ndarray]) -> np.ndarray | Fault:
    assert sample.image is not None
    try:
        return to_pixels(sample.image)
    except ImageError as error:
        return Fault(shard=sample.shard, key=sample.key, reason=error.reason, detail=str(error))
