"""A few pairs of every reason, drawn over all shards, with what was measured of them.

A pair's place in the draw is a hash of the seed, its shard and its row, so the draw is the same in whatever order the
shards are read, and reading them takes memory that does not grow with them. Pictures cost more: each shard opened for
one may be a tar to be read over a network. Of many shards, pairs to be shown with their picture are therefore taken
from `DRAWN_SHARDS` of them, chosen by hash, as long as these hold enough; reasons too rare for that are filled up from
all shards, and the `FILL_SHARDS` that hold most of those give their pictures too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillroom.artifacts import StageOutput
from stillroom.data.reasons import ADVICE
from stillroom.progress import progress
from stillroom.report.example import Example, make_example

KEPT = "kept"
PER_REASON = 8
DRAWN_SHARDS = 16
FILL_SHARDS = 8

Place = tuple[str, int]  # shard, row


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What was drawn, before anything but the reasons was read.

    Attributes:
        counts: rows by reason (each of a pair's reasons counts), and `KEPT`.
        places: places of the samples, best first, by the reason they stand for; a place stands for one.
        shards: that were preferred for samples with pictures, in the order of the draw.
    """

    counts: Mapping[str, int]
    places: Mapping[str, Sequence[Place]]
    shards: Sequence[str]


def draw(output: StageOutput, *, seed: int, per_reason: int) -> Draw:
    """Draw up to `per_reason` pairs of each reason and of the kept ones.

    Pairs whose first reason it is come first: they are what the rule dropped of what the rules before it had left.
    """
    near = preferred_shards(output.shards, seed)
    known = set(near)
    counts: Counter[str] = Counter()
    best: dict[str, list[tuple[bool, bool, int, str, int]]] = {}
    with progress("report", len(output.shards), "shards") as shown:
        for shard, table in output.tables(["reasons"]):
            for reason, rows, first in rows_by_reason(table["reasons"]):
                counts[reason] += len(rows)
                hashes = row_hashes(shard, rows, seed)
                order = np.lexsort((hashes, ~first))[:per_reason]
                far = reason not in ADVICE and shard not in known
                found = [(not first[k], far, int(hashes[k]), shard, int(rows[k])) for k in order]
                best[reason] = sorted([*best.get(reason, ()), *found])[:per_reason]
            shown.advance(1)
    return Draw(counts=counts, places=_owned(best), shards=near)


def _owned(best: Mapping[str, list[tuple[bool, bool, int, str, int]]]) -> dict[str, list[Place]]:
    """Give each place to one reason: to its pair's first, if it was drawn for that one."""
    owner: dict[Place, str] = {}
    for later in (False, True):
        for reason in sorted(best):
            for behind, _, _, shard, row in best[reason]:
                if behind == later:
                    owner.setdefault((shard, row), reason)
    return {
        reason: [(shard, row) for *_, shard, row in found if owner[shard, row] == reason]
        for reason, found in best.items()
    }


def rows_by_reason(reasons: pa.ChunkedArray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each reason with the rows that have it, (n,) int64 ascending, and whether it is their first, (n,) bool."""
    column = reasons.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(lengths == 0)
    if len(kept):
        yield KEPT, kept, np.ones(len(kept), bool)
    parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.diff(parents, prepend=-1) > 0
    codes = pc.list_flatten(column).dictionary_encode()
    indices = codes.indices.to_numpy(zero_copy_only=False)
    for code, reason in enumerate(codes.dictionary.to_pylist()):
        rows, places = np.unique(parents[indices == code], return_index=True)
        yield reason, rows, first[indices == code][places]


def row_hashes(shard: str, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return pseudo-random numbers, (n,) uint64: SplitMix64 (Steele et al. 2014) from a start that the shard sets."""
    with np.errstate(over="ignore"):
        z = np.uint64(_digest(shard, seed)) + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def _digest(shard: str, seed: int) -> int:
    raw = hashlib.blake2b(f"{seed}:{shard}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(raw, "little")


def preferred_shards(shards: Sequence[str], seed: int) -> list[str]:
    """Return all shards if they are few, or `DRAWN_SHARDS` of them by hash."""
    drawn = sorted(shards, key=lambda shard: (_digest(shard, seed), shard))
    return drawn if len(drawn) <= DRAWN_SHARDS + FILL_SHARDS else drawn[:DRAWN_SHARDS]


def opened_shards(found: Sequence[Example], preferred: Sequence[str]) -> set[str]:
    """Return the shards to open for pictures: the preferred ones, and those with most of the samples elsewhere."""
    elsewhere = Counter(card.shard for card in found if card.usable and card.shard not in set(preferred))
    more = sorted(elsewhere, key=lambda shard: (-elsewhere[shard], shard))[:FILL_SHARDS]
    return {*preferred, *more}


def read_examples(output: StageOutput, drawn: Draw) -> list[Example]:
    """Read the drawn rows, one shard in memory at a time: kept pairs first, then rule by rule, then faults."""
    threshold = output.summary["thresholds"].get("text", {}).get("text_overlap")
    tags: dict[Place, str] = {place: tag for tag, places in drawn.places.items() for place in places}
    rows: dict[str, list[int]] = {}
    for shard, row in tags:
        rows.setdefault(shard, []).append(row)
    made: dict[Place, Example] = {}
    for shard, wanted in rows.items():
        for row, values in zip(wanted, output.shard(shard).take(wanted).to_pylist(), strict=True):
            made[shard, row] = make_example(tags[shard, row], shard, values, threshold)
    return [made[place] for tag in tag_order(output.summary, drawn.counts) for place in drawn.places[tag]]


def tag_order(summary: Mapping[str, object], counts: Mapping[str, int]) -> list[str]:
    """Return the reasons that occur in the order of the page: kept, the funnel's rules, faults by number."""
    funnel = summary["funnel"]
    assert isinstance(funnel, list)
    order = [KEPT, *(step["rule"] for step in funnel)]
    rest = sorted(set(counts) - set(order), key=lambda tag: (tag in ADVICE, -counts[tag], tag))
    return [tag for tag in order if tag in counts] + rest


def examples(output: StageOutput, seed: int) -> list[Example]:
    """Draw a few pairs of every reason, and of the kept ones; faults without a caption are left out."""
    found = read_examples(output, draw(output, seed=seed, per_reason=PER_REASON))
    return [example for example in found if example.caption is not None]
