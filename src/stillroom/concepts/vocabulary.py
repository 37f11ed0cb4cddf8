"""Object and attribute vocabularies: counted in captions, saved as tables a person can read, edit and use again.

A count is a document frequency: the number of captions that get a concept, however often they name it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from stillroom.concepts.names import spelt
from stillroom.errors import ConfigError

COLUMNS = ("name", "count", "examples", "also")
BETWEEN_EXAMPLES = " | "
BETWEEN_NAMES = BETWEEN_EXAMPLES.strip()
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet's formula begins with


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A row of a vocabulary; its index in the vocabulary is the concept's id.

    Attributes:
        name: of the concept.
        count: of the captions that get it, by this name or by another.
        examples: up to three of them.
        also: other names of the same concept.
    """

    name: str
    count: int
    examples: tuple[str, ...]
    also: tuple[str, ...] = ()


def read_stop_list(kind: str) -> frozenset[str]:
    """Return the names of `stop_{kind}.txt` in this package; `#` starts a comment."""
    return _read_names(f"stop_{kind}.txt")


def read_fixed_names() -> frozenset[str]:
    """Return the names of `fixed_names.txt` in this package."""
    return _read_names("fixed_names.txt")


def _read_names(file: str) -> frozenset[str]:
    text = resources.files("stillroom.concepts").joinpath(file).read_text(encoding="utf-8")
    return frozenset(name for line in text.splitlines() if (name := line.partition("#")[0].strip()))


def format_vocabulary(vocabulary: Sequence[Concept]) -> bytes:
    """Return a vocabulary as CSV: name, count, example captions, other names.

    Spreadsheets take a cell that begins with = + - @ for a formula, and captions come from strangers: before such a
    cell stands an apostrophe, which `read_vocabulary` takes off again.
    """
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for concept in vocabulary:
        examples = BETWEEN_EXAMPLES.join(" ".join(caption.split()) for caption in concept.examples)
        if examples.startswith(FORMULA):
            examples = "'" + examples
        also = BETWEEN_EXAMPLES.join(concept.also)
        writer.writerow((concept.name, concept.count, examples, also))
    return sink.getvalue().encode("utf-8", "replace")


def read_vocabulary(path: Path) -> list[Concept]:
    """Read a vocabulary, perhaps edited by hand; only the column `name` is needed, and its order gives the ids.

    Raises:
        ConfigError: no such file, no column `name`, more fields in a line than columns, an empty name or one that
            stands twice, be it in `also`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the vocabulary {path}: {error}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if "name" not in (rows.fieldnames or ()):
        raise ConfigError(f"the vocabulary {path} has no column 'name'; its first line must be {','.join(COLUMNS)}")
    vocabulary: list[Concept] = []
    seen: set[str] = set()
    for row in rows:
        try:
            concept = _concept(row)
        except ValueError as error:
            raise ConfigError(f"the vocabulary {path} has {error} in line {rows.line_num}") from None
        for own in (concept.name, *concept.also):
            if own in seen:
                raise ConfigError(f"the vocabulary {path} has '{own}' twice in line {rows.line_num}")
            seen.add(own)
        vocabulary.append(concept)
    return vocabulary


def _concept(row: Mapping[str | None, Any]) -> Concept:
    if None in row:
        extra = ", ".join(row[None])
        raise ValueError(f"more fields than columns ('{extra}' is left; put a field that holds a comma in quotes)")
    name, count = spelt(row["name"] or ""), (row.get("count") or "0").strip()
    if not name:
        raise ValueError("an empty name")
    if not count.isdecimal():
        raise ValueError(f"the count '{count}', which is no number,")
    examples = row.get("examples") or ""
    if examples.startswith("'") and examples[1:].startswith(FORMULA):
        examples = examples[1:]
    return Concept(
        name=name,
        count=int(count),
        examples=tuple(part for part in examples.split(BETWEEN_EXAMPLES) if part),
        also=tuple(other for part in (row.get("also") or "").split(BETWEEN_NAMES) if (other := spelt(part))),
    )


def vocabulary_digest(vocabulary: Sequence[Concept]) -> str:
    """Return a SHA-256 of the names in their order: labels are indices into it, counts may change."""
    return hashlib.sha256("\n".join(concept.name for concept in vocabulary).encode()).hexdigest()
