"""Which adjectives are part of a name: the statistic, and real captions from parse to vocabulary."""

import math

import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts.captions import ParseJob, parse_shard
from stillroom.concepts.collocations import normalised_pmi
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import concept_ids, make_vocabularies
from stillroom.records import Sample


def test_normalised_pmi_of_hand_made_counts():
    assert normalised_pmi(10, 10, 10, 100) == pytest.approx(1)  # only together
    assert normalised_pmi(10, 20, 50, 100) == pytest.approx(0)  # as often as by chance
    assert normalised_pmi(0, 20, 50, 100) == -1
    assert normalised_pmi(100, 100, 100, 100) == 0
    assert normalised_pmi(8, 16, 10, 1000) == pytest.approx(math.log(50) / math.log(125))


class Captions:
    """A shard that has captions only."""

    name = "00000"

    def __init__(self, captions):
        self.captions = captions

    def samples(self, *, images):
        assert not images
        return (Sample(shard=self.name, key=str(i), caption=caption) for i, caption in enumerate(self.captions))


PLACES = ("a plate", "the grass", "a table", "the snow", "a bench", "the beach", "a street", "the floor")
COLOURS = ("red", "black", "white", "brown")


def captions():
    found = []
    for place in PLACES:
        found += [f"a hot dog on {place}", f"two polar bears near {place}", f"a teddy bear on {place}"]
        found += [f"a polar bear standing on {place}", f"a man in a red t-shirt on {place}", f"hot coffee on {place}"]
        found += [f"a pair of rubber-boots on {place}", f"an x-ray of a hand on {place}"]
        for colour in COLOURS:
            found += [f"a {colour} cat on {place}", f"a {colour} car near {place}", f"a dog and a {colour} background"]
    return [*found, "a toy-bear", "a shopping-cart-outline"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    writer = StageWriter(tmp_path_factory.mktemp("parsed"), stage="parsed", config={}, inputs={}, seed=None)
    writer.write_shard(*parse_shard(ParseJob(shard=Captions(captions()), kept=None, parser="en_core_web_sm")))
    writer.finish({}, shards=["00000"], timings={})
    return open_stage(writer.out, "parsed")


def test_fixed_names_are_whole_and_free_pairs_are_attribute_and_noun(stored):
    kept = make_vocabularies(stored, ConceptsConfig(min_count=6))  # two "teddy bear" are parsed as a verb
    objects = {concept.name: concept.count for concept in kept["objects"]}
    attributes = {concept.name: concept.count for concept in kept["attributes"]}
    assert {name for name in objects if set(name) & set(" -")} == {
        *("hot dog", "polar bear", "teddy bear", "t-shirt", "x-ray", "rubber-boot"),
    }
    assert (objects["polar bear"], objects["hot dog"], objects["dog"], objects["car"]) == (16, 8, 32, 32)
    assert attributes["red"] == 32
    assert attributes["hot"] == 8  # of the coffee
    assert "polar" not in attributes


def test_rare_compounds_count_as_their_last_noun(stored):
    kept = make_vocabularies(stored, ConceptsConfig(min_count=17))
    names = [concept.name for concept in kept["objects"]]
    (table,) = (table for _, table in stored.tables())
    bear = names.index("bear")
    ids = concept_ids(table, "objects", kept, ConceptsConfig())
    rows = dict(zip(table["caption"].to_pylist(), ids, strict=True))
    assert bear in rows["a toy-bear"]
    assert bear in rows["two polar bears near a plate"]
    assert not rows["a shopping-cart-outline"]


def test_a_name_given_by_hand_matches_where_counts_would_not_join_it(stored, tmp_path):
    (tmp_path / "objects.csv").write_text("name\nred car\ncar\ncart\n", encoding="utf-8")
    (tmp_path / "attributes.csv").write_text("name\nred\n", encoding="utf-8")
    kept = make_vocabularies(stored, ConceptsConfig(vocabulary=str(tmp_path)))
    assert [concept.count for concept in kept["objects"]] == [8, 24, 1]
    assert [concept.count for concept in kept["attributes"]] == [24]
    assert all("red car" in example for example in kept["objects"][0].examples)
