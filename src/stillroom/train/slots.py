"""The usable pairs of a data set, its slots: which they are, and a count of them without their pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from stillroom.artifacts import open_stage
from stillroom.data import Shard, reasons
from stillroom.data.source import URL, ShardHead
from stillroom.data.tars import GZIP_MAGIC, TarShard
from stillroom.filter.kept import Kept, load_kept
from stillroom.parallel import map_unordered
from stillroom.progress import progress
from stillroom.records import Fault, ImageRef, Sample

log = logging.getLogger("stillroom")
Keep = Callable[[str, str], bool]
# From a shard's name to the keys that have labels.
Labelled = Callable[[str], Collection[str]]
# What ends a shard before its time.
DAMAGE = (reasons.SHARD_TRUNCATED, reasons.SHARD_UNREADABLE)
# Seconds before a shard that ended early is read again: a store may be away for a moment, a file handle be stale.
STORE_PAUSES = (1.0, 5.0, 20.0)
DISK_PAUSES = (0.0,)


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
        return key in self.keys(shard)

    def keys(self, shard: str) -> frozenset[str]:
        """Return the keys that are kept of a shard."""
        return _kept_keys(self.folder, shard)


# A lane comes back to its shard with each window.
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
        unlabelled: (shard, key of the first one, number) of slots without labels, for shards that have some.
    """

    counts: tuple[int, ...]
    direct: tuple[bool, ...]
    captions: list[str] | None = None
    faults: list[Fault] = field(default_factory=list)
    unlabelled: tuple[tuple[str, str, int], ...] = ()

    @property
    def total(self) -> int:
        """How many slots there are, the length of an epoch."""
        return sum(self.counts)

    @property
    def bare(self) -> SlotCounts:
        """The numbers alone: what grows with the pairs is not for every rank and worker."""
        return SlotCounts(counts=self.counts, direct=self.direct)


def count_slots(
    shards: Sequence[Shard],
    *,
    keep: Keep = keep_all,
    captions: bool = False,
    labelled: Labelled | None = None,
    workers: int = 1,
) -> SlotCounts:
    """Read every shard once without its pictures; those are found out to be broken when their turn comes.

    Args:
        shards: of the data set.
        keep: whether (shard, key) takes part; picklable with more than one worker.
        captions: also collect the distinct captions.
        labelled: also find the slots whose keys it does not have; picklable likewise.
        workers: processes; no result depends on them.
    """
    found: dict[int, _Count] = {}
    count = partial(_count_shard, keep=keep, captions=captions, labelled=labelled)
    pairs = 0
    with progress("count pairs", len(shards), "shards") as shown:
        for result in map_unordered(count, list(enumerate(shards)), workers):
            found[result.place] = result
            pairs += result.slots
            shown.advance(1, f"{pairs:,} pairs")
    results = [found[index] for index in range(len(shards))]
    _tell_damage(results, shards)
    distinct = dict.fromkeys(caption for result in results for caption in result.captions)
    return SlotCounts(
        counts=tuple(result.slots for result in results),
        direct=tuple(result.direct for result in results),
        captions=list(distinct) if captions else None,
        faults=[fault for result in results for fault in result.faults],
        unlabelled=tuple(
            (shard.name, result.unlabelled[0], len(result.unlabelled))
            for shard, result in zip(shards, results, strict=True)
            if result.unlabelled
        ),
    )


