"""Candidate concepts of a caption, read from its graph and its words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stillroom.concepts.names import HYPHENS, NOUN, is_word, name_parts, spelt

if TYPE_CHECKING:
    from stillroom.filter.graph import Attribute, CaptionGraph, SceneObject

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


class Token(NamedTuple):
    """A token of the text that was parsed, as written, and whether white space follows."""

    text: str
    space: bool


class Modifier(NamedTuple):
    """A word of an object's name that may describe it instead: "fire" at place 0 of "fire truck".

    `name` is the word as an attribute, perhaps a lemma ("sport"), `object` the stored name, `place` the part of it.
    `kind` is the attribute's in the graph. `around` has the words on both sides of "polar bear" for an adjective like
    "polar" there, and is empty for other kinds.
    """

    name: str
    object: str
    place: int
    kind: str
    around: str


class CaptionConcepts(NamedTuple):
    """What a caption offers as concepts, each once, in order of appearance."""

    objects: list[str]
    attributes: list[str]
    modifiers: list[Modifier]


class _Name(NamedTuple):
    """An object's longest name as it is stored, and the place in it of each token of which it was made."""

    text: str
    places: dict[int, int]


def caption_concepts(graph: CaptionGraph, tokens: Sequence[Token]) -> CaptionConcepts:
    """The object and attribute words of a caption.

    An object offers its longest name: its head, the nouns before it, a hyphenated word of which it is the last noun,
    and the adjectives, participles and numbers right before them ("white polar bear", "t-shirt"). Which ending of it
    the caption counts for is decided by the vocabulary. Attributes are adjectives, participles as written, numbers up
    to twelve as words ("2 cats" gives "two"), and nouns before a noun. Those in an object's longest name are given
    apart, as modifiers: whether "fire" describes the truck or is part of its name depends on the vocabulary too.

    Words are lemmas in lower case (nouns before another noun as written), of letters of any script; a name begins after
    the last of its words that has others.

    DiHT extracts concepts from parsed captions without saying how (`docs/papers.md`); these rules are our choice.

    Args:
        graph: of the caption.
        tokens: those that the graph's indices count.
    """
    words = _hyphenated(tokens)
    objects: list[str] = []
    attributes: list[str] = []
    modifiers: list[Modifier] = []
    for found, described in _one_a_word(graph.objects, words):
        name = _longest_name(found, described, tokens, words)
        objects.append(name.text)
        for attribute in described:
            label = _label(attribute)
            place = name.places.get(attribute.token)
            if place is None:
                attributes.append(label)
            else:
                around = _around(attribute, found, tokens) if attribute.kind == "adjective" else ""
                modifiers.append(Modifier(label, name.text, place, attribute.kind, around))
    kept = [modifier for modifier in dict.fromkeys(modifiers) if _is_name(modifier.name)]
    return CaptionConcepts(_distinct(objects), _distinct(attributes), kept)


def _hyphenated(tokens: Sequence[Token]) -> list[int]:
    """Return for each token the first token of its word: "t", "-", "shirt" without spaces are one word."""
    first = list(range(len(tokens)))
    for i in range(1, len(tokens) - 1):
        if tokens[i].text in HYPHENS and not tokens[i - 1].space and not tokens[i].space:
            first[i] = first[i + 1] = first[i - 1]
    return first


def _one_a_word(
    objects: Iterable[SceneObject], words: Sequence[int]
) -> list[tuple[SceneObject, tuple[Attribute, ...]]]:
    """Return objects with their attributes; neighbours within a word are one, for the graph of "x-ray" has two."""
    kept: list[tuple[SceneObject, tuple[Attribute, ...]]] = []
    for found in objects:
        before: tuple[Attribute, ...] = ()
        if kept and words[kept[-1][0].token] == words[found.token] and kept[-1][0].token == found.token - 2:
            before = kept.pop()[1]
        kept.append((found, (*before, *found.attributes)))
    return kept


def _longest_name(
    found: SceneObject, described: Iterable[Attribute], tokens: Sequence[Token], words: Sequence[int]
) -> _Name:
    start = words[found.token]
    left = len(found.compound) - len(found.lemma)  # characters of the words before the head
    for i in range(found.token - 1, -1, -1):
        if left <= 0:
            break
        left -= len(tokens[i].text.lower()) + tokens[i].space
        start = min(start, words[i])
    noun = start
    adjectives = {attribute.token for attribute in described}
    while start and start - 1 in adjectives and words[start - 1] == start - 1:
        start -= 1
    return _name(start, noun, found, tokens, words)


def _name(start: int, noun: int, found: SceneObject, tokens: Sequence[Token], words: Sequence[int]) -> _Name:
    """Join the tokens from `start` to the object's head, without those up to the last that holds no word.

    `noun` is the first token that is no adjective before the name.
    """
    parts: list[tuple[str, str, int]] = []  # what stands before the part, the part, its token
    for i in range(start, found.token + 1):
        if words[i] != i and tokens[i].text in HYPHENS:
            continue
        if parts and words[i] == i and not tokens[i - 1].space:
            parts = []
        before = "-" if words[i] != i else NOUN if i == noun else " "
        text = spelt(found.lemma if i == found.token else tokens[i].text)
        for part in text.split("-"):
            parts = [*parts, (before, part, i)] if is_word(part) else []
            before = "-"
    places: dict[int, int] = {}
    for place, (_, _, token) in enumerate(parts[:-1]):
        places.setdefault(token, place)
    return _Name("".join(before + part for before, part, _ in parts)[1:], places)


def _around(attribute: Attribute, found: SceneObject, tokens: Sequence[Token]) -> str:
    before = tokens[attribute.token - 1].text if attribute.token else ""
    after = tokens[found.token + 1].text if found.token + 1 < len(tokens) else ""
    return f"{before} {after}".lower()


def _label(attribute: Attribute) -> str:
    label = attribute.label
    if label.isascii() and label.isdigit() and len(label) <= 2 and int(label) < len(NUMBER_WORDS):
        return NUMBER_WORDS[int(label)]
    return spelt(label)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if _is_name(name)))


def _is_name(name: str) -> bool:
    parts = name_parts(name)
    return bool(parts) and all(is_word(part) for part in parts)
