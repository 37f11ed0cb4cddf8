"""Features of a locked trunk, found by what was encoded: captions or the bytes of pictures. Kept for other runs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch

from stillroom.artifacts import write_bytes
from stillroom.errors import ArtifactError
from stillroom.model.parts import Tower, text_part, trunk_state

# Whose modules hold settings as attributes.
LIBRARIES = ("torch", "open_clip", "timm", "transformers")


def content_ids(contents: Iterable[bytes]) -> np.ndarray:
    """Return (n,) int64, equal for equal contents in any process: 8 bytes of BLAKE2b."""
    joined = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(joined, dtype=np.int64)


class StoredFeatures:
    """Features by `content_ids`.

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
        """Return (n, W) float16 of ids that are all there."""
        return self.features[np.searchsorted(self.ids, ids)]


def read_features(path: Path) -> StoredFeatures | None:
    """Read what `write_features` wrote; None if there is nothing.

    Raises:
        ArtifactError: damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return StoredFeatures(stored["ids"], stored["features"])
    except Exception as error:  # noqa: BLE001 - numpy and zipfile raise many kinds on damaged files
        raise ArtifactError(f"{path} cannot be read ({error}); delete it") from None


def write_features(path: Path, stored: StoredFeatures) -> None:
    """Write features whole or not at all."""
    sink = io.BytesIO()
    np.savez(sink, ids=stored.ids, features=stored.features)
    write_bytes(path, sink.getvalue())


def trunk_digest(model: Any, tower: Tower, *more: bytes) -> str:
    """Name what features depend on: a trunk's weights, its modules with their settings, and `more`.

    The same weights with GELU and with quick GELU, with more heads or another pooling, are two trunks.
    """
    digest = hashlib.sha256()
    for content in more:
        digest.update(content)
    for name, module in _trunk_modules(model, tower):
        digest.update(f"{name} {type(module).__name__} {_settings(module)}\n".encode())
    for name, tensor in sorted(trunk_state(model, tower).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _trunk_modules(model: Any, tower: Tower) -> Iterator[tuple[str, Any]]:
    """Yield a tower's modules by name; open_clip's CLIP itself holds those of its text tower."""
    part = model.visual if tower == "image" else text_part(model)
    for name, module in part.named_modules():
        if part is not model or name.partition(".")[0] != "visual":
            yield name, module


def _settings(module: Any) -> list[tuple[str, str]]:
    """Return a module's plain attributes; functions, such as activations, by name."""
    if type(module).__module__.partition(".")[0] not in LIBRARIES:
        return []  # they may be counters
    found = []
    for key, value in vars(module).items():
        # Where transformers read a model from is no part of what it computes: a moved folder is the same model.
        if key in ("training", "name_or_path") or key.startswith("_"):
            continue
        if isinstance(value, (bool, int, float, str)):
            found.append((key, repr(value)))
        elif isinstance(value, FunctionType):
            found.append((key, value.__qualname__))
    return sorted(found)


class FeatureCache:
    """Features that are known, from a file where there is one, and new ones that are added to it.

    A feature that another run has computed was in another batch there, which can move its last digits.

    Args:
        path: of the file; None keeps nothing for other runs.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known = read_features(path) if path is not None else None
        self._new: list[tuple[np.ndarray, np.ndarray]] = []

    def missing(self, ids: np.ndarray) -> np.ndarray:
        """Return the places of ids that the file does not hold."""
        return np.flatnonzero(~self._known.has(ids)) if self._known is not None else np.arange(len(ids))

    def add(self, ids: np.ndarray, features: np.ndarray) -> None:
        """Take in features (n, W) float16 of n ids."""
        self._new.append((ids, features))

    def save(self) -> StoredFeatures:
        """Return all features, each id once; write them if there are new ones."""
        known = [] if self._known is None else [(self._known.ids, self._known.features)]
        ids, features = (np.concatenate(arrays) for arrays in zip(*known, *self._new, strict=True))
        _, first = np.unique(ids, return_index=True)
        stored = StoredFeatures(ids[first], features[first])
        if self.path is not None and self._new:
            write_features(self.path, stored)
        return stored
