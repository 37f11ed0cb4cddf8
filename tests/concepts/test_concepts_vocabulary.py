from __future__ import annotations

import random
from collections import Counter

import pytest

from stillroom.concepts.vocabulary import (
    Concept,
    choose_vocabulary,
    count_concepts,
    describes,
    endings,
    fold_names,
    format_vocabulary,
    longest_names,
    merge_counts,
    read_stop_list,
    read_vocabulary,
    resolve,
)
from stillroom.errors import ConfigError


def captions(number):
    draw = random.Random(0)
    words = ["cat", "dog", "fire truck", "bird", "tree"]
    return [(f"caption {i % (number // 2)}", draw.choices(words, k=draw.randint(0, 4))) for i in range(number)]


def test_counts_are_document_frequencies():
    counts = count_concepts([("two cats, a cat", ["cat", "cat"]), ("a cat and a dog", ["cat", "dog"]), ("", [])])
    assert {name: tally.count for name, tally in counts.items()} == {"cat": 2, "dog": 1}
    assert [text for _, text in counts["dog"].examples] == ["a cat and a dog"]


@pytest.mark.parametrize("cut", [1, 7, 50, 199])
def test_merged_parts_equal_the_whole(cut):
    rows = captions(200)
    whole = count_concepts(rows)
    parts = [count_concepts(rows[start : start + cut]) for start in range(0, len(rows), cut)]
    random.Random(cut).shuffle(parts)
    assert merge_counts(parts) == whole
    oracle = Counter(name for _, names in rows for name in set(names))
    assert {name: tally.count for name, tally in whole.items()} == dict(oracle)


def test_vocabulary_is_cut_by_count_then_size_and_ties_go_by_name():
    counts = count_concepts(
        [(str(i), names) for i, names in enumerate([["b", "a"], ["b", "a"], ["c"], ["d", "c", "b"]])]
    )
    assert [c.name for c in choose_vocabulary(counts, min_count=2, max_size=9)] == ["b", "a", "c"]
    assert [c.name for c in choose_vocabulary(counts, min_count=1, max_size=2)] == ["b", "a"]
    assert choose_vocabulary(counts, min_count=4, max_size=9) == []


def test_compounds_are_whole_where_known_and_their_heads_elsewhere():
    assert endings("red fire truck", ()) == ["red fire truck", "fire truck", "truck"]
    assert endings("fire truck icon", {"icon"}) == ["fire truck", "truck"]
    assert endings("icon", {"icon"}) == []
    assert endings("plan b", ()) == ["plan b"]
    assert longest_names(["truck", "fire truck", "city fire truck", "dog"]) == ["city fire truck", "dog"]
    assert resolve(["city fire truck", "tow truck", "dog"], {"fire truck", "truck"}, ()) == ["fire truck", "truck"]


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
    assert [place for place in range(3) if describes("city fire truck", place, known, ())] == places


def test_words_before_a_stop_word_can_be_the_name():
    assert [place for place in range(2) if describes("big truck icon", place, {"truck"}, {"icon"})] == [0]


def test_names_of_one_sense_go_to_the_most_frequent():
    counts = count_concepts([(str(i), names) for i, names in enumerate([["b", "c"], ["b", "a"], ["d", "e"], ["f"]])])
    senses = {"a": "one", "b": "one", "c": "one", "d": "two", "e": "two", "f": "three"}
    assert fold_names(counts, senses.get) == {"b": ("a", "c"), "d": ("e",)}
    assert fold_names(dict(reversed(counts.items())), senses.get) == {"b": ("a", "c"), "d": ("e",)}


def test_stop_lists_have_names_only():
    for kind in ("objects", "attributes"):
        names = read_stop_list(kind)
        assert names
        assert all(name == name.lower().strip() and "#" not in name for name in names)


def test_table_reads_back_and_takes_edits(tmp_path):
    path = tmp_path / "objects.csv"
    vocabulary = [
        Concept(name="cat", count=3, examples=('a "black" cat', "cat, sitting")),
        Concept(name="fire truck", count=2, examples=(), also=("fire engine", "pumper")),
    ]
    path.write_bytes(format_vocabulary(vocabulary))
    assert read_vocabulary(path) == vocabulary
    path.write_text("name,note\nFire  Truck,mine\nzebra,\n", encoding="utf-8")
    assert [concept.name for concept in read_vocabulary(path)] == ["fire truck", "zebra"]
    path.write_text("name,also\ncar, Automobile|  motor   car|\nzebra,\n", encoding="utf-8")
    assert [concept.also for concept in read_vocabulary(path)] == [("automobile", "motor car"), ()]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("word,count\ncat,1\n", "no column 'name'"),
        ("name\ncat\nCat\n", "'cat' twice in line 3"),
        ("name,also\ncat,dog\ndog,\n", "'dog' twice in line 3"),
        ("name,also\ncat,pet\ndog,Pet\n", "'pet' twice in line 3"),
        ("name,also\ncat,cat\n", "'cat' twice in line 2"),
        ("name,count\n,1\n", "an empty name in line 2"),
        ("name,count\ncat,many\n", "the count 'many' in line 2"),
    ],
)
def test_bad_tables_say_where(tmp_path, text, what):
    path = tmp_path / "objects.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=what):
        read_vocabulary(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_vocabulary(tmp_path / "none.csv")
