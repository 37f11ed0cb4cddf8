"""The rows of a verdict table: one pair or fault each, with everything that was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stillroom.data import reasons
from stillroom.filter.config import NSFW_SCALE, FilterConfig
from stillroom.filter.rules import Measurements, decide
from stillroom.filter.spotting import Spotting
from stillroom.records import Fault, Sample

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pwatermark", pa.float64()),
        ("punsafe", pa.float64()),
        ("nsfw", pa.string()),
        ("similarity", pa.float64()),
        ("language", pa.string()),
        ("complexity", pa.int32()),
        ("actions", pa.list_(pa.string())),
        ("graph", pa.string()),
        ("spotted_text", pa.list_(pa.string())),
        ("spotted_confidence", pa.list_(pa.float32())),
        ("spotted_boxes", pa.list_(pa.list_(pa.float32()))),
        ("text_overlap", pa.int32()),
        ("text_overlap_exact", pa.bool_()),
        ("text_skipped", pa.string()),
        ("model_similarity", pa.float64()),
        ("picture_hash", pa.uint64()),
        ("near_duplicate_of", pa.string()),
        ("identical_before", pa.int32()),
        ("image_decoded", pa.bool_()),
        ("kept", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        ("detail", pa.string()),
    ]
)


@dataclass(kw_only=True, slots=True)
class Row:
    """One pair while it is measured; `caption` is None if there is none to measure.

    `language_asked` tells a caption in no sure language from one that was not looked at; `image` are encoded bytes.
    """

    key: str
    caption: str | None = None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    measured: Measurements = field(default_factory=Measurements)
    language_asked: bool = False
    actions: list[str] | None = None
    graph: str | None = None
    spotting: Spotting = field(default_factory=Spotting)
    picture_hash: int | None = None
    decoded: bool = False
    detail: str | None = None

    def add_fault(self, reason: str, detail: str) -> None:
        """Record why the pair cannot be used."""
        self.measured.faults = (*self.measured.faults, reason)
        self.detail = detail or None

    def set_size(self, width: int, height: int) -> None:
        """Record the picture's sides in pixels."""
        self.width, self.height = width, height
        self.measured.picture_sides = (min(width, height), max(width, height))


def read_row(item: Sample | Fault) -> Row:
    """Start a row: what can be told without parsing or decoding."""
    row = Row(key=item.key)
    if isinstance(item, Fault):
        row.add_fault(item.reason, item.detail)
        return row
    row.caption, row.image = item.caption, item.image
    row.measured = Measurements(
        caption_chars=len(item.caption.strip()),
        pwatermark=number(item.metadata, "pwatermark"),
        punsafe=number(item.metadata, "punsafe"),
        nsfw=nsfw_word(item.metadata),
        similarity=number(item.metadata, "similarity"),
    )
    if not item.caption.strip():
        row.add_fault(reasons.CAPTION_EMPTY, "")
    return row


def number(metadata: Mapping[str, Any], name: str) -> float | None:
    """Return a metadata value as a finite number; None if it is absent or says nothing."""
    value = metadata.get(name)
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def nsfw_word(metadata: Mapping[str, Any]) -> str | None:
    """Return LAION-400M's `NSFW` (or `nsfw`) as a word of `NSFW_SCALE`; None if it is absent or says nothing."""
    value = metadata.get("NSFW", metadata.get("nsfw"))
    word = value.strip().lower() if isinstance(value, str) else None
    return word if word in NSFW_SCALE else None


def to_table(rows: Sequence[Row], config: FilterConfig) -> pa.Table:
    """Judge the rows and lay them out as columns; what looks at the whole set is still empty."""
    verdicts = [decide(row.measured, config) for row in rows]
    columns = {
        "key": [row.key for row in rows],
        "caption": [row.caption for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "pwatermark": [row.measured.pwatermark for row in rows],
        "punsafe": [row.measured.punsafe for row in rows],
        "nsfw": [row.measured.nsfw for row in rows],
        "similarity": [row.measured.similarity for row in rows],
        "language": [row.measured.language or ("" if row.language_asked else None) for row in rows],
        "complexity": [row.measured.complexity for row in rows],
        "actions": [row.actions for row in rows],
        "graph": [row.graph for row in rows],
        "spotted_text": [row.spotting.texts for row in rows],
        "spotted_confidence": [row.spotting.confidences for row in rows],
        "spotted_boxes": [row.spotting.boxes for row in rows],
        "text_overlap": [row.spotting.overlap for row in rows],
        "text_overlap_exact": [row.spotting.exact for row in rows],
        "text_skipped": [row.spotting.skipped for row in rows],
        "model_similarity": [row.measured.model_similarity for row in rows],
        "picture_hash": pa.array([row.picture_hash for row in rows], pa.uint64()),
        "near_duplicate_of": [None for _ in rows],
        "identical_before": [None for _ in rows],
        "image_decoded": [row.decoded or None for row in rows],
        "kept": [verdict.kept for verdict in verdicts],
        "reasons": [verdict.reasons for verdict in verdicts],
        "detail": [row.detail for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)
