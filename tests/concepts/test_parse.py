"""Concepts of hand-made graphs and of parsed captions."""

import pytest

from stillroom.concepts.parse import Modifier, caption_concepts
from stillroom.filter.graph import Attribute, CaptionGraph, SceneObject
from stillroom.filter.parser import load_parser, parse_graphs


def thing(lemma, compound, *labels, at=()):
    """An object at token 10, with attributes at tokens before its compound or at those of `at`."""
    places = at or [0] * len(labels)
    attributes = tuple(
        Attribute(kind="adjective", label=label, token=token) for label, token in zip(labels, places, strict=True)
    )
    return SceneObject(lemma=lemma, text=compound, compound=compound, token=10, attributes=attributes)


def all_concepts(*objects):
    return caption_concepts(CaptionGraph(objects=objects, relations=()))


def concepts(*objects):
    found = all_concepts(*objects)
    assert found.modifiers == []
    return found.objects, found.attributes


def test_compounds_are_offered_beside_their_heads():
    assert concepts(thing("truck", "city fire truck")) == (["truck", "fire truck", "city fire truck"], [])


def test_each_word_once_in_order():
    both = concepts(thing("dog", "dog", "small", "red"), thing("ball", "ball", "red"), thing("dog", "guard dog"))
    assert both == (["dog", "ball", "guard dog"], ["small", "red"])


def test_numbers_up_to_twelve_are_words_and_others_left_out():
    assert concepts(thing("dog", "dog", "2", "twelve", "12", "13", "2019", "①"))[1] == ["two", "twelve"]


def test_only_alphabetic_words_in_lower_case():
    haus = thing("Haus", "Grünes Haus", "Grün")
    objects, attributes = concepts(thing("Mp3", "Mp3"), thing("t-shirt", "t-shirt"), haus)
    assert objects == ["haus", "grünes haus"]
    assert attributes == ["grün"]
    assert concepts() == ([], [])


def test_words_of_a_compound_are_modifiers_and_words_around_it_attributes():
    found = all_concepts(
        thing("car", "old city sports car", "red", "city", "sport", "parked", at=(6, 8, 9, 12)),
        thing("car", "city car", "city", at=(9,)),
        thing("car", "city car", "city", at=(9,)),
    )
    assert found.attributes == ["red", "parked"]
    assert found.modifiers == [
        Modifier("city", "old city sports car", 1),
        Modifier("sport", "old city sports car", 2),
        Modifier("city", "city car", 0),
    ]


def test_a_compound_counts_from_its_last_word_that_is_not_alphabetic():
    found = all_concepts(thing("truck", "city t-shirt fire truck", "city", "t-shirt", "fire", at=(5, 7, 9)))
    assert found.objects == ["truck", "fire truck"]
    assert found.attributes == ["city"]
    assert found.modifiers == [Modifier("fire", "fire truck", 0)]


@pytest.mark.parametrize(
    ("caption", "objects", "attributes", "modifiers"),
    [
        ("Two red fire trucks", ["truck", "fire truck"], ["two", "red"], [("fire", "fire truck", 0)]),
        ("a parked car", ["car"], ["parked"], []),
        ("shopping cart", ["cart", "shopping cart"], [], [("shopping", "shopping cart", 0)]),
        ("The house is old", ["house"], ["old"], []),
        ("windy", ["windy"], [], []),
        ("", [], [], []),
    ],
)
def test_parsed_captions(caption, objects, attributes, modifiers, nlp):
    assert [caption_concepts(g) for g in parse_graphs(nlp, [caption])] == [(objects, attributes, modifiers)]


@pytest.fixture(scope="module")
def nlp():
    return load_parser()
