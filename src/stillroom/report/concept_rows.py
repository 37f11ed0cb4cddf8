"""The vocabularies as rows of a page, with how well each concept is found, and the few whose pictures are shown."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillroom.concepts.vocabulary import read_vocabulary
from stillroom.errors import ArtifactError
from stillroom.report.samples import row_hashes

# How many concepts of each sort have their pictures shown (our choice).
SORTS = {
    "objects": {"frequent": 20, "rare": 8, "best_recall": 8, "worst_recall": 8},
    "attributes": {"frequent": 10, "rare": 4, "best_recall": 4, "worst_recall": 4},
}
# A recall of fewer held-out pictures says too little to be called best or worst.
LEAST_HELD_OUT = 5
LONGEST_EXAMPLE = 90
# So many concepts of a kind, the most frequent, are shown with all of their examples, others with one.
ALL_EXAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class ConceptRow:
    """A concept; `training`, `held_out` and `recall` are None in an output that does not say.

    Attributes:
        kind: "objects" or "attributes".
        place: its id.
        count: captions that name it.
        training: pictures trained on whose caption names it.
        held_out: held-out pictures whose caption names it.
        recall: share of those that have it among their k labels; None if there are none.
        examples: captions, cut to a length that fits.
        also: other names of the same concept.
    """

    kind: str
    place: int
    name: str
    count: int
    training: int | None
    held_out: int | None
    recall: float | None
    examples: tuple[str, ...]
    also: tuple[str, ...]


def concept_rows(folder: Path, kind: str) -> list[ConceptRow]:
    """Read a vocabulary and, if it is there, its table of quality.

    Raises:
        ArtifactError: the two tables do not name the same concepts.
    """
    vocabulary = read_vocabulary(folder / f"{kind}.csv")
    quality = _quality(folder / f"{kind}_quality.csv")
    if quality and [row[0] for row in quality] != [concept.name for concept in vocabulary]:
        raise ArtifactError(f"{folder / f'{kind}_quality.csv'} does not name the concepts of {kind}.csv")
    none: tuple[str, None, None, None] = ("", None, None, None)
    rows = []
    for place, concept in enumerate(vocabulary):
        _, training, held_out, recall = quality[place] if quality else none
        examples = tuple(_cut(caption) for caption in concept.examples[: None if place < ALL_EXAMPLES else 1])
        rows.append(
            ConceptRow(
                kind=kind,
                place=place,
                name=concept.name,
                count=concept.count,
                training=training,
                held_out=held_out,
                recall=recall,
                examples=examples,
                also=concept.also,
            )
        )
    return rows


def _quality(path: Path) -> list[tuple[str, int, int, float | None]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = []
            for row in csv.DictReader(file):
                recall = float(row["recall"]) if row["recall"] else None
                found.append((row["name"], int(row["training"]), int(row["held_out"]), recall))
            return found
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a table that 'stillroom concepts' wrote: {error}") from None


def _cut(caption: str) -> str:
    return caption if len(caption) <= LONGEST_EXAMPLE else caption[: LONGEST_EXAMPLE - 1].rstrip() + "…"


def choose(rows: Sequence[ConceptRow], seen: Collection[int], seed: int) -> list[tuple[ConceptRow, list[str]]]:
    """Choose the concepts of one kind whose pictures are shown, each with the sorts it stands for.

    Args:
        rows: the vocabulary.
        seen: ids of the concepts that have pictures to show; others are not chosen.
        seed: decides which of the equally rare ones are taken.
    """
    here = [row for row in rows if row.place in seen]
    if not here:
        return []
    hashes = row_hashes(here[0].kind, np.array([row.place for row in here]), seed)
    chance = {row.place: int(value) for row, value in zip(here, hashes, strict=True)}
    measured = [row for row in here if row.recall is not None and (row.held_out or 0) >= LEAST_HELD_OUT]
    orders: Mapping[str, list[ConceptRow]] = {
        "frequent": sorted(here, key=lambda row: (-frequency(row), row.place)),
        "rare": sorted(here, key=lambda row: (frequency(row), chance[row.place])),
        "best_recall": sorted(measured, key=lambda row: (-(row.recall or 0), -(row.held_out or 0), row.place)),
        "worst_recall": sorted(measured, key=lambda row: (row.recall or 0, -(row.held_out or 0), row.place)),
    }
    sorts: dict[int, list[str]] = {}
    for sort, number in SORTS[here[0].kind].items():
        for row in orders[sort][:number]:
            sorts.setdefault(row.place, []).append(sort)
    return [(rows[place], found) for place, found in sorts.items()]


def frequency(row: ConceptRow) -> int:
    """Return how often a concept was learned from; an edited vocabulary may have no counts of its own."""
    return row.training if row.training is not None else row.count
