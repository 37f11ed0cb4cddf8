"""A cap on identical captions over the whole set: exact, in bounded memory, whatever order the shards were done in.

The pairs that pass every other rule are spread over files by a digest of their caption, so that equal captions meet in
one file; each file is sorted by itself and tells every pair how many equal ones came before it, in the data's order.
Digests have 128 bits: two different captions of a billion share one with a chance below 1e-20. White space is folded
(runs become one space, none at the ends); case and everything else count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillroom.artifacts import write_table, writing
from stillroom.data.reasons import ADVICE
from stillroom.filter.kept import read_tables
from stillroom.filter.rules import CAPTION_FREQUENCY
from stillroom.filter.whole_set import drop_pairs, part_files, part_path, replace_column, scatter

# Files that the pairs are spread over; one is sorted at a time, so memory is about 60 bytes x pairs / PARTS.
PARTS = 64
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("row", "<u4"), ("passes", "?")])
RANK = np.dtype([("shard", "<u4"), ("row", "<u4"), ("before", "<u4")])


def cap_captions(first: Sequence[Path], final: Sequence[Path], folder: Path, cap: int) -> int:
    """Write the shards' final verdicts from those of all other rules.

    Args:
        first: tables with the verdicts of all other rules, in the order of the data.
        final: where the same tables go with the cap applied; those that exist already are left alone.
        folder: for temporary files, about 50 bytes a pair.
        cap: how many pairs may share a caption.

    Returns:
        how many pairs the cap alone would drop, had no other rule been on.
    """
    with writing(folder):
        spread(read_tables(first), folder)
        alone = rank(folder, cap)
    for path, table in zip(final, capped(read_tables(first), folder, cap), strict=True):
        if not path.exists():
            write_table(path, table)
    return alone


def digest(caption: str) -> tuple[int, int]:
    """Return 128 bits of a caption, white space folded, as two unsigned integers."""
    raw = hashlib.blake2b(" ".join(caption.split()).encode(), digest_size=16).digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


def spread(tables: Iterable[pa.Table], folder: Path) -> None:
    """Write an entry for every usable pair of the shards' tables (in the data's order) to the part of its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    with part_files(folder, "entries", PARTS) as files:
        for index, table in enumerate(tables):
            entries = _entries(index, table)
            scatter(files, entries["high"] % PARTS, entries)


def _entries(index: int, table: pa.Table) -> np.ndarray:
    captions, reasons = table["caption"].to_pylist(), table["reasons"].to_pylist()
    rows = [row for row, why in enumerate(reasons) if not any(reason in ADVICE for reason in why)]
    entries = np.empty(len(rows), ENTRY)
    for place, row in enumerate(rows):
        entries[place] = (*digest(captions[row]), index, row, not reasons[row])
    return entries


def rank(folder: Path, cap: int) -> int:
    """Count equal captions in every part that `spread` wrote.

    Returns:
        how many pairs the cap alone would drop, had no other rule been on.
    """
    alone = 0
    for part in range(PARTS):
        entries = np.fromfile(part_path(folder, "entries", part), ENTRY)
        # The sort is stable, so equal captions stay in the order in which they were written: the data's.
        entries = entries[np.lexsort((entries["low"], entries["high"]))]
        alone += int((_before(entries) >= cap).sum())
        passing = entries[entries["passes"]]
        ranks = np.empty(len(passing), RANK)
        ranks["shard"], ranks["row"], ranks["before"] = passing["shard"], passing["row"], _before(passing)
        np.save(folder / f"{part}.npy", ranks[np.argsort(ranks["shard"], kind="stable")])
    return alone


def _before(entries: np.ndarray) -> np.ndarray:
    """How many entries with the same digest stand before each, entries sorted by digest: (n,) int64."""
    place = np.arange(len(entries))
    if not len(entries):
        return place
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    first = np.concatenate([[0], np.where(same, 0, place[1:])])
    return place - np.maximum.accumulate(first)


def capped(tables: Iterable[pa.Table], folder: Path, cap: int) -> Iterator[pa.Table]:
    """Yield each shard's table, `identical_before` filled in and the pairs over the cap dropped; after `rank`."""
    parts = [np.load(folder / f"{part}.npy", mmap_mode="r") for part in range(PARTS)]
    for index, table in enumerate(tables):
        before: list[int | None] = [None] * table.num_rows
        for ranks in parts:
            low, high = np.searchsorted(ranks["shard"], [index, index + 1])
            for row, count in zip(ranks["row"][low:high].tolist(), ranks["before"][low:high].tolist(), strict=True):
                before[row] = count
        over = [count is not None and count >= cap for count in before]
        yield replace_column(drop_pairs(table, over, CAPTION_FREQUENCY), "identical_before", before)
