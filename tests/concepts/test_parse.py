"""Concepts of parsed captions, and of graphs made by hand where a parser would give what it likes."""

import pytest

from stillroom.concepts.captions import tokens_of
from stillroom.concepts.names import is_word
from stillroom.concepts.parse import Modifier, Token, caption_concepts
from stillroom.filter.graph import Attribute, CaptionGraph, SceneObject
from stillroom.filter.parser import load_parser, parse_graphs


def cut(text):
    """Cut a text at spaces and hyphens, as the parser does within letters."""
    return [
        Token(part, end == len(parts) - 1)
        for word in text.split()
        for parts in [word.replace("-", " - ").split()]
        for end, part in enumerate(parts)
    ]


def of_words(text, *objects):
    """Concepts of a text with objects at (token, compound, ((attribute's token, label, kind), ...))."""
    scene = tuple(
        SceneObject(
            lemma=compound.replace("-", " ").split()[-1],
            text=compound,
            compound=compound,
            token=token,
            attributes=tuple(Attribute(token=at, label=label, kind=kind) for at, label, kind in attributes),
        )
        for token, compound, attributes in objects
    )
    return caption_concepts(CaptionGraph(objects=scene, relations=()), cut(text))


def test_the_longest_name_has_all_that_stands_right_before_the_noun():
    found = of_words(
        "two old city sports cars parked",
        (
            4,
            "city sports car",
            [(0, "two", "number"), (1, "old", "adjective"), (2, "city", "noun"), (3, "sport", "noun")],
        ),
        (4, "city sports car", [(5, "parked", "participle")]),
    )
    name = "two old|city sports car"
    assert found.objects == [name, "city sports car"]
    assert found.attributes == ["parked"]
    assert found.modifiers == [
        Modifier("two", name, 0, "number", ""),
        Modifier("old", name, 1, "adjective", "two parked"),
        Modifier("city", name, 2, "noun", ""),
        Modifier("sport", name, 3, "noun", ""),
    ]


def test_each_name_once_in_order_and_numbers_up_to_twelve_are_words():
    labels = ["2", "twelve", "12", "13", "2019", "①"]
    found = of_words(
        "dog ball dog",
        (0, "dog", [(9 + i, label, "number") for i, label in enumerate(labels)]),
        (1, "ball", []),
        (2, "dog", [(20, "12", "number")]),
    )
    assert found == (["dog", "ball"], ["two", "twelve"], [])


def test_a_name_begins_after_the_last_word_that_is_none():
    found = of_words("red B2B fire truck", (3, "b2b fire truck", [(0, "red", "adjective"), (2, "fire", "noun")]))
    assert found.objects == ["fire truck"]
    assert found.attributes == ["red"]
    assert found.modifiers == [Modifier("fire", "fire truck", 0, "noun", "")]
    assert of_words("Mp3", (0, "mp3", [])).objects == []
    assert caption_concepts(CaptionGraph(objects=(), relations=()), []) == ([], [], [])


def test_words_of_any_script_with_their_marks_in_one_spelling():
    assert is_word("हिन्दी")
    assert is_word("กิน")
    assert not is_word("")
    assert not is_word("\u0301")
    assert not is_word("b2b")
    decomposed = of_words("cafe\u0301", (0, "cafe\u0301", []))
    assert decomposed.objects == ["caf\u00e9"]
    assert of_words("हिन्दी", (0, "हिन्दी", [])).objects == ["हिन्दी"]


def test_parts_of_a_hyphenated_word_are_one_object_only_if_they_are_neighbours():
    assert of_words("x-ray", (0, "x", []), (2, "ray", [])).objects == ["x-ray"]
    both = of_words("skull-and-bones", (0, "skull", []), (4, "bone", []))
    assert both.objects == ["skull", "skull-and-bone"]


@pytest.mark.parametrize(
    ("caption", "objects", "attributes", "modifiers"),
    [
        ("Two red fire trucks", ["two red|fire truck"], [], {("two", 0), ("red", 1), ("fire", 2)}),
        ("a parked car", ["parked|car"], [], {("parked", 0)}),
        ("shopping cart", ["shopping cart"], [], {("shopping", 0)}),
        ("The house is old", ["house"], ["old"], set()),
        ("windy", ["windy"], [], set()),
        ("", [], [], set()),
        ("a polar bear", ["polar|bear"], [], {("polar", 0)}),
        ("a hot dog on a plate", ["hot|dog", "plate"], [], {("hot", 0)}),
        ("a red t-shirt", ["red|t-shirt"], [], {("red", 0), ("t", 1)}),
        ("a man in a t-shirt", ["man", "t-shirt"], [], {("t", 0)}),
        ("a teddy-bear", ["teddy-bear"], [], {("teddy", 0)}),
        ("an old x-ray of a hand", ["old|x-ray", "hand"], [], {("old", 0)}),
        ("shopping-cart-outline", ["shopping-cart-outline"], [], {("shopping", 0), ("cart", 1)}),
        ("red-eye frog", ["red-eye frog"], [], {("red", 0), ("eye", 1)}),
        ("a truck next to a fire truck", ["truck", "fire truck"], [], {("fire", 0)}),
        ("a small, brown bird", ["brown|bird"], ["small"], {("brown", 0)}),
        ("12 cats", ["cat"], ["twelve"], set()),
        ("a dark-blue t\u2011shirt", ["t-shirt"], ["blue"], set()),
    ],
)
def test_parsed_captions(caption, objects, attributes, modifiers, nlp):
    (graph,), (tokens,) = parse_graphs(nlp, [caption]), tokens_of(nlp, [caption])
    found = caption_concepts(graph, tokens)
    assert (found.objects, found.attributes) == (objects, attributes)
    assert {(modifier.name, modifier.place) for modifier in found.modifiers} == modifiers


@pytest.fixture(scope="module")
def nlp():
    return load_parser()
