"""Which of the names in captions make the vocabulary, so that every count is of the captions that get the concept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from stillroom.concepts.caption_names import Lists, as_lists, document_counts
from stillroom.concepts.names import endings, name_parts
from stillroom.concepts.wordnet import FirstSense

Also = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A vocabulary's names, most frequent first, ties by name.

    Attributes:
        names: of the concepts.
        counts: of the captions that get each.
        also: for each the other names of the same concept.
        most: captions that hold the most frequent name, whether that is enough or not.
    """

    names: Sequence[str]
    counts: Sequence[int]
    also: Sequence[tuple[str, ...]]
    most: int


def count_endings(shards: Sequence[Lists], names: Sequence[str | None], stop: Set[str]) -> dict[str, int]:
    """Return how many captions hold each ending of their names, as part of a longer one too."""
    known: dict[str, int] = {}
    by = [[known.setdefault(e, len(known)) for e in endings(name, stop)] if name else [] for name in names]
    counts = document_counts(shards, as_lists(by), len(known))
    return dict(zip(known, counts.tolist(), strict=True))


def fold_names(counts: Mapping[str, int], sense: FirstSense | None) -> dict[str, tuple[str, ...]]:
    """Put names of one concept together: the name that most captions hold, and the others, falling, ties by name.

    They are spelt alike but for hyphens ("teddy-bear"), or have the same sense. To be so is an equivalence, so the
    result depends on the counts alone, not on their order. Names that stay alone are left out.
    """
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    senses: dict[str, str] = {}
    for name in ordered:
        found = None if sense is None else sense(name)
        if found is not None:
            senses.setdefault(name.replace("-", " "), found)
    groups: dict[tuple[str | None, str | None], list[str]] = {}
    for name in ordered:
        spaced = name.replace("-", " ")
        key = (senses[spaced], None) if spaced in senses else (None, spaced)
        groups.setdefault(key, []).append(name)
    return {first: tuple(others) for first, *others in groups.values() if others}


def choose(
    shards: Sequence[Lists],
    names: Sequence[str | None],
    stop: Set[str],
    *,
    min_count: int,
    max_size: int,
    free: Callable[[Mapping[str, int]], Set[str]] | None = None,
    sense: FirstSense | None = None,
) -> Choice:
    """Choose at most `max_size` concepts that at least `min_count` captions get.

    A caption gets for each of its names the longest ending that is a concept. So whether "truck" is frequent depends on
    whether "fire truck" is a concept, and the choice goes from long names to short ones: of the concepts with too few
    captions the longest are dropped, their captions go to the next shorter ending, and all are counted again, until
    each has enough. Then those beyond `max_size` are dropped in the same way. Counts of what is left only grow.

    Args:
        shards: for each the numbers of the names in its captions.
        names: by number, None for what is no name.
        stop: names that are no concepts.
        min_count: captions a concept must have.
        max_size: concepts at most.
        free: tells from the counts of endings which are no names.
        sense: of a name; names of one sense are one concept.
    """
    every = count_endings(shards, names, stop)
    for name in free(every) if free is not None else ():
        del every[name]
    also = fold_names(every, sense)
    first_of = {name: first for first, others in also.items() for name in (first, *others)}
    concepts = sorted({first_of.get(name, name) for name in every})
    place = {concept: i for i, concept in enumerate(concepts)}
    of_name = {name: place[first_of.get(name, name)] for name in every}
    candidates = [[of_name[e] for e in endings(name, stop) if e in of_name] if name else [] for name in names]
    # More captions than hold any of its names a concept never gets.
    most = document_counts(shards, as_lists(candidates), len(concepts))
    length = np.zeros(len(concepts), np.int64)
    for name, concept in of_name.items():
        length[concept] = max(length[concept], len(name_parts(name)))
    able = most >= min_count
    choosing = _Choosing(shards, _padded([[c for c in found if able[c]] for found in candidates]), able)
    while len(few := np.flatnonzero(choosing.alive & (choosing.counts < min_count))):
        choosing.drop(few[length[few] == length[few].max()])
    while len(beyond := choosing.ranked()[max_size:]):
        choosing.drop(beyond[length[beyond] == length[beyond].max()])
    ranked = choosing.ranked().tolist()
    return Choice(
        names=[concepts[i] for i in ranked],
        counts=choosing.counts[ranked].tolist(),
        also=[also.get(concepts[i], ()) for i in ranked],
        most=int(most.max(initial=0)),
    )


class _Choosing:
    """Concepts that are still in the choice, and how many captions get each."""

    def __init__(self, shards: Sequence[Lists], candidates: np.ndarray, alive: np.ndarray) -> None:
        self._shards = shards
        self._candidates = candidates  # (names, most endings): concepts of each name's endings, longest first, -1 pads
        self.alive = alive
        self.counts = self._count()

    def drop(self, concepts: np.ndarray) -> None:
        self.alive[concepts] = False
        self.counts = self._count()

    def ranked(self) -> np.ndarray:
        """Return the concepts, most captions first; their numbers rise with their names."""
        order = np.argsort(-self.counts, kind="stable")
        return order[self.alive[order]]

    def _count(self) -> np.ndarray:
        if not self._candidates.size:
            return np.zeros(len(self.alive), np.int64)
        allowed = (self._candidates >= 0) & self.alive[self._candidates]
        found = np.take_along_axis(self._candidates, allowed.argmax(axis=1)[:, None], 1)[:, 0]
        has = allowed.any(axis=1)
        by = Lists(np.concatenate([[0], np.cumsum(has)]), found[has])
        return document_counts(self._shards, by, len(self.alive))


def _padded(lists: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
    for row, numbers in zip(padded, lists, strict=True):
        row[: len(numbers)] = numbers
    return padded
