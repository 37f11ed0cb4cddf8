"""From a source's batch to what the student takes, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillroom.concepts.join import PseudoLabels
from stillroom.train.augment import Draws, apply, draw
from stillroom.train.batch import Batch
from stillroom.train.config import AugmentConfig
from stillroom.train.stored import StoredFeatures
from stillroom.train.texts import caption_ids

FILLER = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """B pairs on the device.

    Attributes:
        pictures: (B, 3, s, s) float32 normalised, or (B, F) float32 features.
        texts: (B, L) int64 tokens, or (B, W) float32 features.
        targets: kind of concept -> ids (B, k) and probabilities (B, k); of filler none, (0, k).
    """

    pictures: Tensor
    texts: Tensor
    targets: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A batch of N pairs, of which any part can be put on the device; twice the same gives the same.

    Attributes:
        caption_ids: (N,) int64 on the device.
        part: from rows of the batch to their tensors. Of a batch without pairs it is filler, which stands for none: a
            rank that has no pair has to run its towers all the same, for the others wait for its gradients.
    """

    caption_ids: Tensor
    part: Callable[[slice], Part]

    def __len__(self) -> int:
        return len(self.caption_ids)


@dataclass(frozen=True, kw_only=True)
class Preparer:
    """Knows how a run's batches become tensors.

    Attributes:
        preprocess: the model's `preprocess_cfg`: mean and std of pixels.
        side: of the pictures that the model sees.
        augment: random changes.
        tokenizer: from captions to tokens (N, L).
        texts: features of a locked text trunk, or None.
        labels: the teacher's concepts, or None.
        batch_size: over all ranks.
        seed: of the random changes.
        device: where parts go.
    """

    preprocess: Mapping[str, Any]
    side: int
    augment: AugmentConfig
    tokenizer: Callable[[list[str]], Tensor]
    texts: StoredFeatures | None
    labels: PseudoLabels | None
    batch_size: int
    seed: int
    device: torch.device

    def prepare(self, batch: Batch, step: int) -> Prepared:
        """Return the batch of 0-based step `step`; draws depend on the seed, the step and a pair's place only."""
        if len(batch) == 0:
            none = torch.zeros(0, dtype=torch.int64, device=self.device)
            return Prepared(caption_ids=none, part=lambda rows: self._filler(batch.pictures))
        ids = caption_ids(batch.captions)
        texts = torch.from_numpy(self.texts.rows(ids)) if self.texts is not None else self.tokenizer(batch.captions)
        labels = self.labels.lookup(batch.shards, batch.keys) if self.labels is not None else {}
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        draws = draw(self.batch_size, self.augment, generator).at(torch.from_numpy(batch.positions))

        def part(rows: slice) -> Part:
            chosen = texts[rows].to(self.device, non_blocking=True)
            return Part(
                pictures=self._pictures(batch.pictures[rows], draws.at(rows)),
                texts=chosen.float() if chosen.is_floating_point() else chosen.long(),
                targets={
                    kind: (torch.from_numpy(found[rows]).to(self.device), torch.from_numpy(probs[rows]).to(self.device))
                    for kind, (found, probs) in labels.items()
                },
            )

        return Prepared(caption_ids=torch.tensor(ids, device=self.device), part=part)

    def _filler(self, none: np.ndarray) -> Part:
        """Return rows that stand for no pair, shaped as those of `none` pictures; two, for batch norm refuses one."""
        shape = none.shape[1:] if none.ndim == 2 else (3, self.side, self.side)
        if self.texts is not None:
            texts = torch.zeros(FILLER, self.texts.features.shape[1])
        else:
            texts = self.tokenizer(["filler"] * FILLER).long()
        no_ids = torch.zeros(0, 1, dtype=torch.int64, device=self.device)
        return Part(
            pictures=torch.zeros(FILLER, *shape, device=self.device),
            texts=texts.to(self.device),
            targets={kind: (no_ids, no_ids.float()) for kind in (self.labels.names if self.labels else ())},
        )

    def _pictures(self, stored: np.ndarray, draws: Draws) -> Tensor:
        """Augment and normalise; features go as they are."""
        tensor = torch.from_numpy(np.ascontiguousarray(stored))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        tensor = tensor.to(self.device, non_blocking=True)
        if tensor.ndim == 2:
            return tensor.float()
        pictures = tensor.permute(0, 3, 1, 2).float().div_(255)
        if self.augment.changes or pictures.shape[-1] != self.side:
            pictures = apply(pictures, draws, self.side)
        return normalised(pictures, self.preprocess)


def normalised(pictures: Tensor, preprocess: Mapping[str, Any]) -> Tensor:
    """Take pixels (B, 3, s, s) in [0, 1] to the model's mean and std, in place."""
    mean, std = (torch.tensor(preprocess[key], device=pictures.device).view(1, 3, 1, 1) for key in ("mean", "std"))
    return pictures.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
