"""Vocabularies and concept ids from parsed captions made by hand."""

from __future__ import annotations

import logging
import random
from collections import Counter

import pyarrow as pa
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts import counting
from stillroom.concepts.captions import modifier_type
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import KINDS, concept_ids, make_vocabularies
from stillroom.concepts.names import endings, name_parts, resolve
from stillroom.concepts.vocabulary import Concept, read_fixed_names
from stillroom.errors import ArtifactError, ConfigError

SENSES = {
    "objects": {
        "car": "car.n.01",
        "automobile": "car.n.01",
        "auto": "car.n.01",
        "fire truck": "fire_engine.n.01",
        "fire engine": "fire_engine.n.01",
        "bus": "bus.n.01",
    },
    "attributes": {"gray": "grey.s.01", "grey": "grey.s.01", "fire": None},
}


@pytest.fixture
def senses(monkeypatch):
    monkeypatch.setattr(counting, "load_first_senses", lambda: {kind: SENSES[kind].get for kind in SENSES})


@pytest.fixture
def parsed(tmp_path):
    """Return a function that stores rows of (longest names of objects, attributes) as parsed shards."""

    def store(rows, shards=1):
        folder = tmp_path / f"parsed{len(list(tmp_path.iterdir()))}"
        writer = StageWriter(folder, stage="concepts-parsed", config={}, inputs={}, seed=None)
        for number in range(shards):
            writer.write_shard(str(number), table(rows[number::shards]))
        writer.finish({}, shards=[str(number) for number in range(shards)], timings={})
        return open_stage(folder, "concepts-parsed")

    return store


def table(rows):
    """Every word of a name but the last may be an attribute; those before "|" are adjectives, `around` is drawn."""
    names = pa.list_(pa.string())
    return pa.table(
        {
            "key": [str(place) for place in range(len(rows))],
            "caption": [str(row) for row in rows],
            "objects": pa.array([list(row[0]) for row in rows], names),
            "attributes": pa.array([list(row[1]) for row in rows], names),
            "modifiers": pa.array([modifiers(row) for row in rows], pa.list_(modifier_type())),
        }
    )


def modifiers(row):
    around = random.Random(str(row)).getrandbits(50)
    found = []
    for name in row[0]:
        adjectives = len(name_parts(name.rpartition("|")[0]))
        for place, word in enumerate(name_parts(name)[:-1]):
            kind = "adjective" if place < adjectives else "noun"
            found.append({"name": word, "object": name, "place": place, "kind": kind, "around": around})
    return found


def counted(vocabulary):
    return [(concept.name, concept.count, concept.also) for concept in vocabulary]


def names_and_counts(vocabulary):
    return [(concept.name, concept.count) for concept in vocabulary]


def labelled(rows, vocabularies, config):
    """Return how many captions get each concept, by kind."""
    found = {}
    for kind in KINDS:
        ids = Counter(i for row in concept_ids(table(rows), kind, vocabularies, config) for i in row)
        found[kind] = [(concept.name, ids[i]) for i, concept in enumerate(vocabularies[kind])]
    return found


FIRE_TRUCK = (["fire truck"], ["red"])
CITY_FIRE_TRUCK = (["city fire truck"], [])
FIRE_DOOR = (["fire door"], [])


def test_a_word_of_a_kept_compound_is_no_attribute(parsed):
    rows = [FIRE_TRUCK, FIRE_TRUCK, CITY_FIRE_TRUCK, FIRE_DOOR, (["door"], [])]
    kept = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2))
    assert counted(kept["objects"]) == [("fire truck", 3, ()), ("door", 2, ())]
    assert counted(kept["attributes"]) == [("red", 2, ())]
    all_of_them = make_vocabularies(parsed(rows), ConceptsConfig(min_count=1))
    # Every compound is whole here, so nothing is left to describe them.
    assert {concept.name for concept in all_of_them["attributes"]} == {"red"}
    rare = make_vocabularies(parsed(rows), ConceptsConfig(min_count=4))
    assert counted(rare["objects"]) == []
    assert counted(rare["attributes"]) == [("fire", 4, ())]  # no object has a name, so all of its words describe


def test_attributes_follow_the_vocabulary_as_it_is_cut(parsed):
    rows = [*[(["door"], [])] * 4, *[FIRE_TRUCK] * 3]
    cut = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2, max_objects=1))
    assert counted(cut["objects"]) == [("door", 4, ())]
    assert counted(cut["attributes"]) == [("fire", 3, ()), ("red", 3, ())]


