"""Texts of a locked trunk: each distinct caption is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.model.parts import text_trunk, trim_padding
from stillroom.progress import progress
from stillroom.train.stored import FeatureCache, StoredFeatures, content_ids, trunk_digest

CHUNK = 256
# Tells tokenizers apart, and the lengths they cut at.
SAMPLE = "A sample, of 3 words & 1 sign; straße, 日本"


def caption_ids(captions: Sequence[str]) -> np.ndarray:
    """Return (n,) int64, equal for equal captions in any process."""
    return content_ids(caption.encode("utf-8", "replace") for caption in captions)


def text_features(
    model: Any, tokenizer: Callable[[list[str]], Any], texts: list[str], *, device: torch.device, cache: Path | None
) -> StoredFeatures:
    """Return the locked trunk's features of distinct texts, by `caption_ids`; see `FeatureCache` for `cache`."""
    path = None
    if cache is not None:
        digest = trunk_digest(model, "text", tokenizer([SAMPLE]).numpy().tobytes())
        path = cache / f"train-texts-{digest}.npz"
    features, ids = FeatureCache(path), caption_ids(texts)
    missing = features.missing(ids)
    if len(missing):
        features.add(ids[missing], trunk_features(model, tokenizer, [texts[place] for place in missing], device))
    return features.save()


@torch.no_grad()
def trunk_features(
    model: Any, tokenizer: Callable[[list[str]], Any], texts: list[str], device: torch.device
) -> np.ndarray:
    """Return the locked trunk's output of every text, (U, W) float16.

    Texts are encoded by length, and the padding that all of a chunk share is cut: captions are short.
    """
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), texts[index]))
    result: Any = None
    with progress("encode texts", len(texts), "texts") as shown:
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            tokens = trim_padding(model, tokenizer([texts[index] for index in rows]))
            features = text_trunk(model, tokens.to(device)).float().cpu().numpy()
            if result is None:
                result = np.empty((len(texts), features.shape[1]), np.float16)
            result[rows] = features
            shown.advance(len(rows))
    return result
