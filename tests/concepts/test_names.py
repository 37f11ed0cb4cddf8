"""Endings of names, and what stands before them."""

import pytest

from stillroom.concepts.names import describes, endings, name_parts, resolve, spelt

NONE = frozenset()


@pytest.mark.parametrize(
    ("name", "stop", "found"),
    [
        ("red fire truck", NONE, ["red fire truck", "fire truck", "truck"]),
        ("red|fire truck", NONE, ["red fire truck", "fire truck", "truck"]),
        ("fire truck icon", {"icon"}, ["fire truck", "truck"]),
        ("icon", {"icon"}, []),
        ("big|icon", {"icon"}, []),  # no noun is left
        ("big heart icon", {"icon"}, ["big heart", "heart"]),
        ("old|heart icon", {"icon"}, ["old heart", "heart"]),
        ("icon heart", {"icon"}, ["heart"]),
        ("plan b", NONE, ["plan b"]),
        ("t-shirt", NONE, ["t-shirt", "shirt"]),
        ("plan-b", NONE, ["plan-b"]),
        ("toy teddy-bear", NONE, ["toy teddy-bear", "teddy-bear", "bear"]),
        ("red-eye frog", NONE, ["red-eye frog", "frog"]),  # no "eye frog"
        ("shopping-cart-outline", {"outline"}, ["shopping-cart", "cart"]),
        ("cat close-up", {"close-up"}, ["cat"]),
        ("outline-cat", {"outline"}, ["cat"]),
    ],
)
def test_endings(name, stop, found):
    assert endings(name, frozenset(stop)) == found


def test_compounds_are_whole_where_known_and_their_heads_elsewhere():
    assert resolve(["city fire truck", "tow truck", "dog"], {"fire truck", "truck"}, NONE) == ["fire truck", "truck"]
    assert resolve(["teddy-bear", "polar|bear"], {"bear", "polar bear"}, NONE) == ["bear", "polar bear"]


@pytest.mark.parametrize(
    ("known", "places"),
    [
        ({"truck"}, [0, 1]),
        ({"truck", "fire truck"}, [0]),
        ({"city fire truck", "truck"}, []),
        ({"fire"}, [0, 1, 2]),
    ],
)
def test_what_stands_before_the_name_describes_it(known, places):
    assert [place for place in range(3) if describes("city fire truck", place, known, NONE)] == places


def test_words_before_a_stop_word_can_be_the_name():
    assert [place for place in range(2) if describes("big truck icon", place, {"truck"}, frozenset({"icon"}))] == [0]


def test_spelling_and_parts():
    assert spelt("  Cafe\u0301   t\u2011Shirt ") == "caf\u00e9 t-shirt"
    assert name_parts("old|toy t-shirt") == ["old", "toy", "t", "shirt"]
