"""Streams of training pairs: the same order whatever serves it, every pair once an epoch, and nothing hangs."""

import gzip
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import stillroom
from stillroom.artifacts import StageWriter
from stillroom.data import open_data
from stillroom.data import tars as tars_module
from stillroom.data.images import decode_image
from stillroom.data.tars import open_plain
from stillroom.errors import ArtifactError, ConfigError, DataError, StillroomError
from stillroom.filter.kept import Kept
from stillroom.records import Fault, ImageRef, Sample
from stillroom.train import slots as slots_module
from stillroom.train import stream as stream_module
from stillroom.train.lanes import Order, lane_warnings, rank_lanes
from stillroom.train.memory import read_pictures
from stillroom.train.slots import KeepSet, SlotCounts, count_slots, counted_slots, keep_all
from stillroom.train.sources import check_room
from stillroom.train.stream import ShardStream
from stillroom.train.stream_reader import ShardCursor, read_lane

SIZES = (7, 1, 12, 5)  # N = 25


def to_pixels(data):
    return np.asarray(decode_image(data).resize((2, 2)), dtype=np.uint8)


def refuse(shard, key):
    raise ArtifactError("the verdicts are gone")


def color(shard, number):
    return (10 * shard, 10 * number, 5)


@pytest.fixture
def members(encode):
    """A function from a shard's number and size to the members of a tar, in which a pair's colour tells who it is."""

    def make(shard, size):
        pairs = {}
        for number in range(size):
            pairs[f"{number:03d}.png"] = encode(color(shard, number))
            pairs[f"{number:03d}.txt"] = f"pair  {number}\nof {shard}".encode()
        return pairs

    return make


@pytest.fixture
def tars(tmp_path, make_tar, members):
    """A folder of tars with `SIZES` pairs."""
    for shard, size in enumerate(SIZES):
        make_tar(tmp_path / "tars" / f"{shard}.tar", members(shard, size))
    return tmp_path / "tars"


def stream(data, **options):
    shards = open_data(str(data))
    options = {"batch_size": 5, "lanes": 3, "shuffle": 12, "seed": 1, **options}
    slots = options.pop("slots", None) or count_slots(shards, keep=options.get("keep", keep_all))
    return ShardStream(shards=shards, slots=slots, to_pixels=to_pixels, **options)


def rows(batch):
    """What a batch holds, one tuple a pair."""
    pictures = [tuple(int(v) for v in picture[0, 0]) for picture in batch.pictures]
    return list(zip(batch.positions.tolist(), batch.shards, batch.keys, batch.captions, pictures, strict=True))


def steps(stream, start, stop):
    return [(rows(batch), faults) for batch, faults in stream.batches(start, stop)]


def names(steps):
    """(shard, key) of all pairs in their order."""
    return [row[1:3] for found, _ in steps for row in found]