def test_captions_of_a_dropped_compound_go_to_its_next_ending(parsed):
    rows = [(["toy fire truck"], [])] * 15 + [(["fire truck"], [])] * 14 + [(["truck"], [])] * 10
    kept = make_vocabularies(parsed(rows), ConceptsConfig(min_count=15))
    assert names_and_counts(kept["objects"]) == [("truck", 24), ("toy fire truck", 15)]
    one = make_vocabularies(parsed(rows), ConceptsConfig(min_count=1, max_objects=1))
    assert names_and_counts(one["objects"]) == [("truck", 39)]
    rows = [(["door"], [])] * 40 + [(["truck"], [])] * 30 + [(["fire truck"], [])] * 20
    cut = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2, max_objects=2))
    assert names_and_counts(cut["objects"]) == [("truck", 50), ("door", 40)]


def test_a_plain_noun_beside_its_compound_counts_too(parsed):
    rows = [(["truck", "fire truck"], [])] * 20 + [(["truck"], [])] * 3
    kept = make_vocabularies(parsed(rows), ConceptsConfig(min_count=15))
    assert names_and_counts(kept["objects"]) == [("truck", 23), ("fire truck", 20)]
    assert concept_ids(table(rows[:1]), "objects", kept, ConceptsConfig()) == [[0, 1]]


def test_hyphenated_words_count_with_their_other_spelling_or_as_their_last_part(parsed):
    rows = [(["teddy-bear"], [])] * 3 + [(["teddy bear"], [])] * 2 + [(["bear"], [])] * 2 + [(["t-shirt"], [])] * 4
    config = ConceptsConfig(min_count=2)
    kept = make_vocabularies(parsed(rows), config)
    assert counted(kept["objects"]) == [("teddy-bear", 5, ("teddy bear",)), ("t-shirt", 4, ()), ("bear", 2, ())]
    rare = make_vocabularies(parsed(rows), ConceptsConfig(min_count=6))
    assert counted(rare["objects"]) == [("bear", 7, ())]
    assert names_and_counts(rare["attributes"]) == []
    icons = [(["shopping-cart-outline"], [])] * 2 + [(["shopping cart"], [])] * 2 + [(["cart outline"], [])] * 2
    kept = make_vocabularies(parsed(icons), config)
    assert counted(kept["objects"]) == [("shopping cart", 4, ("shopping-cart",)), ("cart", 2, ())]


def adjectives_and_nouns(number=600):
    """Free pairs of adjectives and nouns, and a bound one, each caption once."""
    draw = random.Random(5)
    free = ("young", "wild", "quiet", "wet", "red", "left")
    rows = []
    for i in range(number):
        name = f"{draw.choice(free)}|{draw.choice(('bear', 'cat', 'dog', 'arrow', 'car'))}"
        rows.append(([name], [f"word{i}"]))
    rows += [(["polar|bear"], [f"word{i}"]) for i in range(40)]
    rows += [(["angry|polar bear"], []), (["ice polar|bear"], []), (["red|car"], ["parked"])]
    return rows


def test_an_adjective_is_part_of_a_name_only_if_it_is_bound_to_the_noun(parsed):
    rows = [row for row in adjectives_and_nouns() if "polar|" not in row[0][0]]
    rows += [(["prickly|plant"], [f"word{i}"]) for i in range(30)] + [(["plant"], [])] * 30
    rows += [(["torn prickly|plant"], []), (["red prickly|plant"], [])]
    config = ConceptsConfig(min_count=8)
    kept = make_vocabularies(parsed(rows), config)
    assert {concept.name for concept in kept["objects"] if " " in concept.name} == {"prickly plant"}
    counts = dict(names_and_counts(kept["objects"]))
    assert counts["prickly plant"] == 32
    assert counts["plant"] == 30
    assert "prickly plant" not in read_fixed_names()
    assert {"red", "wild", "left"} <= {concept.name for concept in kept["attributes"]}
    assert "prickly" not in {concept.name for concept in kept["attributes"]}


