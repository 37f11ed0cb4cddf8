"""Vocabularies and concept ids from parsed captions made by hand."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts import counting
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import concept_ids, make_vocabularies
from stillroom.concepts.vocabulary import Concept
from stillroom.errors import ConfigError

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
    """Return a function that stores rows of (objects as the longest names, attributes, modifiers) as parsed shards."""

    def store(rows, shards=1):
        folder = tmp_path / f"parsed{len(list(tmp_path.iterdir()))}"
        writer = StageWriter(folder, stage="concepts-parsed", config={}, inputs={}, seed=None)
        for number in range(shards):
            writer.write_shard(str(number), table(rows[number::shards], number))
        writer.finish({}, shards=[str(number) for number in range(shards)], timings={})
        return open_stage(folder, "concepts-parsed")

    return store


def table(rows, number=0):
    offered = [[" ".join(n.split()[i:]) for n in o for i in reversed(range(len(n.split())))] for o, _, _ in rows]
    names = pa.list_(pa.string())
    modifier = pa.struct([("name", pa.string()), ("object", pa.string()), ("place", pa.int32())])
    return pa.table(
        {
            "key": [f"{number}-{place}" for place in range(len(rows))],
            "caption": [f"caption {number}-{place}: {row}" for place, row in enumerate(rows)],
            "objects": pa.array([list(dict.fromkeys(found)) for found in offered], names),
            "attributes": pa.array([list(a) for _, a, _ in rows], names),
            "modifiers": pa.array(
                [[dict(zip(("name", "object", "place"), m, strict=True)) for m in ms] for *_, ms in rows],
                pa.list_(modifier),
            ),
        }
    )


def counted(vocabulary):
    return [(concept.name, concept.count, concept.also) for concept in vocabulary]


FIRE_TRUCK = (["fire truck"], ["red"], [("fire", "fire truck", 0)])
CITY_FIRE_TRUCK = (
    ["city fire truck"],
    [],
    [("city", "city fire truck", 0), ("fire", "city fire truck", 1)],
)
FIRE_DOOR = (["fire door"], [], [("fire", "fire door", 0)])


def test_a_word_of_a_kept_compound_is_no_attribute(parsed):
    rows = [FIRE_TRUCK, FIRE_TRUCK, CITY_FIRE_TRUCK, FIRE_DOOR, (["door"], [], [])]
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
    rows = [*[(["door"], [], [])] * 4, *[FIRE_TRUCK] * 3]
    cut = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2, max_objects=1))
    assert counted(cut["objects"]) == [("door", 4, ())]
    assert counted(cut["attributes"]) == [("fire", 3, ()), ("red", 3, ())]


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
        (["car", "automobile"], ["gray", "grey"], []),  # one caption with both names counts once
        (["car"], ["grey"], []),
        (["race car"], ["grey"], [("race", "race car", 0)]),
        (["auto"], [], []),
        (["bus"], [], []),
    ]
    folded = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2, fold_synonyms=True))
    assert counted(folded["objects"]) == [("car", 4, ("auto", "automobile"))]
    assert counted(folded["attributes"]) == [("grey", 3, ("gray",))]
    assert concept_ids(table(rows), "objects", folded, ConceptsConfig()) == [[0], [0], [0], [0], []]
    assert concept_ids(table(rows), "attributes", folded, ConceptsConfig()) == [[0], [0], [0], [], []]
    plain = make_vocabularies(parsed(rows), ConceptsConfig(min_count=2))
    assert counted(plain["objects"]) == [("car", 3, ())]


def test_compounds_of_one_sense_are_whole_where_they_are_frequent_together(parsed, senses):
    engine = (["fire engine"], [], [("fire", "fire engine", 0)])
    rows = [FIRE_TRUCK, FIRE_TRUCK, engine, engine, engine, (["engine"], [], [])]
    folded = make_vocabularies(parsed(rows), ConceptsConfig(min_count=4, fold_synonyms=True))
    assert counted(folded["objects"]) == [("fire engine", 5, ("fire truck",))]
    assert folded["attributes"] == []
    plain = make_vocabularies(parsed(rows), ConceptsConfig(min_count=4))
    assert counted(plain["objects"]) == [("engine", 4, ())]
    assert counted(plain["attributes"]) == [("fire", 5, ())]


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("shards", [2, 7])
def test_shards_add_up_to_the_whole_and_to_a_plain_count(parsed, senses, shards, fold):
    draw = random.Random(shards)
    names = ["car", "automobile", "auto", "bus", "fire truck", "fire engine", "truck", "race car"]
    rows = [(draw.sample(names, draw.randint(0, 3)), draw.sample(["grey", "gray", "red"], 1), []) for _ in range(60)]
    config = ConceptsConfig(min_count=6, fold_synonyms=fold)
    parts, whole = (make_vocabularies(parsed(rows, cut), config) for cut in (shards, 1))
    assert {kind: counted(whole[kind]) for kind in whole} == {kind: counted(parts[kind]) for kind in parts}
    sense = SENSES["attributes"].get if fold else (lambda name: None)
    oracle = Counter(found for _, attributes, _ in rows for found in {sense(name) or name for name in attributes})
    assert sorted(concept.count for concept in whole["attributes"]) == sorted(oracle.values())
    same = concept_ids(table(rows), "attributes", whole, config)
    assert Counter(i for ids in same for i in ids) == {i: c.count for i, c in enumerate(whole["attributes"])}


def test_folding_is_not_for_a_given_vocabulary():
    with pytest.raises(ConfigError, match="leave fold_synonyms or vocabulary out"):
        ConceptsConfig(fold_synonyms=True, vocabulary="somewhere")
