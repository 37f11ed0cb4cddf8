"""A row of a verdict table as a card: what the page says of one pair, cut to a length that fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillroom.data.reasons import ADVICE
from stillroom.filter.overlap import text_overlap
from stillroom.filter.rules import CAPTION_LENGTH

SHORT_CAPTION = 220
LONGEST_TEXT = 1500
MAX_PIECES = 20
LONGEST_PIECE = 100
MEASURED = ("pwatermark", "punsafe", "nsfw", "similarity", "model_similarity", "language")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of spotted text; `points` is its outline in percent of the picture for an SVG polygon, or empty."""

    text: str
    confidence: float | None
    points: str
    matches: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """A pair as a card: `tag` is "kept" or the reason it stands for; all that comes from the data is shown as text.

    Attributes:
        caption: its first `LONGEST_TEXT` characters, or None; `caption_chars` is how many it has.
        values: (name, value) of what was measured, ready to be shown.
        original: (shard, key) of the picture that this one nearly repeats.
    """

    tag: str
    shard: str
    key: str
    caption: str | None
    caption_chars: int
    graph: str
    reasons: tuple[str, ...]
    detail: str
    pieces: tuple[Piece, ...]
    more_pieces: int
    values: tuple[tuple[str, str], ...]
    complexity: int | None
    actions: int | None
    overlap: int | None
    original: tuple[str, str] | None

    @property
    def usable(self) -> bool:
        """Whether there is a picture to show: none of its reasons is a fault."""
        return not any(reason in ADVICE for reason in self.reasons)

    @property
    def short_caption(self) -> str | None:
        """The start of a caption too long to be shown at once; None for others."""
        return shortened(self.caption or "")


def shortened(caption: str) -> str | None:
    """Return the start of a caption too long to be shown at once; None for others."""
    return caption[:SHORT_CAPTION].rstrip() if len(caption) > SHORT_CAPTION * 1.25 else None


def make_example(tag: str, shard: str, row: Mapping[str, Any], threshold: int | None = None) -> Example:
    """Make a card of a row; columns that an older table lacks count as not measured.

    Args:
        tag: what it stands for.
        shard: where the row is from.
        row: column name -> value.
        threshold: of the text rule: pieces that share as many characters with the caption match.
    """
    caption, actions = row["caption"], row["actions"]
    spotted = row.get("spotted_text") or ()
    original = row.get("near_duplicate_of")
    return Example(
        tag=tag,
        shard=shard,
        key=row["key"],
        caption=None if caption is None else caption[:LONGEST_TEXT],
        caption_chars=len(caption or ""),
        graph=(row["graph"] or "")[:LONGEST_TEXT],
        reasons=tuple(row["reasons"] or ()),
        detail=(row["detail"] or "")[:LONGEST_TEXT],
        pieces=_pieces(row, threshold),
        more_pieces=max(len(spotted) - MAX_PIECES, 0),
        values=_values(row),
        complexity=row["complexity"],
        actions=None if actions is None else len(actions),
        overlap=row["text_overlap"],
        original=(original.partition("/")[0], original.partition("/")[2]) if original else None,
    )


def _pieces(row: Mapping[str, Any], threshold: int | None) -> tuple[Piece, ...]:
    texts = row.get("spotted_text") or ()
    caption = (row["caption"] or "")[:LONGEST_TEXT]
    sure, boxes = row.get("spotted_confidence") or (), row.get("spotted_boxes") or ()
    return tuple(
        Piece(
            text=text[:LONGEST_PIECE],
            confidence=sure[k] if k < len(sure) else None,
            points=_points(boxes[k]) if k < len(boxes) else "",
            matches=threshold is not None and text_overlap(caption, [text[:LONGEST_TEXT]]) >= max(threshold, 1),
        )
        for k, text in enumerate(texts[:MAX_PIECES])
    )


def _points(box: Any) -> str:
    """Return eight shares x1, y1, ..., x4, y4 as an SVG polygon's points in percent; "" if they are not that."""
    shares = list(box or ())
    if len(shares) != 8 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in shares):
        return ""
    percent = [100 * min(max(float(share), 0.0), 1.0) for share in shares]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(percent[::2], percent[1::2], strict=True))


def _values(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    if row["complexity"] is not None:
        found.append(("complexity", str(row["complexity"])))
    if row["actions"] is not None:
        verbs = ", ".join(row["actions"])[:LONGEST_PIECE]
        found.append(("actions", f"{len(row['actions'])} ({verbs})" if verbs else "0"))
    if row["text_overlap"] is not None:
        least = "≥ " if row["text_overlap_exact"] is False else ""
        found.append(("overlap", f"{least}{row['text_overlap']}"))
    elif row["text_skipped"]:
        found.append(("overlap", f"not looked for ({row['text_skipped'].replace('_', ' ')})"))
    if CAPTION_LENGTH in (row["reasons"] or ()):
        found.append(("characters", f"{len((row['caption'] or '').strip()):,}"))
    if row.get("identical_before"):
        found.append(("equal captions before", f"{row['identical_before']:,}"))
    found += [(name.replace("_", " "), _shown(row[name])) for name in MEASURED if row.get(name) not in (None, "")]
    if row.get("width") and row.get("height"):
        found.append(("size", f"{row['width']:,} × {row['height']:,}"))
    return tuple(found)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:LONGEST_PIECE]