def test_a_pair_in_one_sentence_only_is_no_name_and_colours_never_make_one(parsed):
    rows = adjectives_and_nouns()
    rows += [(["grim|reaper"], [])] * 40  # between the same words in every caption
    rows += [(["purple|herring"], [f"word{i}"]) for i in range(40)]  # bound, but a colour
    kept = make_vocabularies(parsed(rows), ConceptsConfig(min_count=8))
    names = {concept.name for concept in kept["objects"]}
    assert {"reaper", "herring"} <= names
    assert {name for name in names if " " in name} == {"polar bear"}


def test_labels_name_attributes_as_the_counts_do(parsed):
    rows = [FIRE_TRUCK, FIRE_TRUCK, CITY_FIRE_TRUCK, FIRE_DOOR]
    config = ConceptsConfig(min_count=1)
    attributes = [Concept(name=name, count=0, examples=()) for name in ("fire", "city", "red")]
    objects = [Concept(name=name, count=0, examples=()) for name in ("truck", "fire truck", "door")]
    both = {"objects": objects, "attributes": attributes}
    assert concept_ids(table(rows), "objects", both, config) == [[1], [1], [1], [2]]
    assert concept_ids(table(rows), "attributes", both, config) == [[2], [2], [1], [0]]
    heads_only = {"objects": [objects[0]], "attributes": attributes}
    assert concept_ids(table(rows), "attributes", heads_only, config) == [[0, 2], [0, 2], [0, 1], [0]]


def test_synonyms_are_counted_by_caption_and_named_by_the_more_frequent(parsed, senses):
    rows = [
        (["car", "automobile"], ["gray", "grey"]),  # one caption with both names counts once
        (["car"], ["grey"]),
        (["race car"], ["grey"]),
        (["auto"], []),
        (["bus"], []),
    ]
    folded = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2, fold_synonyms=True))
    assert counted(folded["objects"]) == [("car", 4, ("auto", "automobile"))]
    assert counted(folded["attributes"]) == [("grey", 3, ("gray",))]
    assert concept_ids(table(rows), "objects", folded, ConceptsConfig()) == [[0], [0], [0], [0], []]
    assert concept_ids(table(rows), "attributes", folded, ConceptsConfig()) == [[0], [0], [0], [], []]
    plain = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2))
    assert counted(plain["objects"]) == [("car", 3, ())]


def test_compounds_of_one_sense_are_whole_where_they_are_frequent_together(parsed, senses):
    rows = [FIRE_TRUCK, FIRE_TRUCK, *[(["fire engine"], [])] * 3, (["engine"], [])]
    folded = make_vocabularies(parsed(rows), ConceptsConfig(min_count=4, fold_synonyms=True))
    assert counted(folded["objects"]) == [("fire engine", 5, ("fire truck",))]
    assert folded["attributes"] == []
    plain = make_vocabularies(parsed(rows), ConceptsConfig(min_count=4))
    assert counted(plain["objects"]) == [("engine", 4, ())]
    assert counted(plain["attributes"]) == [("fire", 5, ())]


def random_rows(draw, number=120):
    words = ["car", "automobile", "auto", "bus", "fire", "truck", "engine", "race", "tow", "t-shirt", "icon"]

    def name():
        nouns = " ".join(draw.choices(words, weights=range(len(words), 0, -1), k=draw.choice((1, 1, 2, 2, 3))))
        return f"{draw.choice(('red', 'polar'))}|{nouns}" if draw.random() < 0.3 else nouns

    return [
        ([name() for _ in range(draw.randint(0, 3))], draw.choices(("grey", "gray", "red"), k=draw.randint(0, 2)))
        for _ in range(number)
    ]


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_counts_are_of_the_captions_that_get_a_concept_however_the_data_are_cut(parsed, senses, seed, fold):
    draw = random.Random(seed)
    rows = random_rows(draw)
    config = ConceptsConfig(
        min_count=draw.choice((2, 6, 12)),
        max_objects=draw.choice((2, 5, 100)),
        max_attributes=draw.choice((1, 3, 100)),
        fold_synonyms=fold,
    )
    whole = make_vocabularies(parsed(rows), config)
    assert whole["objects"]
    for kind, vocabulary in whole.items():
        assert names_and_counts(vocabulary) == labelled(rows, whole, config)[kind]
        assert [(-c.count, c.name) for c in vocabulary] == sorted((-c.count, c.name) for c in vocabulary)
        assert all(concept.count >= config.min_count for concept in vocabulary)
        assert len(vocabulary) <= getattr(config, f"max_{kind}")
    assert make_vocabularies(parsed(rows, shards=draw.randint(2, 7)), config) == whole
    draw.shuffle(rows)
    assert make_vocabularies(parsed(rows, shards=3), config) == whole


