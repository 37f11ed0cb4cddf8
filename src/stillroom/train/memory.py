"""Batches from pictures, or features of them, that are all held in memory; the order is the stream's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from stillroom.data import Shard
from stillroom.data.images import ImageError
from stillroom.progress import progress
from stillroom.records import Fault, Sample
from stillroom.train.batch import Batch
from stillroom.train.lanes import Order, rank_lanes
from stillroom.train.slots import Keep, SlotCounts, counted_slots, one_line
from stillroom.train.stored import FeatureCache, content_ids

CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class MemorySource:
    """A rank's share of the batches of a run; made by `read_pictures` or `read_features`.

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
        rank: of this process.
        world: number of ranks.
    """

    def decode(samples: list[Sample]) -> list[np.ndarray | Fault]:
        return list(pool.map(lambda sample: _decode(sample, to_pixels), samples))

    found = _read(shards, counted, order, keep, decode)
    pixels = np.stack(found.values) if found.values else np.zeros((0, 1, 1, 3), np.uint8)
    return found.source(pixels, order, rank, world)


def read_features(
    shards: Sequence[Shard],
    counted: SlotCounts,
    order: Order,
    *,
    keep: Keep,
    to_pixels: Callable[[bytes], np.ndarray],
    pool: Executor,
    encode: Callable[[np.ndarray], np.ndarray],
    cache: FeatureCache,
    rank: int = 0,
    world: int = 1,
) -> MemorySource:
    """Read every picture once and encode those whose features are not known.

    Args:
        shards: of the data set.
        counted: `count_slots` of them.
        order: of the slots.
        keep: as it was for `count_slots`.
        to_pixels: from encoded bytes to (S, S, 3) uint8; raises `ImageError`.
        pool: threads that decode.
        encode: from pictures (B, S, S, 3) uint8 to features (B, F) float16.
        cache: of features by the pictures' encoded bytes.
        rank: of this process.
        world: number of ranks.
    """

    def encoded(samples: list[Sample]) -> list[np.int64 | Fault]:
        ids = content_ids(sample.image or b"" for sample in samples)
        results: list[np.int64 | Fault] = list(ids)
        missing = cache.missing(ids)
        pixels = list(pool.map(lambda place: _decode(samples[place], to_pixels), missing))
        good = [
            (place, picture) for place, picture in zip(missing, pixels, strict=True) if isinstance(picture, np.ndarray)
        ]
        if good:
            cache.add(ids[[place for place, _ in good]], encode(np.stack([picture for _, picture in good])))
        for place, picture in zip(missing, pixels, strict=True):
            if isinstance(picture, Fault):
                results[place] = picture
        return results

    found = _read(shards, counted, order, keep, encoded)
    if not found.values:
        return found.source(np.zeros((0, 1), np.float16), order, rank, world)
    return found.source(cache.save().rows(np.array(found.values)), order, rank, world)


@dataclass(kw_only=True)
class _Found:
    """Pairs in the order of their slots: `values` are what stands for the pictures."""

    rows: np.ndarray
    shards: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def source(self, pictures: np.ndarray, order: Order, rank: int, world: int) -> MemorySource:
        return MemorySource(
            shards=self.shards,
            keys=self.keys,
            captions=self.captions,
            pictures=pictures,
            rows=self.rows,
            order=order,
            rank=rank,
            world=world,
            faults=tuple(self.faults),
        )


def _read(
    shards: Sequence[Shard],
    counted: SlotCounts,
    order: Order,
    keep: Keep,
    load: Callable[[list[Sample]], Sequence[Any]],
) -> _Found:
    """Read every slot; `load` gives, for each sample of a chunk, what stands for its picture, or a fault."""
    found = _Found(rows=np.full(order.total, -1, dtype=np.int64))
    begin = 0
    with progress("read pairs", order.total) as shown:
        for shard, count in zip(shards, counted.counts, strict=True):
            items = counted_slots(shard, keep, count, images=True) if count else iter(())
            slots = enumerate(_without_faults(items, found.faults), begin)
            while chunk := list(islice(slots, CHUNK)):
                for (slot, sample), value in zip(chunk, load([sample for _, sample in chunk]), strict=True):
                    if isinstance(value, Fault):
                        found.faults.append(value)
                        continue
                    found.rows[slot] = len(found.keys)
                    found.shards.append(sample.shard)
                    found.keys.append(sample.key)
                    found.captions.append(one_line(sample.caption))
                    found.values.append(value)
                shown.advance(len(chunk))
            begin += count
    return found


def _without_faults(items: Iterable[Sample | Fault], faults: list[Fault]) -> Iterator[Sample]:
    for item in items:
        if isinstance(item, Fault):
            faults.append(item)
        else:
            yield item


def _decode(sample: Sample, to_pixels: Callable[[bytes], np.ndarray]) -> np.ndarray | Fault:
    assert sample.image is not None
    try:
        return to_pixels(sample.image)
    except ImageError as error:
        return Fault(shard=sample.shard, key=sample.key, reason=error.reason, detail=str(error))
