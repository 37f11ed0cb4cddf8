"""What a data source hands to the trainer for one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This rank's share of one step's pairs: B of them, fewer than asked for where samples are broken.

    Attributes:
        shards: shard name of each pair.
        keys: key of each pair.
        captions: with white space folded.
        pictures: (B, S, S, 3) uint8, or (B, F) float16 features of a locked image tower.
        positions: (B,) int64, places in the whole step's batch over all ranks, rising. What is drawn at random for a
            pair depends on its place, not on the rank or worker that had it.
    """

    shards: list[str]
    keys: list[str]
    captions: list[str]
    pictures: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)
