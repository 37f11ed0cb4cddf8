"""Texts for training: tokens of every batch, or the features of a locked trunk, computed once per distinct caption."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.artifacts import write_bytes
from stillroom.errors import ArtifactError
from stillroom.model.parts import text_trunk, trim_padding, trunk_state
from stillroom.progress import progress

CHUNK = 256


def caption_ids(captions: Sequence[str]) -> np.ndarray:
    """Return (n,) int64, equal for equal captions in any process: 8 bytes of BLAKE2b."""
    joined = b"".join(
        hashlib.blake2b(caption.encode("utf-8", "replace"), digest_size=8).digest() for caption in captions
    )
    return np.frombuffer(joined, dtype=np.int64)


class TextFeatures:
    """A locked trunk's output of some texts, found by `caption_ids`.

    Attributes:
        ids: (U,) int64, rising.
        features: (U, W) float16.
    """

    def __init__(self, ids: np.ndarray, features: np.ndarray) -> None:
        order = np.argsort(ids)
        self.ids, self.features = ids[order], features[order]

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Return (n,) bool: which ids there are."""
        if len(self.ids) == 0:
            return np.zeros(len(ids), dtype=bool)
        return self.ids[np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)] == ids

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return (n, W) float16 of texts that are all there."""
        return self.features[np.searchsorted(self.ids, ids)]


def text_features(
    model: Any, tokenizer: Callable[[list[str]], Any], texts: list[str], *, device: torch.device, cache: Path | None
) -> TextFeatures:
    """Return the locked trunk's features of distinct texts.

    With `cache`, texts that another run with the same trunk has encoded are read from there, and the others added. A
    feature then was computed in another batch, which can move its last digits.
    """
    ids = caption_ids(texts)
    if cache is None:
        return TextFeatures(ids, trunk_features(model, tokenizer, texts, device))
    path = cache / f"train-texts-{trunk_digest(model, tokenizer)}.npz"
    known = _read(path)
    missing = np.flatnonzero(~known.has(ids)) if known is not None else np.arange(len(texts))
    if len(missing):
        new = trunk_features(model, tokenizer, [texts[index] for index in missing], device)
        parts = [(ids[missing], new)] if known is None else [(known.ids, known.features), (ids[missing], new)]
        known = TextFeatures(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        sink = io.BytesIO()
        np.savez(sink, ids=known.ids, features=known.features)
        write_bytes(path, sink.getvalue())
    assert known is not None
    return known


def _read(path: Path) -> TextFeatures | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return TextFeatures(stored["ids"], stored["features"])
    except Exception as error:  # noqa: BLE001 - numpy and zipfile raise many kinds on damaged files
        raise ArtifactError(f"{path} cannot be read ({error}); delete it") from None


def trunk_digest(model: Any, tokenizer: Callable[[list[str]], Any]) -> str:
    """Name what features depend on: weights, pooling (which is code), and how texts become tokens."""
    digest = hashlib.sha256(type(getattr(getattr(model, "text", None), "pooler", None)).__name__.encode())
    digest.update(tokenizer(["A sample, of 3 words & 1 sign; straße, 日本"]).numpy().tobytes())
    for name, tensor in sorted(trunk_state(model, "text").items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


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
