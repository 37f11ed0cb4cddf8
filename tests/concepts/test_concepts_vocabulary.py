"""Vocabulary tables: written, edited by hand, read again."""

from __future__ import annotations

import pytest

from stillroom.concepts.vocabulary import (
    Concept,
    format_vocabulary,
    read_fixed_names,
    read_stop_list,
    read_vocabulary,
)
from stillroom.errors import ConfigError
from stillroom.filter.words import COLOURS


def test_word_lists_have_names_only():
    for names in (*map(read_stop_list, ("objects", "attributes", "name_adjectives")), read_fixed_names()):
        assert names
        assert all(name == name.lower().strip() and "#" not in name for name in names)


def test_no_fixed_name_begins_with_a_colour():
    assert not {name.split()[0] for name in read_fixed_names()} & COLOURS


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
        ("name,count\ncat,many\n", "the count 'many', which is no number, in line 2"),
        ("name\ncat\nfire, truck\n", "more fields than columns .' truck' is left; .* in line 3"),
    ],
)
def test_bad_tables_say_where(tmp_path, text, what):
    path = tmp_path / "objects.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=what):
        read_vocabulary(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_vocabulary(tmp_path / "none.csv")


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_caption_is_a_formula_to_a_spreadsheet(tmp_path, start):
    path = tmp_path / "objects.csv"
    caption = f'{start}HYPERLINK("http://e","x")'
    vocabulary = [Concept(name="cat", count=3, examples=(caption, "a cat"))]
    path.write_bytes(format_vocabulary(vocabulary))
    assert f"cat,3,\"'{start}HYPER" in path.read_text(encoding="utf-8")
    assert read_vocabulary(path) == vocabulary
