"""Which of many 64-bit hashes differ in few bits: exact, by sorting on groups of bits.

Cut 64 bits into B blocks. Two hashes that differ in at most d bits differ in at most d blocks, so they agree in full on
at least B - d of them. For every choice of B - d blocks the hashes are sorted by the bits of these blocks, and only
those that agree on them are compared (Manku, Jain and Das Sarma 2007, section 3). More blocks mean more sorts and fewer
comparisons. "First" is where in the data a hash comes up first.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

BITS = 64
# Most blocks beyond the distance. Beyond three, the sorts cost more than they save, below a billion hashes.
MOST_SPARE_BLOCKS = 3
# What a hash costs in one sort, files included, in comparisons of two hashes (measured on one core, 300 ns and 6 ns).
SORT_COST = 50
# Groups are compared so many hashes at a time, or one group if it is larger, to stay in the processor's cache.
CHUNK = 2**13


def agreement_masks(distance: int, count: int) -> list[int]:
    """Return sets of bits, as masks, such that hashes within `distance` agree on all bits of at least one.

    Args:
        distance: bits in which two hashes may differ, 0 to 8.
        count: how many different hashes there are, roughly: decides between few and many masks, not what is found.

    Returns:
        the masks with the least estimated cost if hashes were spread evenly; none for distance 0, where only equal
        hashes are near.
    """
    if distance == 0:
        return []

    def cost(spare: int) -> float:
        bits = BITS * spare // (distance + spare)
        return math.comb(distance + spare, spare) * (SORT_COST + count / 2 ** (bits + 1))

    spare = min(range(1, MOST_SPARE_BLOCKS + 1), key=cost)
    blocks = distance + spare
    # Block i has the bits i, i + B, i + 2B ...: neighbouring bits of a picture's hash are alike and tell less apart.
    block_masks = [sum(1 << bit for bit in range(block, BITS, blocks)) for block in range(blocks)]
    return [sum(chosen) for chosen in combinations(block_masks, spare)]


def earliest_near(hashes: Hashes, firsts: Hashes, mask: int, distance: int) -> Hashes:
    """Find the earliest of the near hashes that agree on a mask.

    Args:
        hashes: (n,), all different, in any order.
        firsts: (n, k), where each comes up first in each of k selections of the data.
        mask: which bits have to be equal.
        distance: in how many of the other bits two near hashes may differ.

    Returns:
        (n, k), the least row of `firsts` over a hash and those near it, column by column.
    """
    keys = hashes & np.uint64(mask)
    order = np.argsort(keys)
    keys, hashes, firsts = keys[order], hashes[order], firsts[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.repeat(np.append(starts[1:], len(keys)), np.diff(starts, append=len(keys)))
    least = firsts.copy()
    low = 0
    while low < len(keys):
        high = int(ends[min(low + CHUNK, len(keys)) - 1])
        _compare(hashes[low:high], firsts[low:high], ends[low:high] - low, least[low:high], distance)
        low = high
    found = np.empty_like(least)
    found[order] = least
    return found


def _compare(hashes: Hashes, firsts: Hashes, ends: NDArray[np.int64], least: Hashes, distance: int) -> None:
    """Compare every two hashes of a group and lower their rows of `least`; `ends` says where each one's group ends."""
    one = np.flatnonzero(np.arange(1, len(hashes) + 1) < ends)
    step = 1
    while one.size:
        near = one[bit_count(hashes[one] ^ hashes[one + step]) <= distance]
        if near.size:  # each of them stands once in `near`, so plain assignment loses nothing
            least[near] = np.minimum(least[near], firsts[near + step])
            least[near + step] = np.minimum(least[near + step], firsts[near])
        step += 1
        one = one[one + step < ends[one]]


def bit_count(values: Hashes) -> NDArray[np.uint8]:
    """Return how many bits are set in each value."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.asarray(np.bitwise_count(values))
    octets = np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 8), axis=-1)
    return octets.sum(axis=-1, dtype=np.uint8)
