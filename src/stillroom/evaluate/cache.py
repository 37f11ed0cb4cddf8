"""Embeddings on disk, under a key of everything they depend on: weights, transform, data, precision."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.artifacts import write_bytes
from stillroom.evaluate.embed import ImageEmbeddings
from stillroom.records import Fault

log = logging.getLogger("stillroom")

FORMAT = 1  # part of every key; raise it when what is stored changes meaning
_LIBRARIES = ("torch", "open_clip", "timm", "transformers", "stillroom")
_PROBE_TEXTS = [
    "a photo of a cat.",
    "red",
    "The quick brown fox jumps over the lazy dog; 0123456789",
    "Zwölf Äpfel, 2 £",
    "x " * 200,
]


def key_of(*parts: str) -> str:
    """Return the SHA-256 (hex) of several strings, none of which can run into the next."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256 of a model's weights and of the plain settings of its modules.

    Settings matter: the same weights with GELU and with quick GELU, or with another number of heads, are two models.
    Those of modules outside the known libraries are left out, since they may be counters.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        known = type(module).__module__.partition(".")[0] in _LIBRARIES
        settings = sorted(item for item in vars(module).items() if known and _is_setting(*item))
        digest.update(f"{name}:{type(module).__name__}:{settings}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(_tensor_bytes(tensor))
    return digest.hexdigest()


def tower_fingerprints(model: Any) -> tuple[str, str]:
    """Return what image embeddings and what text embeddings depend on: the towers of open_clip's two plain classes.

    So models that share a locked text tower share its text embeddings. For any other model it is twice the whole one.
    """
    if type(model).__module__ != "open_clip.model" or type(model).__name__ not in ("CLIP", "CustomTextCLIP"):
        whole = model_fingerprint(model)
        return whole, whole
    text = getattr(model, "text", model)  # CLIP keeps the parts of its text tower on itself
    return model_fingerprint(model.visual), model_fingerprint(text)


def _is_setting(name: str, value: Any) -> bool:
    # Where transformers read a model from is no part of what it computes: a moved folder is the same model.
    return (
        name not in ("training", "name_or_path")
        and not name.startswith("_")
        and isinstance(value, (bool, int, float, str))
    )


def transform_fingerprint(preprocess: Any) -> str:
    """Return the SHA-256 of a transform: how it describes itself, and what it makes of a fixed picture."""
    from PIL import Image

    rows, columns, channels = np.indices((61, 97, 3))
    picture = Image.fromarray(((rows * 7 + columns * 3 + channels * 85) % 256).astype(np.uint8))
    described = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(preprocess))
    return key_of(described, hashlib.sha256(_tensor_bytes(preprocess(picture))).hexdigest())


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer: its kind, and the ids it gives to fixed texts."""
    return key_of(type(tokenizer).__name__, json.dumps(tokenizer(_PROBE_TEXTS).tolist()))


def _tensor_bytes(tensor: Any) -> Any:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""


def save_images(path: Path, embedded: ImageEmbeddings) -> None:
    """Write image embeddings with names, labels, captions and faults; equal content gives equal bytes."""
    meta = {
        "names": embedded.names,
        "labels": embedded.labels,
        "captions": embedded.captions,
        "faults": [asdict(fault) for fault in embedded.faults],
    }
    text = json.dumps(meta, ensure_ascii=False).encode()
    _save(path, {"vectors": embedded.vectors, "meta": np.frombuffer(text, dtype=np.uint8)})


def load_images(path: Path) -> ImageEmbeddings | None:
    """Read what `save_images` wrote; None if it is not there, or damaged (which is logged)."""
    arrays = _load(path, ("vectors", "meta"))
    if arrays is None:
        return None
    meta = json.loads(arrays["meta"].tobytes())
    return ImageEmbeddings(
        vectors=arrays["vectors"],
        names=tuple(meta["names"]),
        labels=tuple(meta["labels"]),
        captions=tuple(tuple(captions) for captions in meta["captions"]),
        faults=tuple(Fault(**fault) for fault in meta["faults"]),
    )


def save_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write one array, e.g. text embeddings; equal content gives equal bytes."""
    _save(path, {"vectors": array})


def load_array(path: Path) -> NDArray[np.float32] | None:
    """Read what `save_array` wrote; None if it is not there, or damaged (which is logged)."""
    arrays = _load(path, ("vectors",))
    return None if arrays is None else arrays["vectors"]


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    # numpy.savez would put the time of day into the file
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    try:
        write_bytes(path, sink.getvalue())
    except OSError as error:  # a shared cache may be read-only; what was computed is still good
        _say_once(path.parent, error.strerror or str(error))


@cache
def _say_once(folder: Path, why: str) -> None:
    log.warning("embeddings are not kept: %s cannot be written (%s)", folder, why)


def _load(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]] | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("embeddings in %s cannot be read (%s): computed again", path, error)
        return None
