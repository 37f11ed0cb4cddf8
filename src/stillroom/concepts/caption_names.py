"""The names in captions as numbers: what stands in a parsed shard, and in how many captions each thing does.

A name is stored once, a caption as the numbers of its names: four bytes for each, so that a million captions fit in
tens of megabytes and can be counted again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stillroom.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

AROUND = 3  # different surroundings that an adjective in a name needs; no more are remembered
NOTHING = np.zeros(0, np.int32)


class Lists(NamedTuple):
    """Lists of numbers: list i is `numbers[starts[i]:starts[i + 1]]`."""

    starts: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> np.ndarray:
        """Return for each number its list."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


class Word(NamedTuple):
    """A word that may be an attribute: always, or (with an `object`) if it describes the object and names no part."""

    name: str
    object: str | None = None
    place: int = 0
    kind: str = ""


@dataclass(kw_only=True)
class CaptionNames:
    """What the captions of some shards offer.

    Attributes:
        objects: longest names of objects -> their numbers.
        words: words that may be attributes -> their numbers.
        object_rows: for each shard the objects of each caption.
        word_rows: the same for words.
        around: of adjectives by number, digests of up to `AROUND` of their surroundings.
    """

    objects: dict[str, int] = field(default_factory=dict)
    words: dict[Word, int] = field(default_factory=dict)
    object_rows: list[Lists] = field(default_factory=list)
    word_rows: list[Lists] = field(default_factory=list)
    around: dict[int, set[int]] = field(default_factory=dict)

    @property
    def captions(self) -> int:
        """How many captions there are."""
        return sum(len(rows) for rows in self.object_rows)


def read_names(tables: Iterable[pa.Table]) -> CaptionNames:
    """Read the columns `objects`, `attributes` and `modifiers` of parsed shards, one at a time.

    Raises:
        ArtifactError: they have other modifiers than `captions.modifier_type`.
    """
    found = CaptionNames()
    for table in tables:
        objects, values = _flat(table["objects"])
        names, codes = _codes(values)
        found.object_rows.append(Lists(objects, _numbers(found.objects, names)[codes]))
        plain, values = _flat(table["attributes"])
        names, codes = _codes(values)
        plain_words = Lists(plain, _numbers(found.words, [Word(name) for name in names])[codes])
        modifiers, values = _flat(table["modifiers"])
        found.word_rows.append(_beside(plain_words, Lists(modifiers, _modifiers(found, values))))
    return found


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    lists = column.combine_chunks()
    starts = lists.offsets.to_numpy()
    return starts - starts[0], lists.flatten()


def _codes(values: pa.Array) -> tuple[list[Any], np.ndarray]:
    """Return the distinct values in order of appearance, and for each value its place among them."""
    encoded = values.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(known: dict[Any, int], names: Iterable[Any]) -> np.ndarray:
    return np.fromiter((known.setdefault(name, len(known)) for name in names), np.int32)


def _modifiers(found: CaptionNames, values: pa.StructArray) -> np.ndarray:
    if not len(values):
        return NOTHING
    if [field.name for field in values.type] != [*Word._fields, "around"]:
        raise ArtifactError(
            "the captions were parsed by another version of stillroom: write to a new folder, without --reuse"
        )
    *facts, around = [_codes(column) for column in values.flatten()]
    code = np.zeros(len(values), np.int64)
    for names, codes in facts:
        code = code * len(names) + codes
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    words = [Word(*(names[codes[i]] for names, codes in facts)) for i in first.tolist()]
    numbers = _numbers(found.words, words)[inverse]
    digests = np.asarray(around[0], np.int64)[around[1]]
    for number, digest in np.unique(np.stack([numbers, digests], 1), axis=0).tolist():
        held = found.around.setdefault(number, set())
        if len(held) < AROUND:
            held.add(digest)
    return numbers


def _beside(one: Lists, other: Lists) -> Lists:
    order = np.argsort(np.concatenate([one.rows(), other.rows()]), kind="stable")
    return Lists(one.starts + other.starts, np.concatenate([one.numbers, other.numbers])[order])


def as_lists(lists: Sequence[Sequence[int]]) -> Lists:
    """Store lists of numbers."""
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(numbers) for numbers in lists], out=starts[1:])
    return Lists(starts, np.fromiter((number for numbers in lists for number in numbers), np.int32))


def replaced(rows: Lists, by: Lists) -> Lists:
    """Return rows with each number replaced by a list of numbers; within a row rising and each once."""
    lengths = np.diff(by.starts)[rows.numbers]
    row = np.repeat(rows.rows(), lengths)
    skip = np.repeat(by.starts[:-1][rows.numbers] - (np.cumsum(lengths) - lengths), lengths)
    number = by.numbers[np.arange(len(row)) + skip]
    size = int(by.numbers.max(initial=0)) + 1
    pairs = np.unique(row.astype(np.int64) * size + number)
    starts = np.searchsorted(pairs, np.arange(len(rows) + 1) * size)
    return Lists(starts, (pairs % size).astype(np.int32))


def document_counts(shards: Iterable[Lists], by: Lists, size: int) -> np.ndarray:
    """Return in how many captions each of `size` things is; `by` has the things that a number gives."""
    counts = np.zeros(size, np.int64)
    for rows in shards:
        counts += np.bincount(replaced(rows, by).numbers, minlength=size)
    return counts
