"""Near-duplicate pictures over the whole set: exact, in bounded memory, whatever order the shards were done in.

A pair is dropped if an earlier pair that passes all other rules has a picture whose hash differs in at most `distance`
bits. The earlier pair counts whether or not it is dropped itself. Of a chain a, b, c in which only neighbours are near,
b goes because of a, and c because of b, although a and c differ more. Comparing with kept pairs only would keep c; but
then verdicts hang on verdicts, all the way back, and a larger distance can keep a pair that a smaller one drops. Here
each verdict stands for itself, and a larger distance never keeps more. In both, no two kept pairs are near each other.

How: entries go to files by their hash; equal hashes are merged and keep their first place in the data, so that a
million blank pictures count as one. For each mask of `stillroom.filter.hamming` the different hashes go to files by the
masked bits and are compared file by file. What was found goes back to the file of its hash, where every pair looks its
own hash up. One file is in memory at a time, at about 200 bytes an entry: `PART_ENTRIES` of them, more only beyond
`MAX_PARTS` x `PART_ENTRIES` pairs. What is not bounded is a file of hashes that are different and yet agree on a mask,
which no hash of real pictures leads to. Temporary files take about 100 bytes a pair.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillroom.artifacts import write_table, writing
from stillroom.data.reasons import ADVICE
from stillroom.filter.hamming import agreement_masks, earliest_near
from stillroom.filter.kept import read_tables
from stillroom.filter.rules import NEAR_DUPLICATE
from stillroom.filter.whole_set import drop_pairs, part_files, part_path, replace_column, scatter

PART_ENTRIES, MAX_PARTS = 2**17, 256
# A pair's place in the data is one number: that of its shard in the upper 32 bits, that of its row in the lower.
ENTRY = np.dtype([("hash", "<u8"), ("place", "<u8"), ("passes", "?")])
NEVER = np.uint64(2**64 - 1)  # the first place of a hash that no passing pair has
ROW_BITS = np.uint64(32)
NAMED = pa.schema([("place", pa.uint64()), ("near_duplicate_of", pa.string())])

Numbers = NDArray[np.uint64]


def mark_near_duplicates(
    first: Sequence[Path], final: Sequence[Path], folder: Path, *, names: Sequence[str], distance: int
) -> int:
    """Write the shards' verdicts with near-duplicates dropped, from those of the rules before.

    Args:
        first: tables with the verdicts so far, in the order of the data.
        final: where the same tables go; those that exist already are left alone.
        folder: for temporary files; what is there is deleted, at the end as well.
        names: the shards' names, for `near_duplicate_of`: the earliest near pair, as SHARD/KEY.
        distance: in how many of the 64 bits two near hashes may differ, 0 to 8.

    Returns:
        how many pairs the rule would drop had no other been on; pairs without a hash, as they were not reached, do not
        count.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
        rows = sum(pq.read_metadata(path).num_rows for path in first)
        parts = min(max(1, -(-rows // PART_ENTRIES)), MAX_PARTS)
        spread(first, folder, parts)
        different = sum(merge_equal(folder, part) for part in range(parts))
        search(folder, parts, agreement_masks(distance, different), distance)
        alone = look_up(folder, parts, len(first))
        name_originals(first, names, folder, parts)
    for part in range(parts):
        write_final(first, final, folder, part=part, parts=parts)
    shutil.rmtree(folder)
    return alone


def spread(tables: Sequence[Path], folder: Path, parts: int) -> None:
    """Write an entry for every pair that has a hash and no fault to the part of its hash."""
    with part_files(folder, "entries", parts) as files:
        for shard, table in enumerate(read_tables(tables, ["picture_hash", "reasons"])):
            entries = _entries(shard, table)
            scatter(files, part_of(entries["hash"], parts), entries)


def _entries(shard: int, table: pa.Table) -> NDArray[Any]:
    hashes, reasons = table["picture_hash"].combine_chunks(), table["reasons"].to_pylist()
    has_hash = hashes.is_valid().to_numpy(zero_copy_only=False)
    usable = [row for row in np.flatnonzero(has_hash).tolist() if not any(reason in ADVICE for reason in reasons[row])]
    entries = np.empty(len(usable), ENTRY)
    entries["hash"] = hashes.take(pa.array(usable, pa.int64())).to_numpy(zero_copy_only=False)
    entries["place"] = (np.uint64(shard) << ROW_BITS) + np.asarray(usable, np.uint64)
    entries["passes"] = [not reasons[row] for row in usable]
    return entries


def part_of(bits: Numbers, parts: int) -> Numbers:
    """Return the part that some bits of a hash belong to; equal bits, equal part (multiplicative hashing)."""
    return (bits * np.uint64(0x9E3779B97F4A7C15) >> ROW_BITS) % np.uint64(parts)


def merge_equal(folder: Path, part: int) -> int:
    """Write each different hash of a part with its first place among all pairs and among those that pass.

    Returns:
        how many different hashes there are.
    """
    entries = np.fromfile(part_path(folder, "entries", part), ENTRY)
    hashes, places = np.unique(entries["hash"], return_inverse=True)
    firsts = np.full((len(hashes), 2), NEVER)
    np.minimum.at(firsts[:, 0], places, entries["place"])
    np.minimum.at(firsts[:, 1], places[entries["passes"]], entries["place"][entries["passes"]])
    np.column_stack([hashes, firsts]).tofile(part_path(folder, "hashes", part))
    return len(hashes)


def search(folder: Path, parts: int, masks: Sequence[int], distance: int) -> None:
    """Compare the hashes that agree on a mask, for every mask, and write what was found to the part of the hash."""
    with part_files(folder, "found", parts) as found:
        for mask in masks:
            with part_files(folder, "agreeing", parts) as files:
                for part in range(parts):
                    rows = _read(folder, "hashes", part)
                    scatter(files, part_of(rows[:, 0] & np.uint64(mask), parts), rows)
            for part in range(parts):
                rows = _read(folder, "agreeing", part)
                hashes, firsts = rows[:, 0], rows[:, 1:]
                if not len(hashes):
                    continue
                least = earliest_near(hashes, firsts, mask, distance)
                better = (least < firsts).any(axis=1)
                scatter(found, part_of(hashes[better], parts), np.column_stack([hashes, least])[better])


def look_up(folder: Path, parts: int, shards: int) -> int:
    """Write the place of every pair to be dropped and that of the pair it repeats, by the shard of the latter.

    Returns:
        how many pairs the rule would drop had no other been on.
    """
    alone = 0
    with part_files(folder, "dropped", parts) as files:
        for part in range(parts):
            rows, found = _read(folder, "hashes", part), _read(folder, "found", part)
            hashes, firsts = rows[:, 0].copy(), rows[:, 1:].copy()
            at = np.searchsorted(hashes, found[:, 0])
            for column in range(2):
                np.minimum.at(firsts[:, column], at, found[:, 1 + column])
            entries = np.fromfile(part_path(folder, "entries", part), ENTRY)
            place, firsts = entries["place"], firsts[np.searchsorted(hashes, entries["hash"])]
            alone += int((firsts[:, 0] < place).sum())
            drop = entries["passes"] & (firsts[:, 1] < place)
            pairs = np.column_stack([place, firsts[:, 1]])[drop]
            scatter(files, _part_of_shard(pairs[:, 1], parts, shards), pairs)
    return alone


def name_originals(tables: Sequence[Path], names: Sequence[str], folder: Path, parts: int) -> None:
    """Write shard and key of the repeated pair for each dropped one, by its shard; each shard's keys are read once."""
    with part_files(folder, "named", parts) as files:
        streams = [pa.ipc.new_stream(file, NAMED) for file in files]
        for part in range(parts):
            pairs = _read(folder, "dropped", part, columns=2)
            pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
            of = pa.chunked_array(list(_keys(tables, names, pairs[:, 1])), pa.string())
            named = pa.table([pa.array(pairs[:, 0]), of], schema=NAMED)
            belongs = _part_of_shard(pairs[:, 0], parts, len(tables))
            for target in np.unique(belongs).tolist():
                streams[target].write_table(named.filter(pa.array(belongs == target)))
        for stream in streams:
            stream.close()


def _keys(tables: Sequence[Path], names: Sequence[str], places: Numbers) -> Iterator[pa.Array]:
    """Yield SHARD/KEY of the pairs at some places, which are in order."""
    shards, starts = np.unique(places >> ROW_BITS, return_index=True)
    for shard, rows in zip(shards.tolist(), np.split(places, starts)[1:], strict=True):
        keys = pq.read_table(tables[shard], columns=["key"])["key"]
        chosen = keys.take(pa.array(rows & np.uint64(2**32 - 1))).combine_chunks()
        yield pc.binary_join_element_wise(names[shard], chosen, "/")


def write_final(first: Sequence[Path], final: Sequence[Path], folder: Path, *, part: int, parts: int) -> None:
    """Write the tables of the shards of one part, those that are not there yet."""
    with pa.OSFile(str(part_path(folder, "named", part))) as file:
        named = pa.ipc.open_stream(file).read_all().sort_by("place")
    places = named["place"].to_numpy()
    # A shard's part, as `_part_of_shard` has it, turned round.
    shards = range(-(-part * len(first) // parts), -(-(part + 1) * len(first) // parts))
    for shard in shards:
        if final[shard].exists():
            continue
        low, high = np.searchsorted(places, np.array([shard, shard + 1], np.uint64) << ROW_BITS)
        rows = (places[low:high] & np.uint64(2**32 - 1)).tolist()
        (table,) = read_tables([first[shard]])
        of: list[str | None] = [None] * table.num_rows
        for row, original in zip(rows, named["near_duplicate_of"][low:high].to_pylist(), strict=True):
            of[row] = original
        table = drop_pairs(table, [original is not None for original in of], NEAR_DUPLICATE)
        write_table(final[shard], replace_column(table, "near_duplicate_of", of))


def _part_of_shard(places: Numbers, parts: int, shards: int) -> Numbers:
    """Return the part of each place's shard: neighbouring shards share one."""
    return (places >> ROW_BITS) * np.uint64(parts) // np.uint64(shards)


def _read(folder: Path, name: str, part: int, columns: int = 3) -> Numbers:
    return np.fromfile(part_path(folder, name, part), np.uint64).reshape(-1, columns)
