"""Object and attribute vocabularies: counted in captions, saved as tables a person can read, edit and use again.

A count is a document frequency: the number of captions a concept occurs in, however often it does. Counts of parts of
the data merge exactly, in any order and however the data were cut.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from stillroom.errors import ConfigError

EXAMPLES = 3
COLUMNS = ("name", "count", "examples", "also")
BETWEEN_EXAMPLES = " | "
BETWEEN_NAMES = BETWEEN_EXAMPLES.strip()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many captions hold a concept, and up to three of them: those with the smallest digests, a fair sample."""

    count: int
    examples: tuple[tuple[int, str], ...]


Counts = Mapping[str, Tally]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A row of a vocabulary; its index in the vocabulary is the concept's id.

    Attributes:
        name: of the concept.
        count: of the captions that name it, by this name or by another.
        examples: of them.
        also: other names of the same concept.
    """

    name: str
    count: int
    examples: tuple[str, ...]
    also: tuple[str, ...] = ()


def count_concepts(captions: Iterable[tuple[str, Collection[str]]]) -> dict[str, Tally]:
    """Count concepts over (caption, concepts) pairs; a concept named twice in one caption counts once."""
    numbers: dict[str, int] = {}
    examples: dict[str, tuple[tuple[int, str], ...]] = {}
    for caption, concepts in captions:
        if not concepts:
            continue
        example = (_digest(caption), caption)
        for concept in set(concepts):
            numbers[concept] = numbers.get(concept, 0) + 1
            held = examples.get(concept, ())
            if len(held) < EXAMPLES or example < held[-1]:
                examples[concept] = _smallest((*held, example))
    return {concept: Tally(number, examples[concept]) for concept, number in numbers.items()}


def merge_counts(parts: Iterable[Counts]) -> dict[str, Tally]:
    """Add counts of disjoint captions; equal to counting all of them at once."""
    merged: dict[str, Tally] = {}
    for part in parts:
        for concept, tally in part.items():
            held = merged.get(concept)
            merged[concept] = (
                tally if held is None else Tally(held.count + tally.count, _smallest((*held.examples, *tally.examples)))
            )
    return merged


def _digest(caption: str) -> int:
    return int.from_bytes(hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _smallest(examples: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    return tuple(sorted(set(examples))[:EXAMPLES])


def fold_names(counts: Counts, sense: Callable[[str], str | None]) -> dict[str, tuple[str, ...]]:
    """Put names of one sense together: the name that most captions hold, and the others, falling, ties by name.

    Names without a sense, and those alone with theirs, are left out. To have the same sense is an equivalence, so the
    result depends on the counts alone, not on their order.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name].count, name)):
        found = sense(name)
        if found is not None:
            groups.setdefault(found, []).append(name)
    return {first: tuple(others) for first, *others in groups.values() if others}


def choose_vocabulary(
    counts: Counts, *, min_count: int, max_size: int, also: Mapping[str, tuple[str, ...]] | None = None
) -> list[Concept]:
    """Return at most `max_size` concepts of at least `min_count` captions, most frequent first, ties by name.

    `also` has the other names of those concepts that have any.
    """
    frequent = [(name, tally) for name, tally in counts.items() if tally.count >= min_count]
    frequent.sort(key=lambda item: (-item[1].count, item[0]))
    return [
        Concept(
            name=name,
            count=tally.count,
            examples=tuple(caption for _, caption in tally.examples),
            also=(also or {}).get(name, ()),
        )
        for name, tally in frequent[:max_size]
    ]


def longest_names(names: Sequence[str]) -> list[str]:
    """Leave out each name that ends a longer one of the list: a parse offers "truck" beside "fire truck"."""
    return [name for name in names if not any(other.endswith(f" {name}") for other in names)]


