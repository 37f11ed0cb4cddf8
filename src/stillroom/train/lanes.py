"""The order of training pairs as arithmetic: which slot of which shard stands where, from seed and position alone.

A slot is a usable pair of a shard. The epochs are laid out for a fixed number of lanes, whatever the number of ranks
and workers that serve them (the idea of the canonical nodes of MosaicML's streaming; the rest is our choice). An epoch
puts the shards in a random order and cuts the row of their slots into one contiguous range a lane, in proportion to the
lane's share of a batch. A lane is the endless row of its ranges, epoch after epoch; a step takes `share` slots from
each. So a shard may be cut between lanes, every slot is seen once an epoch, and a lane reads its shards from front to
back: what is random within a lane is the order within windows, which are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillroom.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Window:
    """Slots of one lane that are shuffled among themselves.

    Attributes:
        epoch: 0-based.
        pieces: (shard, first, stop): slots `first` to `stop` of a shard, in the order in which they are read.
        order: (n,) int64 permutation: the i-th slot to use is number `order[i]` of those read.
    """

    epoch: int
    pieces: tuple[tuple[int, int, int], ...]
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of all epochs.

    Attributes:
        counts: slots of each shard; N is their sum.
        batch_size: slots a step, over all ranks; at most N.
        lanes: at most `batch_size` of them are used.
        shuffle: slots that the windows of all lanes hold together.
        seed: 0 or more.
    """

    counts: tuple[int, ...]
    batch_size: int
    lanes: int
    shuffle: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.total:
            raise ConfigError(
                f"batch_size is {self.batch_size} but {self.total} pairs are left to train on; lower batch_size"
            )
        if self.lanes < 1:
            raise ConfigError(f"lanes is {self.lanes}; it must be at least 1")

    @cached_property
    def total(self) -> int:
        """N, the slots of an epoch."""
        return sum(self.counts)

    @cached_property
    def ends(self) -> list[int]:
        """Where each lane's part of a batch ends, after a 0: lane l has the places `ends[l]` to `ends[l + 1]`."""
        used = min(self.lanes, self.batch_size)
        base, rest = divmod(self.batch_size, used)
        return [lane * base + min(lane, rest) for lane in range(used + 1)]

    @property
    def shares(self) -> list[int]:
        """How many slots of a batch come from each lane; their sum is `batch_size`."""
        return [stop - start for start, stop in zip(self.ends, self.ends[1:], strict=False)]

    @property
    def window(self) -> int:
        """Slots of a lane's full window."""
        return max(1, self.shuffle // len(self.shares))

    def bounds(self, lane: int, epoch: int) -> tuple[int, int]:
        """Return the range of a lane in the epoch's row of N slots."""
        return self._cut(lane, epoch), self._cut(lane + 1, epoch)

    def _cut(self, lane: int, epoch: int) -> int:
        # Rounded over all epochs so far, not in each: otherwise a lane whose range is always rounded up would fall
        # behind the others, and after many epochs its pairs would have been seen less often.
        end = self.ends[lane]
        return (epoch + 1) * self.total * end // self.batch_size - epoch * self.total * end // self.batch_size

    def begin(self, lane: int, epoch: int) -> int:
        """Return the position in a lane at which an epoch begins."""
        low, high = self.ends[lane], self.ends[lane + 1]
        return epoch * self.total * high // self.batch_size - epoch * self.total * low // self.batch_size

    def locate(self, lane: int, position: int) -> tuple[int, int]:
        """Return the epoch of a position in a lane, and the offset in the lane's range."""
        # The estimate is never too high: a lane's range is at least its share, and `begin` is rounded by less than 1.
        epoch = max(0, position * self.batch_size // (self.total * self.shares[lane]) - 2)
        while self.begin(lane, epoch + 1) <= position:
            epoch += 1
        return epoch, position - self.begin(lane, epoch)

    def shard_order(self, epoch: int) -> np.ndarray:
        """Return the order of the shards in an epoch, (shards,) int64."""
        return np.random.default_rng([self.seed, epoch, 0, 0]).permutation(len(self.counts))

    def windows(self, lane: int, position: int) -> Iterator[tuple[Window, int]]:
        """Yield a lane's windows without end, from the one that holds `position`, and how many slots of it are used.

        That number is 0 for all but the first.
        """
        epoch, offset = self.locate(lane, position)
        while True:
            first, stop = self.bounds(lane, epoch)
            shards = self.shard_order(epoch)
            ends = np.asarray(self.counts, dtype=np.int64)[shards].cumsum()
            for number in range(offset // self.window, -(-(stop - first) // self.window)):
                low = first + number * self.window
                pieces = _pieces(shards, ends, low, min(low + self.window, stop))
                rng = np.random.default_rng([self.seed, epoch, 1 + lane, number])
                order = rng.permutation(sum(end - begin for _, begin, end in pieces))
                yield Window(epoch=epoch, pieces=pieces, order=order), max(0, offset - number * self.window)
                offset = 0
            epoch += 1


def _pieces(shards: np.ndarray, ends: np.ndarray, low: int, high: int) -> tuple[tuple[int, int, int], ...]:
    """Find slots `low` to `high` of an epoch's row in its shards, whose slots end at `ends` in the row."""
    pieces = []
    place = int(np.searchsorted(ends, low, side="right"))
    while low < high:
        begin = int(ends[place - 1]) if place else 0
        stop = min(high, int(ends[place]))
        if stop > low:
            pieces.append((int(shards[place]), low - begin, stop - begin))
        low, place = stop, place + 1
    return tuple(pieces)


def rank_lanes(lanes: int, rank: int, world: int) -> range:
    """Return the lanes that a rank of `world` serves: a contiguous block, as even as whole lanes allow.

    Raises:
        ConfigError: fewer lanes than ranks.
    """
    if lanes < world:
        raise ConfigError(
            f"{lanes} lanes of data cannot serve {world} ranks; set lanes to {world} or more, and batch_size too"
        )
    return range(rank * lanes // world, (rank + 1) * lanes // world)


def lane_warnings(lanes: int, world: int, workers: int) -> list[str]:
    """Say what a number of lanes costs that cannot be changed later, as it is part of the order; nothing if it fits.

    Args:
        lanes: that are used.
        world: number of ranks.
        workers: processes a rank that read a stream; 0 for pictures in memory.
    """
    said = []
    least, most = lanes // world, -(-lanes // world)
    if 0 < least < most:
        said.append(
            f"{lanes} lanes are shared out to {world} ranks: some take {most} lanes' pairs of each batch, others "
            f"{least}, and wait; set stream.lanes to a multiple of {world} in a new run"
        )
    if workers > most:
        said.append(
            f"{most} of {workers} workers a rank read and decode, one a lane; with {workers * world} lanes "
            "(stream.lanes, in a new run) all would"
        )
    return said
