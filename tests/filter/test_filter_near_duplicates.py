import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom.filter import hamming, near_duplicates
from stillroom.filter.hamming import agreement_masks, bit_count, earliest_near
from stillroom.filter.near_duplicates import mark_near_duplicates
from stillroom.filter.verdicts import SCHEMA


def flip(value, bits):
    for bit in bits:
        value ^= 1 << bit
    return value


def clustered(draw, count):
    """Hashes of 64 bits: some far from all others, most a few bits from another, many equal."""
    found = [draw.getrandbits(64) for _ in range(max(1, count // 8))]
    while len(found) < count:
        found.append(flip(draw.choice(found), draw.sample(range(64), draw.choice([0, 0, 1, 2, 4, 5, 9]))))
    draw.shuffle(found)
    return found


def write_shards(folder, shards):
    """Write tables of (hash, reasons) as verdicts; return their paths and where the final ones go."""
    first, final = [], []
    for number, rows in enumerate(shards):
        values = {
            "key": [f"k{number}-{row}" for row in range(len(rows))],
            "picture_hash": [value for value, _ in rows],
            "kept": [not reasons for _, reasons in rows],
            "reasons": [list(reasons) for _, reasons in rows],
        }
        columns = {f.name: pa.array(values.get(f.name, [None] * len(rows)), f.type) for f in SCHEMA}
        first.append(folder / "first" / f"{number}.parquet")
        final.append(folder / "final" / f"{number}.parquet")
        first[-1].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=SCHEMA), first[-1])
    return first, final


def mark(folder, shards, distance):
    """Return (near_duplicate_of, reasons) of every pair of every shard, and how many the rule drops alone."""
    first, final = write_shards(folder, shards)
    names = [f"s{number}.tar" for number in range(len(shards))]
    alone = mark_near_duplicates(first, final, folder / "temporary", names=names, distance=distance)
    tables = [pq.read_table(path) for path in final]
    assert all(table.schema == SCHEMA for table in tables)
    assert not (folder / "temporary").exists()
    for table in tables:
        assert table["kept"].to_pylist() == [not reasons for reasons in table["reasons"].to_pylist()]
    return [list(zip(t["near_duplicate_of"].to_pylist(), t["reasons"].to_pylist(), strict=True)) for t in tables], alone


def plain(shards, distance):
    """The same by comparing every pair with all before it."""
    passing, usable, result, alone = [], [], [], 0
    for number, rows in enumerate(shards):
        out = []
        for row, (value, reasons) in enumerate(rows):
            of, why = None, list(reasons)
            if value is not None and "caption_empty" not in reasons:
                alone += any((value ^ other).bit_count() <= distance for other in usable)
                usable.append(value)
                if not reasons:
                    of = next((name for other, name in passing if (value ^ other).bit_count() <= distance), None)
                    why = ["near_duplicate"] if of else []
                    passing.append((value, f"s{number}.tar/k{number}-{row}"))
            out.append((of, why))
        result.append(out)
    return result, alone


def drawn_shards(seed, sizes):
    draw = random.Random(seed)
    hashes = iter(clustered(draw, sum(sizes)))
    kinds = [(), (), (), (), ("text",), ("caption_empty",), None]
    shards = []
    for size in sizes:
        rows = []
        for _ in range(size):
            reasons = draw.choice(kinds)
            rows.append((None, ("watermark",)) if reasons is None else (next(hashes), reasons))
        shards.append(rows)
    return shards


@pytest.mark.parametrize("distance", [0, 1, 4, 8])
def test_equals_comparing_every_two(tmp_path, distance):
    shards = drawn_shards(distance, [150, 0, 1, 300, 80])
    found, alone = mark(tmp_path, shards, distance)
    expected, expected_alone = plain(shards, distance)
    assert found == expected
    assert alone == expected_alone
    assert sum(of is not None for rows in found for of, _ in rows) > 40


@pytest.mark.parametrize("entries", [3, 40, 1000])
def test_number_of_files_does_not_show(tmp_path, monkeypatch, entries):
    shards = drawn_shards(7, [90, 40, 0, 70])
    monkeypatch.setattr(near_duplicates, "PART_ENTRIES", entries)
    assert mark(tmp_path, shards, 4) == plain(shards, 4)


def test_a_chain_goes_and_its_ends_stay_apart(tmp_path):
    a = 0x0123456789ABCDEF
    b, c, far = flip(a, [0, 20, 40]), flip(a, [0, 20, 40, 1, 2]), flip(a, range(30))
    found, alone = mark(tmp_path, [[(a, ()), (far, ())], [(b, ()), (c, ()), (a, ())]], 3)
    assert [[of for of, _ in rows] for rows in found] == [[None, None], ["s0.tar/k0-0", "s1.tar/k1-0", "s0.tar/k0-0"]]
    assert alone == 3


def test_a_pair_that_failed_before_makes_no_duplicates(tmp_path):
    found, alone = mark(tmp_path, [[(5, ("text",)), (5, ()), (5, ("caption_empty",)), (5, ())]], 0)
    assert found == [[(None, ["text"]), (None, []), (None, ["caption_empty"]), ("s0.tar/k0-1", ["near_duplicate"])]]
    assert alone == 2


def test_final_tables_that_exist_are_left_alone(tmp_path):
    shards = drawn_shards(3, [40, 40, 40])
    first, final = write_shards(tmp_path, shards)
    options = {"names": ["x", "y", "z"], "distance": 4}
    mark_near_duplicates(first, final, tmp_path / "t", **options)
    undisturbed = [path.read_bytes() for path in final]
    final[0].write_bytes(b"here")
    final[2].unlink()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "entries.0").write_bytes(b"left by a run that was killed")
    mark_near_duplicates(first, final, tmp_path / "t", **options)
    assert [path.read_bytes() for path in final] == [b"here", *undisturbed[1:]]


