"""Candidate concepts of a caption, read from its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stillroom.filter.graph import CaptionGraph, SceneObject

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


class Modifier(NamedTuple):
    """A word before a noun that may be part of its name: "fire" at place 0 of "fire truck".

    `name` is the word as an attribute, perhaps a lemma ("sport"), `object` the compound, `place` the word in it.
    """

    name: str
    object: str
    place: int


class CaptionConcepts(NamedTuple):
    """What a caption offers as concepts, each once, in order of appearance."""

    objects: list[str]
    attributes: list[str]
    modifiers: list[Modifier]


def caption_concepts(graph: CaptionGraph) -> CaptionConcepts:
    """The object and attribute words of a caption.

    Words are lemmas in lower case and alphabetic in every part (of any script); others are left out. An object offers
    its head and every compound that ends in it: "truck", "fire truck", "city fire truck". Attributes are adjectives,
    participles as written, numbers up to twelve as words ("2 cats" gives "two"), and nouns before a noun. Of the last,
    those that a compound begins with or holds are given apart, as modifiers: whether "fire" describes the truck or is
    part of the name "fire truck" depends on whether the vocabulary has that compound.

    DiHT extracts concepts from parsed captions without saying how (`docs/papers.md`); these rules are our choice.
    """
    objects: list[str] = []
    attributes: list[str] = []
    modifiers: list[Modifier] = []
    for found in graph.objects:
        objects.extend(_object_terms(found))
        compound = _alphabetic_end(found.compound.lower().split())
        for attribute in found.attributes:
            place = len(compound) - 1 - (found.token - attribute.token)
            label = _number_word(attribute.label)
            if 0 <= place < len(compound) - 1:
                modifiers.append(Modifier(label, " ".join(compound), place))
            else:
                attributes.append(label)
    kept = [modifier for modifier in dict.fromkeys(modifiers) if modifier.name.isalpha()]
    return CaptionConcepts(_distinct(objects), _distinct(attributes), kept)


def _alphabetic_end(words: list[str]) -> list[str]:
    """Return the longest ending of alphabetic words; in it, a word is a token of the caption."""
    start = len(words)
    while start and words[start - 1].isalpha():
        start -= 1
    return words[start:]


def _object_terms(scene_object: SceneObject) -> Iterator[str]:
    words = scene_object.compound.lower().split()
    for start in range(len(words) - 1, -1, -1):
        yield " ".join(words[start:])


def _number_word(label: str) -> str:
    if label.isascii() and label.isdigit() and len(label) <= 2 and int(label) < len(NUMBER_WORDS):
        return NUMBER_WORDS[int(label)]
    return label.lower()


def _distinct(terms: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(t for t in terms if t.replace(" ", "").isalpha()))
