"""Slots read lane by lane, each lane from the front to the back of its shards, and decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from stillroom.data import Shard, reasons
from stillroom.data.images import ImageError
from stillroom.records import Fault, ImageRef, Sample
from stillroom.train.lanes import Order, Window
from stillroom.train.slots import Keep, SlotCounts, counted_slots, one_line


class Encoded(NamedTuple):
    """A pair with its picture as it lies in the data."""

    shard: str
    key: str
    caption: str
    image: bytes


class ShardCursor:
    """Reads slots of shards in rising order, with one shard open; a lane's place in the data.

    Args:
        shards: of the data set.
        slots: what was counted.
        keep: as it was when they were counted.
    """

    def __init__(self, shards: Sequence[Shard], slots: SlotCounts, keep: Keep) -> None:
        self._shards, self._slots, self._keep = shards, slots, keep
        self._shard, self._next = -1, 0
        self._samples: Iterator[Sample | Fault] = iter(())
        self._ended = False
        self._file: IO[bytes] | None = None

    def read(self, window: Window) -> Iterator[Encoded | Fault | None]:
        """Yield what the slots of a window hold: a pair, why there is none, or None where a fault before said so."""
        for shard, first, stop in window.pieces:
            if shard != self._shard or first < self._next:
                self._open(shard)
            for slot in range(first, stop):
                yield self._slot(slot)

    def _open(self, shard: int) -> None:
        self._close_file()
        self._shard, self._next, self._ended = shard, 0, False
        # Where pictures can be read out of turn, those that are passed over are not read at all.
        self._samples = counted_slots(
            self._shards[shard], self._keep, self._slots.counts[shard], images=not self._slots.direct[shard]
        )

    def _slot(self, slot: int) -> Encoded | Fault | None:
        if self._ended:
            return None
        for item in self._samples:
            if isinstance(item, Fault):
                self._ended = True
                return item
            self._next += 1
            if self._next > slot:
                return self._encoded(item)
        raise AssertionError("counted_slots ends with the last slot or a fault")

    def _encoded(self, sample: Sample) -> Encoded | Fault:
        try:
            data = sample.image if sample.image is not None else self._picture(sample.image_ref)
        except OSError as error:
            return Fault(shard=sample.shard, key=sample.key, reason=reasons.IMAGE_MISSING, detail=str(error))
        return Encoded(sample.shard, sample.key, one_line(sample.caption), data)

    def _picture(self, ref: ImageRef | None) -> bytes:
        assert ref is not None
        try:
            return self._read_picture(ref)
        except OSError:  # on a network's disk a file handle can grow stale
            self._close_file()
            return self._read_picture(ref)

    def _read_picture(self, ref: ImageRef) -> bytes:
        if ref.size is None:
            return Path(ref.url).read_bytes()
        if self._file is None:
            self._file = open(ref.url, "rb")  # noqa: SIM115 - it stays open as long as the shard
        self._file.seek(ref.offset)
        return self._file.read(ref.size)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def read_lane(order: Order, lane: int, position: int, cursor: ShardCursor) -> Iterator[Encoded | Fault | None]:
    """Yield a lane's slots from `position` on, without end.

    The next window is read slot by slot while the current one is used up, so that reading goes on evenly and the two
    hold about one window together.
    """
    windows = order.windows(lane, position)
    window, used = next(windows)
    held = list(cursor.read(window))
    while True:
        following, _ = next(windows)
        reading = cursor.read(following)
        ahead: list[Encoded | Fault | None] = []
        for place in range(used, len(window)):
            missing, turns = len(following) - len(ahead), len(window) - place
            ahead += islice(reading, -(-missing // turns))
            index = window.order[place]
            item, held[index] = held[index], None
            yield item
        window, held, used = following, ahead, 0


@dataclass
class LaneRows:
    """What one lane gives to one step, beside the pictures; `positions` are places in the batch of all ranks."""

    shards: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def decode_slots(
    slots: Iterable[Encoded | Fault | None],
    first: int,
    to_pixels: Callable[[bytes], np.ndarray],
    pictures: list[np.ndarray],
) -> LaneRows:
    """Decode a lane's slots of one step, appending to `pictures`; broken ones become faults.

    Args:
        slots: as read, as many as the lane's share.
        first: place of the first in the step's batch.
        to_pixels: from encoded bytes to an array; raises `ImageError`.
        pictures: of the lanes so far.
    """
    rows = LaneRows()
    for place, slot in enumerate(slots, first):
        if isinstance(slot, Fault):
            rows.faults.append(slot)
        elif slot is not None:
            try:
                pictures.append(to_pixels(slot.image))
            except ImageError as error:
                rows.faults.append(Fault(shard=slot.shard, key=slot.key, reason=error.reason, detail=str(error)))
                continue
            rows.shards.append(slot.shard)
            rows.keys.append(slot.key)
            rows.captions.append(slot.caption)
            rows.positions.append(place)
    return rows