@pytest.mark.parametrize("distance", range(9))
@pytest.mark.parametrize("count", [1, 10**6, 10**9])
def test_some_mask_is_untouched_by_every_few_flipped_bits(distance, count):
    masks = agreement_masks(distance, count)
    draw = random.Random(distance)
    assert not masks or max(masks) < 2**64
    for _ in range(300):
        flipped = flip(0, draw.sample(range(64), distance))
        assert distance == 0 or any(mask & flipped == 0 for mask in masks)


def test_more_hashes_get_more_masks():
    assert agreement_masks(0, 10**9) == []
    lengths = [len(agreement_masks(4, count)) for count in (1, 10**5, 10**7, 10**9)]
    assert lengths[0] == 5
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 15


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_earliest_near_within_groups(monkeypatch, chunk):
    monkeypatch.setattr(hamming, "CHUNK", chunk)
    draw = np.random.default_rng(0)
    hashes = np.unique(draw.integers(0, 2**10, 400).astype(np.uint64) << np.uint64(30))
    firsts = np.stack([draw.permutation(len(hashes)), draw.permutation(len(hashes))], axis=1).astype(np.uint64)
    mask = 0b111 << 30
    expected = [
        [
            min(
                int(firsts[j, column])
                for j, other in enumerate(hashes.tolist())
                if not (value ^ other) & mask and (value ^ other).bit_count() <= 2
            )
            for column in range(2)
        ]
        for value in hashes.tolist()
    ]
    assert earliest_near(hashes, firsts, mask, 2).tolist() == expected


@pytest.mark.parametrize("library", ["with", "without"])
def test_bit_count(monkeypatch, library):
    if library == "without":
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    values = [0, 1, 2**64 - 1, 0x8000000000000001, 0xFF00FF]
    assert bit_count(np.array(values, np.uint64)).tolist() == [value.bit_count() for value in values]
    assert bit_count(np.array([], np.uint64)).tolist() == []