def counting_workers(cores: int, shards: int) -> int:
    """Return how many processes to count with: one takes two seconds to start, a shard of 10,000 pairs about one."""
    return max(1, min(cores, shards // 8))


class _Count(NamedTuple):
    place: int
    slots: int
    direct: bool
    captions: list[str]
    faults: list[Fault]
    unlabelled: list[str]


def _tell_damage(results: Sequence[_Count], shards: Sequence[Shard]) -> None:
    """What is not counted now is left out for the whole run, and should not be so without a word."""
    damaged = [fault for result in results for fault in result.faults if fault.reason in DAMAGE]
    if damaged:
        log.warning(
            "%d of %d shards cannot be read to their end; what is missing is left out of the whole run, e.g. %s",
            len({fault.shard for fault in damaged}),
            len(shards),
            damaged[0].detail,
        )


def _count_shard(
    numbered: tuple[int, Shard], *, keep: Keep, captions: bool, labelled: Labelled | None = None
) -> _Count:
    index, shard = numbered
    for pause in (0.0, *(STORE_PAUSES if is_remote(shard) else ())):
        time.sleep(pause)
        samples: list[tuple[str, str]] = []
        faults: list[Fault] = []
        direct = False
        for item in usable(shard, keep, images=False):
            if isinstance(item, Fault):
                faults.append(item)
                continue
            if not samples:
                assert item.image_ref is not None
                direct = _is_direct(item.image_ref)
            samples.append((item.key, one_line(item.caption) if captions else ""))
        if not any(fault.reason in DAMAGE for fault in faults):
            break
    has = labelled(shard.name) if labelled is not None and samples else None
    return _Count(
        place=index,
        slots=len(samples),
        direct=direct,
        captions=list(dict.fromkeys(caption for _, caption in samples)) if captions else [],
        faults=faults,
        unlabelled=[] if has is None else [key for key, _ in samples if key not in has],
    )


def is_remote(shard: Shard) -> bool:
    """Whether a shard is read over a network."""
    whole = shard.shard if isinstance(shard, ShardHead) else shard
    return isinstance(whole, TarShard) and URL.match(whole.url) is not None


def one_line(caption: str) -> str:
    """Return a caption with every run of white space as one space."""
    return " ".join(caption.split())


def usable(shard: Shard, keep: Keep, *, images: bool) -> Iterator[Sample | Fault]:
    """Yield a shard's slots in order, and its faults; a kept pair with an empty caption is one."""
    # Many shards are read in turns, one a lane: each holds its own keys as long as it is read.
    kept = keep.keys(shard.name) if isinstance(keep, KeepSet) else None
    for item in shard.samples(images=images):
        if isinstance(item, Fault):
            yield item
        elif item.key in kept if kept is not None else keep(item.shard, item.key):
            if item.caption and not item.caption.isspace():
                yield item
            else:
                yield Fault(shard=item.shard, key=item.key, reason=reasons.CAPTION_EMPTY)


def counted_slots(shard: Shard, keep: Keep, counted: int, *, images: bool) -> Iterator[Sample | Fault]:
    """Yield the slots of a shard that was counted, in order, then a fault if there are fewer now.

    A shard that ends early is read again, from where it ended, after a pause if it comes over a network.
    """
    found = 0
    damage: Fault | None = None
    for pause in (0.0, *(STORE_PAUSES if is_remote(shard) else DISK_PAUSES)):
        time.sleep(pause)
        slot, damage = 0, None
        for item in usable(shard, keep, images=images):
            if isinstance(item, Fault):
                damage = item if item.reason in DAMAGE else damage
                continue
            slot += 1
            if slot > found:
                found = slot
                yield item
            if found == counted:
                return
    yield _lost(shard.name, found, counted, damage)


def _lost(name: str, found: int, counted: int, damage: Fault | None) -> Fault:
    """Say that a shard, read again, ends before all that was counted; the rest of its slots stays empty."""
    detail = f"{found:,} of {counted:,} pairs were found when it was read again, {counted - found:,} are lost"
    if damage is None:
        return Fault(shard=name, key="", reason=reasons.SHARD_TRUNCATED, detail=detail)
    return Fault(shard=name, key=damage.key, reason=damage.reason, detail=f"{damage.detail}; {detail}")


def tell_lost(faults: Sequence[Fault], told: set[str]) -> None:
    """Warn of shards that ended before all that was counted, each once; their names are added to `told`."""
    for fault in faults:
        if fault.reason in DAMAGE and fault.shard not in told:
            told.add(fault.shard)
            log.warning("%s: %s", fault.shard, fault.detail)


def _is_direct(ref: ImageRef) -> bool:
    """Whether to seek is cheap: a local file that is not packed."""
    if URL.match(ref.url):
        return False
    if ref.size is None:
        return True
    try:
        with open(ref.url, "rb") as file:
            return file.read(len(GZIP_MAGIC)) != GZIP_MAGIC
    except OSError:
        return False