@contextmanager
def deadline(seconds):
    """Fail, instead of waiting for ever, where the block takes longer."""

    def late(*_):
        pytest.fail(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# The order, as arithmetic.

ORDERS = [
    Order(counts=counts, batch_size=batch_size, lanes=lanes, shuffle=shuffle, seed=3)
    for counts in ((7, 1, 12, 0, 5), (25,), (3, 3, 3), (1,) * 11, (0, 40, 0))
    for batch_size, lanes in ((1, 8), (4, 3), (5, 5), (7, 3), (8, 8), (9, 2))
    for shuffle in (0, 6, 10**6)
    if batch_size <= sum(counts)
]


def walk(order, lane, position=0):
    """(epoch, shard, slot) of a lane from a position on, without end."""
    for window, used in order.windows(lane, position):
        read = [(window.epoch, shard, slot) for shard, first, stop in window.pieces for slot in range(first, stop)]
        yield from (read[index] for index in window.order[used:])


def test_the_ranges_of_a_small_case():
    order = Order(counts=(4, 6), batch_size=4, lanes=3, shuffle=9, seed=0)
    assert order.shares == [2, 1, 1]
    assert order.window == 3
    # 10 slots, of which the lanes get 5, 2.5 and 2.5: the halves go to one epoch or the other.
    assert [order.bounds(lane, 0) for lane in range(3)] == [(0, 5), (5, 7), (7, 10)]
    assert [order.bounds(lane, 1) for lane in range(3)] == [(0, 5), (5, 8), (8, 10)]
    assert [order.begin(lane, 2) for lane in range(3)] == [10, 5, 5]
    assert order.locate(1, 1) == (0, 1)
    assert order.locate(1, 2) == (1, 0)
    assert order.locate(2, 4) == (1, 1)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_slot_is_seen_once_an_epoch(order):
    epochs, seen = 4, Counter()
    for lane in range(len(order.shares)):
        length = order.begin(lane, epochs)
        found = list(itertools.islice(walk(order, lane), length))
        assert found == sorted(found, key=lambda row: row[0])
        assert length == 0 or found[-1][0] < epochs <= next(itertools.islice(walk(order, lane, length), 1))[0]
        seen.update(found)
    slots = [(shard, slot) for shard, count in enumerate(order.counts) for slot in range(count)]
    assert seen == Counter((epoch, *slot) for epoch in range(epochs) for slot in slots)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_no_lane_falls_behind(order):
    for lane, share in enumerate(order.shares):
        for epoch in (1, 7, 1000):
            assert abs(order.begin(lane, epoch) - epoch * order.total * share / order.batch_size) < 1


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_lane_goes_on_from_any_position(order):
    for lane in range(len(order.shares)):
        whole = list(itertools.islice(walk(order, lane), 60))
        for position in range(40):
            assert list(itertools.islice(walk(order, lane, position), 20)) == whole[position : position + 20]


def test_lanes_share_a_batch_and_ranks_share_the_lanes():
    for order in ORDERS:
        assert sum(order.shares) == order.batch_size
        assert max(order.shares) - min(order.shares) <= 1 <= min(order.shares)
        assert len(order.shares) == min(order.lanes, order.batch_size)
    for lanes, world in ((8, 1), (8, 3), (8, 8), (7, 4)):
        blocks = [rank_lanes(lanes, rank, world) for rank in range(world)]
        assert [lane for block in blocks for lane in block] == list(range(lanes))
        assert {len(block) for block in blocks} <= {lanes // world, lanes // world + 1}


def test_the_order_is_random_and_depends_on_seed_epoch_lane_and_window():
    def lane_walk(lane, seed):
        order = Order(counts=(200, 200), batch_size=4, lanes=2, shuffle=100, seed=seed)
        return [row[1:] for row in itertools.islice(walk(order, lane), 400)]

    first = lane_walk(0, 1)
    assert first == lane_walk(0, 1)
    assert len({tuple(lane_walk(lane, seed)[:50]) for lane in (0, 1) for seed in (1, 2)}) == 4
    patterns = {tuple(np.argsort([slot for _, slot in first[low : low + 50]])) for low in range(0, 400, 50)}
    assert len(patterns) == 8
    orders = [tuple(Order(counts=(1,) * 9, batch_size=1, lanes=1, shuffle=1, seed=s).shard_order(e)) for s, e in SEEDS]
    assert len(set(orders)) == len(SEEDS)


SEEDS = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]


# Batches in one process.


def test_an_epoch_holds_every_pair_once_with_its_own_caption_and_picture(tars):
    found = steps(stream(tars), 0, 10)
    for epoch in (found[:5], found[5:]):  # 25 pairs, 5 a step
        assert sorted(names(epoch)) == [(f"tars-{s}", f"{n:03d}") for s, size in enumerate(SIZES) for n in range(size)]
    assert names(found[:5]) != names(found[5:])
    for place, shard, key, caption, picture in (row for batch, _ in found for row in batch):
        number, index = int(key), int(shard[-1])
        assert (caption, picture) == (f"pair {number} of {index}", color(index, number))
        assert 0 <= place < 5
    assert not [fault for _, faults in found for fault in faults]


@pytest.mark.parametrize("options", [{}, {"batch_size": 7, "lanes": 4}, {"shuffle": 1}, {"lanes": 99, "batch_size": 9}])
def test_a_run_goes_on_at_any_step(tars, options):
    source = stream(tars, **options)
    whole = steps(source, 0, 12)
    for start in (1, 2, 5, 11, 12):
        assert steps(source, start, 12) == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_ranks_are_the_batch_of_one_process(tars, world):
    whole = steps(stream(tars, batch_size=8, lanes=5), 0, 8)
    shares = [steps(stream(tars, batch_size=8, lanes=5, rank=rank, world=world), 0, 8) for rank in range(world)]
    assert [sum((rank[step][0] for rank in shares), []) for step in range(8)] == [batch for batch, _ in whole]
    assert [row[0] for row in whole[0][0]] == list(range(8))


def test_more_lanes_and_ranks_than_shards(tmp_path, make_tar, members):
    path = make_tar(tmp_path / "one.tar", members(0, 9))
    ranks = [steps(stream(path, batch_size=9, lanes=8, rank=rank, world=8), 0, 2) for rank in range(8)]
    for step in range(2):
        assert sorted(int(row[2]) for rank in ranks for row in rank[step][0]) == list(range(9))


def test_what_cannot_be_served_is_one_clear_line(tars):
    with pytest.raises(ConfigError, match=r"^batch_size is 26 but 25 pairs are left to train on.*$"):
        stream(tars, batch_size=26)
    with pytest.raises(ConfigError, match=r"^3 lanes of data cannot serve 4 ranks; set lanes to 4 or more.*$"):
        stream(tars, world=4)
    with pytest.raises(ConfigError, match="lanes is 0"):
        stream(tars, lanes=0)
    with pytest.raises(ConfigError, match="workers is -1"):
        stream(tars, workers=-1)


def test_broken_pictures_leave_a_gap_and_nothing_else_moves(tars, make_tar, members):
    whole = steps(stream(tars), 0, 10)
    damaged = members(2, SIZES[2])
    damaged["004.png"], damaged["005.png"] = b"no picture", damaged["005.png"][:40]
    make_tar(tars / "2.tar", damaged)
    found = steps(stream(tars), 0, 10)
    gone = {("tars-2", "004"): "image_unreadable", ("tars-2", "005"): "image_truncated"}
    assert [batch for batch, _ in found] == [[row for row in batch if row[1:3] not in gone] for batch, _ in whole]
    for (_, faults), (before, _) in zip(found, whole, strict=True):
        expected = [(*row[1:3], gone[row[1:3]]) for row in before if row[1:3] in gone]
        assert [(fault.shard, fault.key, fault.reason) for fault in faults] == expected


def test_a_batch_of_broken_pictures_only_is_empty(tmp_path, make_tar):
    pairs = {f"{n}.{kind}": b"x" for n in range(4) for kind in ("png", "txt")}
    ((batch, faults),) = stream(make_tar(tmp_path / "a.tar", pairs), batch_size=4).batches(0, 1)
    assert (len(batch), len(faults), batch.pictures.shape, batch.positions.shape) == (0, 4, (0, 0, 0, 3), (0,))


@pytest.mark.parametrize("damage", ["cut", "gone", "shorter"])
def test_a_shard_that_changed_after_it_was_counted(tars, make_tar, members, damage):
    source = stream(tars, lanes=1)
    whole, path = steps(source, 0, 5), tars / "2.tar"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "gone":
        path.unlink()
    else:
        make_tar(path, members(2, 3))
    found = steps(source, 0, 5)
    left = [name for name in names(whole) if name in set(names(found))]
    assert names(found) == left
    lost = set(names(whole)) - set(left)
    assert {shard for shard, _ in lost} == {"tars-2"}
    assert len(lost) == {"cut": len(lost), "gone": 12, "shorter": 9}[damage] > 0
    (fault,) = [fault for _, faults in found for fault in faults]
    assert fault.shard == "tars-2"
    assert fault.reason == ("shard_unreadable" if damage == "gone" else "shard_truncated")
    assert f"{12 - len(lost)} of 12 pairs" in fault.detail
    assert f"{len(lost)} are lost" in fault.detail


# Kinds of data, and the count.


def test_a_packed_tar_gives_what_the_plain_one_gives(tmp_path, tars):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder in (plain, packed):
        (folder / "tars").mkdir(parents=True)
    for path in tars.iterdir():
        (plain / "tars" / path.name).write_bytes(path.read_bytes())
        (packed / "tars" / path.name).write_bytes(gzip.compress(path.read_bytes()))
    sources = [stream(folder / "tars") for folder in (plain, packed)]
    assert [source.slots.direct for source in sources] == [(True,) * 4, (False,) * 4]
    assert steps(sources[0], 3, 9) == steps(sources[1], 3, 9)


@pytest.mark.parametrize("kind", ["folder", "table", "url"])
def test_folders_tables_and_urls(tmp_path, encode, kind, tars):
    root = tmp_path / "pictures"
    root.mkdir()
    lines = ["filepath,title"]
    for number in range(9):
        (root / f"{number}.png").write_bytes(encode(color(0, number)))
        (root / f"{number}.txt").write_text(f"pair {number}")
        lines.append(f"{number}.png,pair {number}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    data = {"folder": root, "table": root / "table.csv", "url": f"file://{tars}/0.tar"}[kind]
    source = stream(data, batch_size=3)
    assert source.slots.direct == (kind != "url",)
    found = [row for batch, _ in steps(source, 0, source.slots.total // 3) for row in batch]
    assert {row[4] for row in found} <= {color(0, number) for number in range(9)}
    assert len({row[2] for row in found}) == len(found) == source.slots.total // 3 * 3
    for row in found:
        number = int(Path(row[2]).stem)
        assert row[4] == color(0, number)
        assert row[3].startswith(f"pair {number}")


def test_the_count_leaves_out_what_is_not_kept_or_has_no_caption(tmp_path, make_tar, members):
    pairs = members(0, 6)
    pairs["001.txt"], pairs["002.txt"], pairs["003.txt"] = b" \n", b"\xff", b"pair 0 \t of 0"
    del pairs["004.png"]
    make_tar(tmp_path / "a" / "0.tar", pairs)
    make_tar(tmp_path / "a" / "1.tar", members(1, 2))
    slots = count_slots(open_data(str(tmp_path / "a")), keep=lambda shard, key: key != "005", captions=True)
    assert slots.counts == (2, 2)
    assert slots.total == 4
    assert slots.captions == ["pair 0 of 0", "pair 0 of 1", "pair 1 of 1"]
    found = [(fault.key, fault.reason) for fault in slots.faults]
    assert found == [("001", "caption_empty"), ("002", "caption_not_utf8"), ("004", "image_missing")]
    assert count_slots(open_data(str(tmp_path / "a"))).captions is None


def test_the_count_does_not_depend_on_workers(tars):
    shards = open_data(str(tars))
    assert count_slots(shards, captions=True, workers=2) == count_slots(shards, captions=True)


def test_a_filter_output_is_honoured(tmp_path, tars):
    shards = [shard.name for shard in open_data(str(tars))]
    writer = StageWriter(tmp_path / "f", stage="filter", config={}, inputs={"data": "d"}, seed=0)
    for name, size in zip(shards, SIZES, strict=True):
        kept = [number % 2 == 0 for number in range(size)]
        writer.write_shard(name, pa.table({"key": [f"{number:03d}" for number in range(size)], "kept": kept}))
    writer.finish({"kept": 14}, shards=shards, timings={})
    keep = pickle.loads(pickle.dumps(KeepSet.open(tmp_path / "f", shards)))
    source = stream(tars, keep=keep, batch_size=7)
    assert source.slots.counts == (4, 1, 6, 3)
    assert sorted(names(steps(source, 0, 2))) == [
        (name, f"{number:03d}") for name, size in zip(shards, SIZES, strict=True) for number in range(0, size, 2)
    ]
    with pytest.raises(ArtifactError, match="no verdicts on shard 'other'"):
        KeepSet.open(tmp_path / "f", ["other"])


# How much is read when.


@dataclass
class CountingShard:
    """A shard that notes how many samples were asked of it."""

    name: str
    path: Path
    size: int
    asked: int = 0

    def samples(self, *, images=True):
        for number in range(self.size):
            self.asked += 1
            image = b"x" if images else None
            yield Sample(
                shard=self.name, key=str(number), caption="c", image=image, image_ref=ImageRef(url=str(self.path))
            )


def test_reading_ahead_is_even_and_holds_one_window(tmp_path):
    (tmp_path / "p").write_bytes(b"x")
    shards = [CountingShard(str(number), tmp_path / "p", 30) for number in range(4)]
    slots = count_slots(shards)
    asked = [sum(shard.asked for shard in shards)]
    order = Order(counts=slots.counts, batch_size=2, lanes=1, shuffle=20, seed=0)
    reader = read_lane(order, 0, 0, ShardCursor(shards, slots, keep_all))
    for used, item in enumerate(itertools.islice(reader, 120), 1):
        assert item.image == b"x"
        asked.append(sum(shard.asked for shard in shards))
        assert asked[-1] - asked[0] - used <= 20 + 1
    assert asked[1] - asked[0] <= 21
    assert max(np.diff(asked[1:])) <= 2


def test_pictures_that_are_passed_over_are_not_read(tmp_path):
    """The last lane of a shard on disk begins behind the others' pictures; what it does not use may as well be gone."""
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(b"x")

    class Shard:
        name = "s"

        def samples(self, *, images=True):
            assert not images
            for number in range(10):
                yield Sample(
                    shard="s", key=str(number), caption="c", image_ref=ImageRef(url=str(tmp_path / str(number)))
                )

    slots = count_slots([Shard()])
    order = Order(counts=slots.counts, batch_size=2, lanes=2, shuffle=4, seed=0)
    (tmp_path / "2").unlink()
    cursors = [ShardCursor([Shard()], slots, keep_all) for _ in range(2)]
    first, second = (list(itertools.islice(read_lane(order, lane, 0, cursors[lane]), 5)) for lane in range(2))
    assert sorted(item.key for item in second) == list("56789")
    assert [(item.key, item.reason) for item in first if isinstance(item, Fault)] == [("2", "image_missing")]


@dataclass
class FailingShard:
    """A shard that ends early as often as `fails` says, each time one pair later."""

    name: str
    path: Path
    fails: int
    begun: int = 0

    def samples(self, *, images=True):
        self.begun += 1
        for number in range(10):
            if self.begun <= self.fails and number == 2 + self.begun:
                yield Fault(shard=self.name, key="", reason="shard_truncated", detail="timed out")
                return
            image = b"x" if images else None
            ref = ImageRef(url=str(self.path / str(number)))
            yield Sample(shard=self.name, key=str(number), caption="c", image=image, image_ref=ref)


@pytest.mark.parametrize("images", [True, False])
def test_a_shard_that_ends_early_is_read_on(tmp_path, monkeypatch, images):
    monkeypatch.setattr(slots_module, "DISK_PAUSES", (0.0, 0.0, 0.0))
    found = list(counted_slots(FailingShard("s", tmp_path, 3), keep_all, 10, images=images))
    assert [item.key for item in found] == list("0123456789")
    *found, fault = counted_slots(FailingShard("s", tmp_path, 4), keep_all, 10, images=images)
    assert [item.key for item in found] == list("012345")
    assert fault.detail == "timed out; 6 of 10 pairs were found when it was read again, 4 are lost"


def test_a_store_that_is_away_for_a_moment_loses_no_pair(tars, monkeypatch):
    url = f"file://{tars}"
    whole, count = steps(stream(f"{url}/2.tar"), 0, 4), count_slots(open_data(f"{url}/2.tar"))
    opened, pauses = Counter(), []

    def away(place):
        opened[place] += 1
        if opened[place] % 3:
            raise OSError("503")
        return open_plain(place)

    monkeypatch.setattr(tars_module, "open_plain", away)
    monkeypatch.setattr(slots_module, "time", SimpleNamespace(sleep=pauses.append))
    assert count_slots(open_data(f"{url}/2.tar")) == count
    assert pauses == [0.0, 1.0, 5.0]
    assert steps(stream(f"{url}/2.tar", slots=count), 0, 4) == whole
    monkeypatch.setattr(tars_module, "open_plain", gone)
    pauses.clear()
    (fault,) = count_slots(open_data(f"{url}/2.tar")).faults
    assert (fault.reason, pauses) == ("shard_unreadable", [0.0, 1.0, 5.0, 20.0])


def gone(place):
    raise OSError("404")


def test_a_file_handle_that_grew_stale_is_opened_again(tars):
    shards = open_data(str(tars / "2.tar"))
    slots = count_slots(shards)
    cursor = ShardCursor(shards, slots, keep_all)
    reader = read_lane(Order(counts=slots.counts, batch_size=1, lanes=1, shuffle=2, seed=0), 0, 0, cursor)
    found = [next(reader)]
    cursor._file = SimpleNamespace(seek=stale, close=cursor._file.close)
    found += itertools.islice(reader, 11)
    assert sorted(item.key for item in found if item.image) == [f"{number:03d}" for number in range(12)]


def stale(*arguments):
    raise OSError("Stale file handle")


def test_lost_pairs_are_told_once_a_shard_and_are_faults_of_memory_too(tars, caplog):
    source = stream(tars, lanes=3, batch_size=5)
    (tars / "2.tar").unlink()
    list(source.batches(0, 15))
    told = [record.getMessage() for record in caplog.records if "are lost" in record.getMessage()]
    assert len(told) == 1
    assert "0 of 12 pairs were found when it was read again, 12 are lost" in told[0]
    with ThreadPoolExecutor(1) as pool:
        memory = read_pictures(source.shards, source.slots, source.order, keep=keep_all, to_pixels=to_pixels, pool=pool)
    (fault,) = memory.faults
    assert (fault.shard, fault.reason, len(memory.keys)) == ("tars-2", "shard_unreadable", 13)


def test_keys_of_kept_pairs_are_read_once_a_shard_however_many_are_open(tmp_path, make_tar, members, monkeypatch):
    for number in range(40):
        make_tar(tmp_path / "t" / f"{number:02d}.tar", members(number % 9, 6))
    shards = open_data(str(tmp_path / "t"))
    writer = StageWriter(tmp_path / "f", stage="filter", config={}, inputs={"data": "d"}, seed=0)
    for shard in shards:
        writer.write_shard(shard.name, pa.table({"key": [f"{n:03d}" for n in range(6)], "kept": [True] * 6}))
    writer.finish({}, shards=[shard.name for shard in shards], timings={})
    keep = KeepSet.open(tmp_path / "f", [shard.name for shard in shards])
    slots = SlotCounts(counts=(6,) * 40, direct=(True,) * 40)
    read = []
    keys = Kept.keys
    monkeypatch.setattr(Kept, "keys", lambda self, shard: read.append(shard) or keys(self, shard))
    slots_module._kept_keys.cache_clear()
    steps(stream(tmp_path / "t", keep=keep, slots=slots, batch_size=40, lanes=40, shuffle=40), 0, 6)
    assert len(read) <= 2 * 40  # a lane has at most the ends of two shards


def test_workers_are_not_sent_captions_or_faults(tars, monkeypatch):
    sent = []

    def start(dataset, workers):
        sent.append(pickle.dumps(dataset))
        return iter(())

    monkeypatch.setattr(stream_module, "_start_loader", start)
    slots = count_slots(open_data(str(tars)), captions=True)
    slots = replace(slots, captions=["word " * 2000] * 10 + [f"{n}" * 50 for n in range(2000)])
    list(stream(tars, slots=slots, workers=2).batches(0, 5))
    assert len(sent[0]) < 10_000


def test_lanes_that_do_not_fit_ranks_or_workers_are_told():
    assert lane_warnings(128, 8, 16) == []
    assert lane_warnings(8, 1, 0) == []
    (line,) = lane_warnings(8, 8, 16)
    assert line.startswith("1 of 16 workers a rank read and decode")
    assert "with 128 lanes" in line
    (line,) = lane_warnings(8, 6, 1)
    assert "some take 2 lanes' pairs of each batch, others 1" in line


def test_features_that_fit_in_no_memory_are_refused():
    check_room(2**30, 2, memory=6 * 2**30)
    with pytest.raises(DataError, match=r"take 1\.0 GB, 3 times .* on each of 2 ranks; this machine has 5 GB"):
        check_room(2**30, 2, memory=5 * 2**30)
    check_room(1, 1)


# Worker processes. The first of these tests pays for a start of torch.


def test_batches_do_not_depend_on_workers(tars, make_tar, members):
    damaged = members(2, SIZES[2])
    damaged["004.png"] = b"no picture"
    make_tar(tars / "2.tar", damaged)
    with deadline(60):
        for options in ({}, {"rank": 1, "world": 2, "batch_size": 8, "lanes": 5}):
            alone = steps(stream(tars, **options), 3, 12)
            for workers in (1, 3, 9):
                assert steps(stream(tars, workers=workers, keep=keep_all, **options), 3, 12) == alone
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_one_line_and_ctrl_c_is_the_main_process_to_handle(tars):
    with deadline(60):
        batches = stream(tars, workers=2, keep=keep_all).batches(0, 10_000)
        next(batches)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)
        for _ in range(20):
            next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(StillroomError, match=r"^a worker process that decodes pictures died.*$") as caught:
            list(batches)
        assert "\n" not in str(caught.value)
        assert not multiprocessing.active_children()


def test_an_error_in_a_worker_is_told_as_it_is(tars):
    source = stream(tars, workers=1, slots=count_slots(open_data(str(tars))), keep=refuse)
    with deadline(60), pytest.raises(ArtifactError, match=r"^the verdicts are gone$"):
        next(source.batches(0, 1))


def test_workers_end_with_the_batches(tars):
    with deadline(60):
        batches = stream(tars, workers=2, keep=keep_all).batches(0, 10_000)
        next(batches)
        assert len(multiprocessing.active_children()) == 2
        batches.close()
        assert not multiprocessing.active_children()


def test_workers_end_with_a_main_process_that_is_killed(tars):
    script = f"""
import multiprocessing, signal
from test_train_stream import stream
if __name__ == "__main__":
    batches = stream({str(tars)!r}, workers=2).batches(0, 10_000)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    signal.pause()
"""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(stillroom.__file__).parents[1])])
    with (
        deadline(60),
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
        ) as main,
    ):
        workers = [int(pid) for pid in main.stdout.readline().split()]
        assert len(workers) == 2
        main.kill()
        while any(is_alive(pid) for pid in workers):
            time.sleep(0.05)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
