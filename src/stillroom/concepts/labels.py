"""From features and captions to trained heads, and from heads to the pseudo-labels of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stillroom.artifacts import StageOutput
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import KINDS, Vocabularies, concept_ids
from stillroom.concepts.features import fixed_lists, gather
from stillroom.concepts.heads import ConceptLabels, LinearHead, join_labels, make_labels, train_head
from stillroom.concepts.pseudo_labels import top_k_labels
from stillroom.concepts.quality import HeadQuality, measure_head
from stillroom.errors import DataError
from stillroom.progress import progress

ROWS_AT_ONCE = 4096
COLUMNS = {"objects": "object", "attributes": "attribute"}


def fit_heads(
    parsed: StageOutput, features: StageOutput, vocabularies: Vocabularies, config: ConceptsConfig, scratch: Path
) -> tuple[dict[str, LinearHead], dict[str, Any], dict[str, HeadQuality]]:
    """Train one head for each vocabulary that is not empty; return heads, reports, and what was counted by concept.

    Args:
        parsed: stored captions and the names in them.
        features: stored features.
        vocabularies: by kind.
        config: the stage's; its precision and device are resolved.
        scratch: a file for the memory-mapped features, removed afterwards.

    Raises:
        DataError: no picture with a concept in its caption could be read, or stored features are not finite.
        ConfigError: the learning rate is so large that the loss is not finite.
    """
    concepts, held = _training_labels(parsed, features, vocabularies, config)
    dim = features.summary["feature_dim"]
    heads: dict[str, LinearHead] = {}
    reports: dict[str, Any] = {}
    qualities: dict[str, HeadQuality] = {}
    try:
        stored = gather(_finite_features(features), scratch, rows=len(held), feature_dim=dim)
        for kind in KINDS:
            if not vocabularies[kind]:
                continue
            labels = concepts[kind]
            has_concept = np.diff(labels.indptr) > 0
            training, held_out = np.flatnonzero(has_concept & ~held), np.flatnonzero(has_concept & held)
            if not len(training):
                continue
            total = config.heads.epochs * len(training)
            with progress(f"train {kind} head", total=total, unit="pictures") as shown:
                heads[kind], report = train_head(
                    stored,
                    labels,
                    training=training,
                    held_out=held_out,
                    config=config.heads,
                    seed=config.seed,
                    device=config.device,
                    bf16=config.precision == "bf16",
                    advance=shown.advance,
                )
            qualities[kind] = measure_head(
                heads[kind], stored, labels, training=training, held_out=held_out, top_k=config.top_k
            )
            reports[kind] = {**report, **qualities[kind].report()}
    finally:
        scratch.unlink(missing_ok=True)
    if not heads:
        raise DataError(
            "no picture whose caption holds a concept of the vocabulary could be read; see 'stillroom check'"
        )
    return heads, reports, qualities


def _finite_features(features: StageOutput) -> Iterator[pa.Table]:
    """Yield the features of each shard; one value that is not finite would spoil the heads of all."""
    for shard, table in features.tables(["features"]):
        broken = ~np.isfinite(fixed_lists(table, "features")).all(axis=1)
        if broken.any():
            key = features.shard(shard, ["key"])["key"][int(broken.argmax())].as_py()
            raise DataError(
                f"the stored features of {int(broken.sum()):,} pictures of {shard} are not finite, e.g. of {key}: "
                f"delete {features.path} and run the same command again, or take another teacher"
            )
        yield table


def _training_labels(
    parsed: StageOutput, features: StageOutput, vocabularies: Vocabularies, config: ConceptsConfig
) -> tuple[dict[str, ConceptLabels], np.ndarray]:
    """Return the concepts of all pictures with features, in stored order, by kind, and whether each is held out.

    One shard's captions are in memory at a time; of the others only arrays are, four bytes for a concept of a picture.
    """
    parts: dict[str, list[ConceptLabels]] = {kind: [] for kind in KINDS}
    held: list[np.ndarray] = []
    for shard, table in parsed.tables():
        row = {key: place for place, key in enumerate(table["key"].to_pylist())}
        captions = table["caption"].to_pylist()
        places = [row[key] for key in features.shard(shard, ["key"])["key"].to_pylist()]
        held.append(
            np.array([is_held_out(captions[place], config.heads.held_out, config.seed) for place in places], bool)
        )
        for kind in KINDS:
            ids = concept_ids(table, kind, vocabularies, config)
            parts[kind].append(make_labels([ids[place] for place in places], len(vocabularies[kind])))
    return {kind: join_labels(found) for kind, found in parts.items()}, np.concatenate(held)


def is_held_out(caption: str, share: float, seed: int) -> bool:
    """Whether a caption's pictures belong to the held-out part: its digest decides, so equal captions stay together."""
    text = f"{seed}:{' '.join(caption.lower().split())}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def label_shard(table: pa.Table, heads: Mapping[str, LinearHead], top_k: int) -> pa.Table:
    """Return a shard's pseudo-labels from its features; a kind without a head is all padding."""
    features = fixed_lists(table, "features")
    columns: dict[str, pa.Array] = {"key": table["key"].combine_chunks()}
    for kind, prefix in COLUMNS.items():
        ids = np.zeros((len(features), top_k), np.uint32)
        probs = np.zeros((len(features), top_k), np.float16)
        for start in range(0, len(features) if kind in heads else 0, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            ids[part], probs[part] = top_k_labels(heads[kind].logits(features[part]), top_k)
        columns[f"{prefix}_ids"] = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), top_k)
        columns[f"{prefix}_probs"] = pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), top_k)
    return pa.table(columns)


def save_heads(heads: Mapping[str, LinearHead]) -> bytes:
    """Return safetensors bytes: `objects.weight` (C, D), `objects.bias` (C,), the same for attributes; float32."""
    from safetensors.numpy import save

    tensors = {}
    for kind, head in heads.items():
        tensors[f"{kind}.weight"] = np.ascontiguousarray(head.weight)
        tensors[f"{kind}.bias"] = np.ascontiguousarray(head.bias)
    return save(tensors)


def load_heads(path: Path) -> dict[str, LinearHead]:
    """Read `save_heads` back."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    kinds = [kind for kind in KINDS if f"{kind}.weight" in tensors]
    return {kind: LinearHead(weight=tensors[f"{kind}.weight"], bias=tensors[f"{kind}.bias"]) for kind in kinds}
