"""Labels that cannot fit the pairs to be streamed are found from the keys that stages have stored."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts.features import ShardFeatures, features_table
from stillroom.concepts.join import PseudoLabels
from stillroom.concepts.steps import FEATURES
from stillroom.errors import DataError
from stillroom.records import Fault, ImageRef, Sample
from stillroom.train.label_check import LabelKeys, check_shards, check_stream
from stillroom.train.slots import SlotCounts, count_slots

SHARDS = [SimpleNamespace(name=name) for name in ("a", "b")]


def keys(*numbers):
    return [f"{number:03d}" for number in numbers]


@pytest.fixture
def stored(tmp_path):
    """A function that writes labels of keys by shard, with the faults of the concepts stage, and opens them."""

    def make(by_shard, *, faults=(), features=True):
        out = tmp_path / "concepts"
        writer = StageWriter(out, stage="concepts", config={}, inputs={}, seed=0, parts=("features",))
        for name, found in by_shard.items():
            writer.write_shard(name, pa.table({"key": pa.array(found, pa.string())}))
        counted = {}
        for fault in faults:
            counted[fault.reason] = counted.get(fault.reason, 0) + 1
        writer.finish({"faults": counted}, shards=list(by_shard), timings={})
        if features:
            part = StageWriter(out / "features", stage=FEATURES, config={}, inputs={}, seed=None)
            for name, found in by_shard.items():
                own = [fault for fault in faults if fault.shard == name]
                table = features_table(
                    ShardFeatures(keys=found, features=np.zeros((len(found), 2), np.float16), faults=own)
                )
                part.write_shard(name, table)
            part.finish({}, shards=list(by_shard), timings={})
        return PseudoLabels(open_stage(out, "concepts"), {})

    return make


@dataclass
class Pairs:
    """A shard of pairs with these keys."""

    name: str
    own: list[str]

    def samples(self, *, images=True):
        for key in self.own:
            yield Sample(shard=self.name, key=key, caption="c", image_ref=ImageRef(url=key))


def slots(*counts):
    return SlotCounts(counts=counts, direct=(True,) * len(counts))


def counted(labels, a, b, **options):
    shards = [Pairs("a", keys(*a)), Pairs("b", keys(*b))]
    return count_slots(shards, labelled=LabelKeys.open(labels, shards), **options)


def unreadable(shard, number, reason="image_unreadable"):
    return Fault(shard=shard, key=f"{number:03d}", reason=reason)


def test_pairs_that_all_have_labels_pass(stored):
    labels = stored({"a": keys(0, 1, 2), "b": keys(0)})
    check_stream(labels, counted(labels, (0, 1, 2), (0,)))
    check_stream(labels, counted(labels, (1, 2), ()))  # labels of more pairs than are trained on


def test_pairs_without_labels_are_counted_over_shards_and_the_first_is_named(stored):
    labels = stored({"a": keys(0, 1, 2), "b": keys(0)})
    with pytest.raises(DataError, match=r"^6 of 10 pairs have no pseudo-labels, e\.g\. b/001: run 'stillroom conc"):
        check_stream(labels, counted(labels, (0, 1, 2), range(7)))


def test_a_label_of_another_pair_does_not_hide_a_missing_one(stored):
    labels = stored({"a": keys(0, 1, 2), "b": keys(0)})
    with pytest.raises(DataError, match=r"^1 of 4 pairs .* a/003"):
        check_stream(labels, counted(labels, (0, 1, 3), (0,)))


@pytest.mark.parametrize("features", [True, False])
def test_pictures_that_the_teacher_could_not_read_are_allowed_for(stored, features):
    faults = [unreadable("a", 3), unreadable("a", 4, "image_truncated"), unreadable("a", 5, "caption_missing")]
    labels = stored({"a": keys(0, 1, 2), "b": keys(0)}, faults=faults, features=features)
    check_stream(labels, counted(labels, range(5), (0,)))
    with pytest.raises(DataError, match="1 of 7 pairs"):
        check_stream(labels, counted(labels, range(6), (0,)))


def test_labels_are_compared_in_workers_and_of_kept_pairs_only(stored):
    labels = stored({"a": keys(*range(50)), "b": keys(*range(50))})
    check_stream(labels, counted(labels, range(90), range(50), keep=first_fifty, workers=2))
    with pytest.raises(DataError, match=r"40 of 140 pairs have no pseudo-labels, e\.g\. a/050"):
        check_stream(labels, counted(labels, range(90), range(50), workers=2))


def first_fifty(shard, key):
    return key < "050"


def test_a_shard_without_labels_is_named(stored):
    labels = stored({"a": keys(0, 1, 2)})
    check_shards(labels, slots(3, 0), SHARDS)
    assert counted(labels, (0,), (0, 1)).unlabelled == (("b", "000", 2),)
    with pytest.raises(DataError, match=r"1 of 2 shards have no pseudo-labels, e\.g\. b: "):
        check_shards(labels, slots(3, 1), SHARDS)
