"""Where a run's batches come from: pictures in memory, features of them, or a stream. The order is the same for all."""

from __future__ import annotations

import logging
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
from stillroom.train.lanes import Order
from stillroom.train.loop import Source
from stillroom.train.memory import MemorySource, read_features, read_pictures
from stillroom.train.precision import autocast
from stillroom.train.prepare import normalised
from stillroom.train.ranks import Ranks
from stillroom.train.resize import PictureReader
from stillroom.train.slots import Keep, SlotCounts
from stillroom.train.stored import FeatureCache, trunk_digest
from stillroom.train.stream import ShardStream

log = logging.getLogger("stillroom")


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
    def _ranks(self) -> dict[str, int]:
        return {"rank": self.ranks.rank, "world": self.ranks.world}

    def pictures(self) -> Source:
        """Return pictures from memory where all fit in the recipe's `pixel_cache_mb`, or else a stream.

        Raises:
            DataError: fewer usable pictures than a batch takes.
        """
        room = self.config.pixel_cache_mb * 2**20 // self.ranks.node_size
        if self.slots.total * self.reader.side**2 * 3 > room:
            log.info("pictures take more than pixel_cache_mb: they are read and decoded as they are needed")
            return ShardStream(
                shards=self.shards,
                slots=self.slots,
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
            DataError: fewer usable pictures than a batch takes.
        """

        def encode(pictures: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(pictures).to(self.ranks.device)
            pixels = normalised(tensor.permute(0, 3, 1, 2).float().div_(255), self.reader.preprocess)
            with torch.inference_mode(), autocast(self.ranks.device, self.config.precision):
                return image_trunk(model, pixels).float().cpu().numpy().astype(np.float16)

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

    def _checked(self, source: MemorySource) -> MemorySource:
        pairs, size = len(source.keys), self.config.batch_size
        if pairs < size:
            raise DataError(f"batch_size is {size} but only {pairs} pairs are left to train on")
        return source