def endings(name: str, stop: Collection[str]) -> list[str]:
    """Return a compound and what is left of it without its first words, longest first.

    "red fire truck" gives itself, "fire truck" and "truck". Stop words at the end are taken off before: with "icon" in
    `stop`, "fire truck icon" gives "fire truck" and "truck". Endings that begin with a stop word, and single
    letters of the Latin alphabet, are left out.
    """
    return [ending for _, ending in _placed_endings(name, stop)]


def _placed_endings(name: str, stop: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield the `endings` of a name, each with the place of its first word."""
    words = name.split(" ")
    while words and words[-1] in stop:
        words.pop()
    for start, word in enumerate(words):
        ending = " ".join(words[start:])
        if word not in stop and ending not in stop and not (len(ending) == 1 and ending.isascii()):
            yield start, ending


def resolve(names: Iterable[str], known: Collection[str], stop: Collection[str]) -> list[str]:
    """Return for each name its longest ending that is known, without repeats; names without one are left out.

    So a compound is one concept where it is known ("fire truck"), and otherwise its head ("truck").
    """
    found = (next((ending for ending in endings(name, stop) if ending in known), None) for name in names)
    return list(dict.fromkeys(ending for ending in found if ending is not None))


def describes(name: str, place: int, known: Collection[str], stop: Collection[str]) -> bool:
    """Whether the word at a place of a compound describes what the compound is resolved to, and is no part of it.

    In "city fire truck", if "fire truck" is known, "city" describes it, and "fire" is part of its name. A compound of
    which no ending is known has no name: all of its words describe.
    """
    start = next((start for start, ending in _placed_endings(name, stop) if ending in known), None)
    return start is None or place < start


def read_stop_list(kind: str) -> frozenset[str]:
    """Return the names of `stop_objects.txt` or `stop_attributes.txt` in this package; `#` starts a comment."""
    text = resources.files("stillroom.concepts").joinpath(f"stop_{kind}.txt").read_text(encoding="utf-8")
    return frozenset(name for line in text.splitlines() if (name := line.partition("#")[0].strip()))


def format_vocabulary(vocabulary: Sequence[Concept]) -> bytes:
    """Return a vocabulary as CSV: name, count, example captions, other names."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for concept in vocabulary:
        examples = (" ".join(caption.split()) for caption in concept.examples)
        also = BETWEEN_EXAMPLES.join(concept.also)
        writer.writerow((concept.name, concept.count, BETWEEN_EXAMPLES.join(examples), also))
    return sink.getvalue().encode("utf-8", "replace")


def read_vocabulary(path: Path) -> list[Concept]:
    """Read a vocabulary, perhaps edited by hand; only the column `name` is needed, and its order gives the ids.

    Raises:
        ConfigError: no such file, no column `name`, an empty name or one that stands twice, be it in `also`.
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
        name, also = _spelt(row["name"]), [_spelt(part) for part in (row.get("also") or "").split(BETWEEN_NAMES)]
        also = [other for other in also if other]
        count = (row.get("count") or "0").strip()
        if not name:
            raise ConfigError(f"the vocabulary {path} has an empty name in line {rows.line_num}")
        for own in (name, *also):
            if own in seen:
                raise ConfigError(f"the vocabulary {path} has '{own}' twice in line {rows.line_num}")
            seen.add(own)
        if not count.isdecimal():
            raise ConfigError(f"the vocabulary {path} has the count '{count}' in line {rows.line_num}; it is a number")
        examples = tuple(part for part in (row.get("examples") or "").split(BETWEEN_EXAMPLES) if part)
        vocabulary.append(Concept(name=name, count=int(count), examples=examples, also=tuple(also)))
    return vocabulary


def _spelt(name: str | None) -> str:
    return " ".join((name or "").lower().split())


def vocabulary_digest(vocabulary: Sequence[Concept]) -> str:
    """Return a SHA-256 of the names in their order: labels are indices into it, counts may change."""
    return hashlib.sha256("\n".join(concept.name for concept in vocabulary).encode()).hexdigest()
