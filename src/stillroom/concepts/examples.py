"""Example captions of concepts: a fair sample that does not depend on how the data were cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from stillroom.concepts.caption_names import Lists

EXAMPLES = 3
LONGEST = 300  # characters of an example
Found = tuple[int, str]


def example_captions(shards: Iterable[tuple[Sequence[str], Lists]], size: int) -> list[tuple[str, ...]]:
    """Return for each of `size` concepts up to three different captions, cut: those with the smallest digests.

    Args:
        shards: for each its captions, and the concepts of each caption.
        size: number of concepts.
    """
    held: list[tuple[Found, ...]] = [()] * size
    for captions, concepts in shards:
        digests = np.array(
            [_digest(caption) if n else 0 for caption, n in zip(captions, np.diff(concepts.starts), strict=True)],
            np.uint64,
        )
        rows = concepts.rows()
        order = np.lexsort((digests[rows], concepts.numbers))
        rows, numbers = rows[order], concepts.numbers[order]
        same = (numbers[1:] == numbers[:-1]) & (digests[rows[1:]] == digests[rows[:-1]])
        first = np.concatenate([[True], ~same]) if len(rows) else np.zeros(0, bool)
        rows, numbers = rows[first], numbers[first]
        rank = np.arange(len(rows)) - np.searchsorted(numbers, numbers)
        few = rank < EXAMPLES
        for concept, row in zip(numbers[few].tolist(), rows[few].tolist(), strict=True):
            both = {*held[concept], (int(digests[row]), captions[row][:LONGEST])}
            held[concept] = tuple(sorted(both)[:EXAMPLES])
    return [tuple(caption for _, caption in found) for found in held]


def _digest(caption: str) -> int:
    return int.from_bytes(hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