@pytest.mark.parametrize("seed", range(4))
def test_no_name_is_left_out_that_would_get_enough_captions(parsed, seed):
    rows = random_rows(random.Random(seed))
    config = ConceptsConfig(min_count=6)
    chosen = {concept.name for concept in make_vocabularies(parsed(rows), config)["objects"]}
    stop = counting.stop_list("objects", config)
    every = {e for names, _ in rows for name in names for e in endings(name, stop)}
    for name in every - chosen:
        if not {"red", "polar"} & set(name.split()):
            got = sum(name in resolve(names, chosen | {name}, stop) for names, _ in rows)
            assert got < config.min_count
    assert chosen <= every


def test_examples_are_a_sample_of_different_captions_and_cut(parsed):
    rows = [(["cat"], [f"{'long ' * 100}{i % 5}"]) for i in range(50)]
    (cat,) = make_vocabularies(parsed(rows), ConceptsConfig(min_count=11))["objects"]
    assert cat.count == 50
    assert len(cat.examples) == 3
    assert {len(example) for example in cat.examples} == {300}
    few = make_vocabularies(parsed([(["cat"], [])] * 4), ConceptsConfig(min_count=1))["objects"]
    assert few[0].examples == ("(['cat'], [])",)


def given(folder, objects, attributes="name\n"):
    folder.mkdir()
    (folder / "objects.csv").write_text(objects, encoding="utf-8")
    (folder / "attributes.csv").write_text(attributes, encoding="utf-8")
    return ConceptsConfig(vocabulary=str(folder))


def test_a_given_vocabulary_is_counted_anew(parsed, tmp_path, caplog):
    rows = [(["polar|bear"], [])] * 3 + [(["teddy bear"], [])] * 2 + [(["red|car"], ["old"])]
    store = parsed(rows)
    config = given(
        tmp_path / "given",
        "name,count,examples\npolar bear,900,of other data\nbear,,\ncars,7,\nred car,,\nzebra,1,\n",
        "name\npolar\nteddy\nold\n",
    )
    with caplog.at_level(logging.WARNING, logger="stillroom"):
        kept = make_vocabularies(store, config)
    assert names_and_counts(kept["objects"]) == [
        ("polar bear", 3),
        ("bear", 2),
        ("cars", 0),
        ("red car", 1),
        ("zebra", 0),
    ]
    assert kept["objects"][0].examples == ("(['polar|bear'], [])",)
    assert kept["objects"][2].examples == ()
    assert names_and_counts(kept["attributes"]) == [("polar", 0), ("teddy", 2), ("old", 1)]
    assert "no caption has 2 of the 5 objects given: cars, zebra; names are lemmas" in caplog.text
    assert "no caption has 1 of the 3 attributes given: polar" in caplog.text
    assert labelled(rows, kept, config) == {kind: names_and_counts(kept[kind]) for kind in KINDS}


def test_stop_words_are_spelt_as_names_are(parsed):
    rows = [(["heart badge"], ["flat"])] * 3
    config = ConceptsConfig(min_count=1, extra_stop_objects=(" Badge",), extra_stop_attributes=("Flat",))
    kept = make_vocabularies(parsed(rows), config)
    assert names_and_counts(kept["objects"]) == [("heart", 3)]
    assert kept["attributes"] == []


def test_nothing_frequent_enough_says_how_frequent(parsed):
    with pytest.raises(ConfigError, match="the most frequent one occurs in 3"):
        make_vocabularies(parsed([FIRE_TRUCK] * 3), ConceptsConfig(min_count=4))


def test_parses_of_another_version_are_refused():
    old = [[{"name": "fire", "object": "fire truck", "place": 0}]]
    rows = pa.table({"objects": [["truck", "fire truck"]], "attributes": [["red"]], "modifiers": old})
    with pytest.raises(ArtifactError, match="another version of stillroom: write to a new folder"):
        concept_ids(rows, "objects", {kind: [] for kind in KINDS}, ConceptsConfig())


def test_folding_is_not_for_a_given_vocabulary():
    with pytest.raises(ConfigError, match="leave fold_synonyms or vocabulary out"):
        ConceptsConfig(fold_synonyms=True, vocabulary="somewhere")
