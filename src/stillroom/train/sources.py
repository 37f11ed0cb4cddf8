"""Where a run's batches come from: pictures in memory, features of them, or a stream. The order is the same for all."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.data import Shard
from stillroom.errors import DataError
from stillroom.model.parts import image_trunk
from stillroom.train.config import TrainConfig
from stillroom.train.lanes import Order, lane_warnings
from stillroom.train.loop import Source
from stillroom.train.memory import MemorySource, read_features, read_pictures
from stillroom.train.precision import autocast
from stillroom.train.prepare import normalised
from stillroom.train.ranks import Ranks
from stillroom.train.resize import PictureReader
from stillroom.train.slots import Keep, SlotCounts, tell_lost
from stillroom.train.stored import FeatureCache, trunk_digest
from stillroom.train.stream import ShardStream

log = logging.getLogger("stillroom")
# Features are held in parts, joined, and put in the order of the slots.
COPIES = 3


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a source of this run is made of.

    Attributes:
        shards: of the data set.
        slots: `count_slots` of them.
        keep: which pairs take part.
        reader: from encoded bytes to pixels.
        config: the recipe.
        ranks: of the run.
        workers: threads, or processes, that decode.
    """

    shards: Sequence[Shard]
    slots: SlotCounts
    keep: Keep
    reader: PictureReader
    config: TrainConfig
    ranks: Ranks
    workers: int

    @property
    def order(self) -> Order:
        """In which pairs come."""
        stream = self.config.stream
        return Order(
            counts=self.slots.counts,
            batch_size=self.config.batch_size,
            lanes=stream.lanes,
            shuffle=stream.shuffle,
            seed=self.config.seed,
        )

    @property
    def streams(self) -> bool:
        """Whether pictures are more than the recipe's `pixel_cache_mb` holds, and are decoded as they are needed."""
        room = self.config.pixel_cache_mb * 2**20 // self.ranks.node_size
        return self.slots.total * self.reader.side**2 * 3 > room

    @property
    def _ranks(self) -> dict[str, int]:
        return {"rank": self.ranks.rank, "world": self.ranks.world}

    def pictures(self) -> Source:
        """Return pictures from memory where all fit in the recipe's `pixel_cache_mb`, or else a stream.

        Raises:
            DataError: fewer usable pictures than a batch takes.
        """
        self._tell_lanes(self.workers if self.streams else 0)
        if self.streams:
            log.info("pictures take more than pixel_cache_mb: they are read and decoded as they are needed")
            return ShardStream(
                shards=self.shards,
                slots=self.slots.bare,
                to_pixels=self.reader,
                keep=self.keep,
                batch_size=self.config.batch_size,
                lanes=self.config.stream.lanes,
                shuffle=self.config.stream.shuffle,
                seed=self.config.seed,
                workers=self.workers,
                **self._ranks,
            )
        with ThreadPoolExecutor(self.workers) as pool:
            source = read_pictures(
                self.shards, self.slots, self.order, keep=self.keep, to_pixels=self.reader, pool=pool, **self._ranks
            )
        return self._checked(source)

    def features(self, model: Any) -> MemorySource:
        """Return the features of the model's locked image trunk, each picture encoded once.

        Raises:
            DataError: fewer usable pictures than a batch takes, or more than there is memory for their features.
        """
        self._tell_lanes(0)

        def encode(pictures: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(pictures).to(self.ranks.device)
            pixels = normalised(tensor.permute(0, 3, 1, 2).float().div_(255), self.reader.preprocess)
            with torch.inference_mode(), autocast(self.ranks.device, self.config.precision):
                features = image_trunk(model, pixels).float().cpu().numpy().astype(np.float16)
            check_room(self.slots.total * features.shape[1] * features.itemsize, self.ranks.node_size)
            return features

        path = None
        if self.config.cache:
            digest = trunk_digest(model, "image", repr((self.reader, self.config.precision)).encode())
            path = Path(self.config.cache) / f"train-pictures-{digest}.npz"
        with ThreadPoolExecutor(self.workers) as pool:
            source = read_features(
                self.shards,
                self.slots,
                self.order,
                keep=self.keep,
                to_pixels=self.reader,
                pool=pool,
                encode=encode,
                cache=FeatureCache(path),
                **self._ranks,
            )
        return self._checked(source)

    def _tell_lanes(self, workers: int) -> None:
        if self.ranks.first:
            for line in lane_warnings(len(self.order.shares), self.ranks.world, workers):
                log.warning("%s", line)

    def _checked(self, source: MemorySource) -> MemorySource:
        tell_lost(source.faults, set())
        pairs, size = len(source.keys), self.config.batch_size
        if pairs < size:
            raise DataError(f"batch_size is {size} but only {pairs} pairs are left to train on")
        return source


def check_room(size: int, ranks: int, memory: int | None = None) -> None:
    """Raise a `DataError` if features do not fit in memory on every rank of a machine.

    Args:
        size: bytes of all features.
        ranks: that hold them each.
        memory: bytes of the machine; None asks the system.
    """
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size * COPIES * ranks > memory:
        raise DataError(
            f"the locked image tower's features of all pairs take {size / 2**30:,.1f} GB, {COPIES} times that until "
            f"they are in order, on each of {ranks} ranks; this machine has {memory / 2**30:,.0f} GB: start fewer "
            "ranks a machine, or let something about the pictures be random (augment.min_crop=0.9), which streams them"
        )
