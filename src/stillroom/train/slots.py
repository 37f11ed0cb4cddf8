"""The usable pairs of a data set, its slots: which they are, and a count of them without their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from stillroom.artifacts import open_stage
from stillroom.data import Shard, reasons
from stillroom.data.source import URL
from stillroom.data.tars import GZIP_MAGIC
from stillroom.filter.kept import Kept, load_kept
from stillroom.parallel import map_unordered
from stillroom.progress import progress
from stillroom.records import Fault, ImageRef, Sample

Keep = Callable[[str, str], bool]


def keep_all(shard: str, key: str) -> bool:
    """Keep every pair; a function by name, so that it can be sent to workers."""
    return True


@dataclass(frozen=True)
class KeepSet:
    """Whether a filter output keeps (shard, key); only the folder's path is sent to workers. Made by `open`."""

    folder: str

    @classmethod
    def open(cls, folder: Path, shards: Sequence[str]) -> KeepSet:
        """Open what `stillroom filter` wrote for data with these shards; raises `ArtifactError`."""
        load_kept(folder, shards)
        return cls(str(folder.resolve()))

    def __call__(self, shard: str, key: str) -> bool:
        """Return whether the pair is kept."""
        return key in _kept_keys(self.folder, shard)


# A worker reads a few shards at a time, one a lane, and comes back to each many times.
@lru_cache(maxsize=32)
def _kept_keys(folder: str, shard: str) -> frozenset[str]:
    return _open_kept(folder).keys(shard)


@lru_cache(maxsize=4)
def _open_kept(folder: str) -> Kept:
    return Kept(output=open_stage(Path(folder), "filter"))


@dataclass(frozen=True, kw_only=True)
class SlotCounts:
    """What `count_slots` found; S shards.

    Attributes:
        counts: (S) slots of each shard: kept pairs with a caption and without a fault.
        direct: (S) whether the shard's pictures can be read at the place where they lie, out of turn.
        captions: the distinct captions in the order of the data, white space normalised; None where not asked for.
        faults: pairs, or rests of shards, that cannot be used.
    """

    counts: tuple[int, ...]
    direct: tuple[bool, ...]
    captions: list[str] | None
    faults: list[Fault]

    @property
    def total(self) -> int:
        """How many slots there are, the length of an epoch."""
        return sum(self.counts)


def count_slots(
    shards: Sequence[Shard], *, keep: Keep = keep_all, captions: bool = False, workers: int = 1
) -> SlotCounts:
    """Read every shard once without its pictures; those are found out to be broken when their turn comes.

    Args:
        shards: of the data set.
        keep: whether (shard, key) takes part; picklable with more than one worker.
        captions: also collect the distinct captions.
        workers: processes; no result depends on them.
    """
    found: dict[int, _Count] = {}
    count = partial(_count_shard, keep=keep, captions=captions)
    with progress("count pairs") as shown:
        for result in map_unordered(count, list(enumerate(shards)), workers):
            found[result.place] = result
            shown.advance(result.slots)
    results = [found[index] for index in range(len(shards))]
    distinct = dict.fromkeys(caption for result in results for caption in result.captions)
    return SlotCounts(
        counts=tuple(result.slots for result in results),
        direct=tuple(result.direct for result in results),
        captions=list(distinct) if captions else None,
        faults=[fault for result in results for fault in result.faults],
    )


class _Count(NamedTuple):
    place: int
    slots: int
    direct: bool
    captions: list[str]
    faults: list[Fault]


def _count_shard(numbered: tuple[int, Shard], *, keep: Keep, captions: bool) -> _Count:
    index, shard = numbered
    count, direct, faults = 0, False, []
    distinct: dict[str, None] = {}
    for item in usable(shard, keep, images=False):
        if isinstance(item, Fault):
            faults.append(item)
            continue
        if not count:
            assert item.image_ref is not None
            direct = _is_direct(item.image_ref)
        count += 1
        if captions:
            distinct[one_line(item.caption)] = None
    return _Count(index, count, direct, list(distinct), faults)


def one_line(caption: str) -> str:
    """Return a caption with every run of white space as one space."""
    return " ".join(caption.split())


def usable(shard: Shard, keep: Keep, *, images: bool) -> Iterator[Sample | Fault]:
    """Yield a shard's slots in order, and its faults; a kept pair with an empty caption is one."""
    for item in shard.samples(images=images):
        if isinstance(item, Fault):
            yield item
        elif keep(item.shard, item.key):
            if item.caption and not item.caption.isspace():
                yield item
            else:
                yield Fault(shard=item.shard, key=item.key, reason=reasons.CAPTION_EMPTY)


def _is_direct(ref: ImageRef) -> bool:
    """Whether to seek is cheap: a local file that is not packed."""
    if URL.match(ref.url):
        return False
    if ref.size is None:
        return True
    with open(ref.url, "rb") as file:
        return file.read(len(GZIP_MAGIC)) != GZIP_MAGIC
