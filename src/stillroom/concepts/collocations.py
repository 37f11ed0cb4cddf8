"""Adjectives that are part of a name: "polar" in "polar bear", but not "wild" in "wild bear".

A noun before a noun makes a name by frequency alone. An adjective mostly describes, so it must also be bound to the
noun: the two come together far more often than by chance. This test is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from stillroom.concepts.caption_names import AROUND, CaptionNames, as_lists, document_counts
from stillroom.concepts.names import endings, name_parts, placed_endings
from stillroom.concepts.vocabulary import read_fixed_names, read_stop_list

MIN_NPMI = 0.7
FEWEST = 8  # captions; the PMI of fewer is mostly chance


def normalised_pmi(both: int, first: int, second: int, total: int) -> float:
    """Return the pointwise mutual information of two events, divided by -log of their joint probability.

    1 if they only come together, 0 if independent, -1 if never together (Bouma 2009, "Normalized (pointwise) mutual
    information in collocation extraction"). 0 where both are in everything.

    Args:
        both: captions with both.
        first: captions with the first.
        second: captions with the second.
        total: captions.
    """
    if not both:
        return -1.0
    if both == total:
        return 0.0
    return math.log(both * total / (first * second)) / -math.log(both / total)


@dataclass(kw_only=True)
class _Beginning:
    """Of an ending: the adjective it begins with (or nothing), its words in captions, what surrounds them."""

    adjective: str
    words: list[int]
    around: set[int]


def free_names(captions: CaptionNames, counts: Mapping[str, int], stop: Set[str], min_count: int) -> set[str]:
    """Return the endings of objects' names that are no names, since an adjective in them only describes.

    An ending that mostly begins with an adjective, participle or number is a name if `fixed_names.txt` has it, or if
    the first is an adjective and not one of `stop_name_adjectives.txt`, `min_count` captions and at least `FEWEST` have
    it so, it stands between three different pairs of neighbours (so that no sentence repeated in many captions makes a
    name), and the adjective and the rest have a normalised PMI of `MIN_NPMI`. With a hyphen after the first word
    ("close-up") only the list is asked. An ending of which a shorter ending is free is free too.

    Args:
        captions: all captions.
        counts: how many captions hold each ending.
        stop: names that are never objects.
        min_count: the vocabulary's.
    """
    begins = _beginnings(captions, stop)
    fixed, unbound = read_fixed_names(), read_stop_list("name_adjectives")
    before = _count(captions, {word: name for name, found in begins.items() for word in found.words})
    adjectives = {found.adjective for found in begins.values()}
    alone = _count(captions, {n: word.name for word, n in captions.words.items() if word.name in adjectives})
    loose: set[str] = set()
    for name, found in begins.items():
        if 2 * before[name] <= counts[name] or name.replace("-", " ") in fixed:
            continue
        first = name_parts(name)[0]
        bound = bool(found.adjective) and unbound.isdisjoint((found.adjective, first))
        if bound and name[len(first)] == " ":
            enough = before[name] >= max(min_count, FEWEST) and len(found.around) >= AROUND
            rest = counts.get(name[len(first) + 1 :], 0)  # none if the rest can be no name, as a single letter cannot
            pmi = normalised_pmi(before[name], alone[found.adjective], rest, captions.captions) if rest else -1.0
            bound = enough and pmi >= MIN_NPMI
        if not bound:
            loose.add(name)
    return {name for name in counts if name not in fixed and not loose.isdisjoint(endings(name, frozenset()))}


def _beginnings(captions: CaptionNames, stop: Set[str]) -> dict[str, _Beginning]:
    """Return the endings of objects' names that begin with an adjective, participle or number in some caption."""
    found: dict[str, _Beginning] = {}
    for word, number in captions.words.items():
        if word.object is None or word.kind == "noun":
            continue
        name = next((ending for place, ending in placed_endings(word.object, stop) if place == word.place), None)
        if name is None or len(name_parts(name)) == 1:
            continue
        held = found.setdefault(name, _Beginning(adjective="", words=[], around=set()))
        held.words.append(number)
        held.around.update(captions.around.get(number, ()) if word.kind == "adjective" else ())
        if word.kind == "adjective":
            held.adjective = max(held.adjective, word.name)
    return found


def _count(captions: CaptionNames, of_word: Mapping[int, str]) -> dict[str, int]:
    """Return how many captions have each name, with `of_word` the name of those words that have one."""
    names = {name: place for place, name in enumerate(dict.fromkeys(of_word.values()))}
    by = as_lists([[names[of_word[word]]] if word in of_word else [] for word in range(len(captions.words))])
    counts = document_counts(captions.word_rows, by, len(names))
    return dict(zip(names, counts.tolist(), strict=True))
