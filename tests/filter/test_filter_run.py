import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from stillroom.data import open_data
from stillroom.errors import ArtifactError
from stillroom.filter import run as run_module
from stillroom.filter.config import FilterConfig
from stillroom.filter.kept import load_kept
from stillroom.filter.measure import filter_shard
from stillroom.filter.run import run
from stillroom.filter.summary import summary_lines

CONFIG = FilterConfig(workers=1)
DOG = "A brown dog chases a red ball"
FISH = "A man is holding a big fish"


def miniature(folder, make_tar, draw):
    """Two shards with one pair of every kind."""
    plain = draw()
    folder.mkdir(exist_ok=True)
    make_tar(
        folder / "00000.tar",
        [
            ("000", DOG, plain),
            ("001", "card", plain),
            ("002", "a green wooden chair", plain),
            ("003", "The lady sells cheap flights", draw("cheap flights", size=(320, 120))),
            ("004", "  ", plain),
            ("005", FISH, plain[: len(plain) // 2]),
            ("006", FISH, b"not a picture"),
            ("007", DOG, plain, {"pwatermark": 0.9, "punsafe": 0.1}),
            ("008", DOG, plain, {"pwatermark": 0.5, "punsafe": "0.7"}),
            ("009", DOG, plain, {"pwatermark": None, "punsafe": "unknown"}),
            ("000", FISH, plain),
        ],
    )
    make_tar(
        folder / "00001.tar",
        [("000", FISH, plain), ("001", DOG, plain), ("002", None, plain), ("003", FISH, None), ("004", FISH, plain)],
    )
    return str(folder)


@pytest.fixture
def data(tmp_path, make_tar, draw):
    return miniature(tmp_path / "data", make_tar, draw)


def files(folder):
    """All compared files: everything but environment.json, which holds timings."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "environment.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def verdicts(folder, shard):
    rows = pq.read_table(folder / "shards" / f"data-{shard}.parquet").to_pylist()
    return [(row["key"], row["reasons"]) for row in rows]


def kept_pairs(folder):
    return [tuple(row.values()) for row in pq.read_table(folder / "kept.parquet").to_pylist()]


def test_every_pair_gets_a_verdict_with_its_reason(data, tmp_path):
    summary = run(data, CONFIG, tmp_path / "out")
    assert verdicts(tmp_path / "out", "00000") == [
        ("000", []),
        ("001", ["action"]),
        ("002", ["action"]),
        ("003", ["text"]),
        ("004", ["caption_empty"]),
        ("005", ["image_truncated"]),
        ("006", ["image_unreadable"]),
        ("007", ["watermark"]),
        ("008", ["unsafe"]),
        ("009", []),
        ("000", ["duplicate_key"]),
    ]
    assert verdicts(tmp_path / "out", "00001") == [
        ("000", []),
        ("001", []),
        ("002", ["caption_missing"]),
        ("003", ["image_missing"]),
        ("004", []),
    ]
    assert kept_pairs(tmp_path / "out") == [
        ("data-00000", "000"),
        ("data-00000", "009"),
        ("data-00001", "000"),
        ("data-00001", "001"),
        ("data-00001", "004"),
    ]
    dropped = {step["rule"]: step["dropped"] for step in summary["funnel"]}
    assert dropped == {"unusable": 6, "watermark": 1, "unsafe": 1, "action": 2, "complexity": 0, "text": 1}
    assert (summary["pairs"], summary["kept"], summary["funnel"][-1]["left"]) == (16, 5, 5)
    assert summary["faults"]["counts"] == {
        "caption_empty": 1,
        "caption_missing": 1,
        "duplicate_key": 1,
        "image_missing": 1,
        "image_truncated": 1,
        "image_unreadable": 1,
    }
    listed = [(fault["shard"], fault["key"], fault["reason"]) for fault in summary["faults"]["listed"]]
    assert ("data-00000", "005", "image_truncated") in listed
    text = "\n".join(summary_lines(summary))
    assert "5 of 16 pairs kept (31.2%)" in text
    assert "1 image_truncated" in text


def test_columns_hold_what_was_measured_and_null_what_was_not(data, tmp_path):
    run(data, CONFIG, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "shards" / "data-00000.parquet").to_pylist()
    assert (rows[0]["complexity"], rows[0]["actions"], rows[0]["text_overlap"]) == (2, ["chase"], 0)
    assert "dog[brown]" in rows[0]["graph"]
    assert rows[0]["spotted_text"] == []
    # The tagger alone tells that nobody acts, so the caption is not parsed.
    assert (rows[1]["complexity"], rows[1]["actions"], rows[1]["graph"]) == (None, [], None)
    assert (rows[0]["width"], rows[0]["height"], rows[0]["image_decoded"]) == (240, 120, True)
    assert (rows[1]["width"], rows[1]["image_decoded"]) == (None, None)
    assert (rows[3]["spotted_text"], len(rows[3]["spotted_boxes"][0])) == (["cheap flights"], 8)
    assert rows[3]["spotted_confidence"][0] > 0.8
    assert (rows[1]["text_overlap"], rows[1]["text_overlap_exact"], rows[1]["spotted_text"]) == (None, None, None)
    assert rows[3]["text_overlap"] >= 5
    assert rows[4]["complexity"] is None
    assert rows[5]["detail"]
    assert (rows[7]["pwatermark"], rows[7]["complexity"]) == (0.9, None)
    assert (rows[9]["pwatermark"], rows[9]["punsafe"]) == (None, None)


def test_measure_all_skips_no_rule_and_keeps_the_same_pairs(data, tmp_path):
    sequential = run(data, CONFIG, tmp_path / "one")
    full = run(data, replace(CONFIG, measure_all=True), tmp_path / "two")
    assert kept_pairs(tmp_path / "one") == kept_pairs(tmp_path / "two")
    assert sequential["funnel"] == full["funnel"]
    assert sequential["alone"] is None
    assert full["alone"] == {"unusable": 6, "watermark": 1, "unsafe": 1, "complexity": 1, "action": 2, "text": 1}
    row = pq.read_table(tmp_path / "two" / "shards" / "data-00000.parquet").to_pylist()[1]
    assert (row["text_overlap"], row["text_overlap_exact"]) == (0, True)


def test_off_keeps_all_that_is_whole_and_loads_no_parser(data, tmp_path, monkeypatch):
    monkeypatch.setattr("stillroom.filter.measure.load_parser", None)
    monkeypatch.setattr("stillroom.filter.measure.text_reader", None)
    assert run(data, FilterConfig(preset="off", workers=1), tmp_path / "a")["kept"] == 10
    # Without a rule that looks at pictures, broken ones are only found if asked for.
    assert run(data, FilterConfig(preset="off", decode_images=False, workers=1), tmp_path / "b")["kept"] == 12


def test_cap_on_identical_captions_counts_pairs_that_pass_all_else(data, tmp_path):
    summary = run(data, replace(CONFIG, max_identical_captions=1, measure_all=True), tmp_path / "out")
    assert kept_pairs(tmp_path / "out") == [("data-00000", "000"), ("data-00001", "000")]
    assert summary["funnel"][-1] == {"rule": "caption_frequency", "dropped": 3, "left": 2}
    # Alone: DOG five times and FISH twice among the pairs without a fault.
    assert summary["alone"]["caption_frequency"] == 3 + 2
    assert not (tmp_path / "out" / ".waiting").exists()


@pytest.mark.parametrize("cap", [None, 1])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(data, tmp_path, monkeypatch, cap):
    config = replace(CONFIG, max_identical_captions=cap)
    run(data, config, tmp_path / "whole")
    calls = []

    def dies(shard, config):
        calls.append(shard.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return filter_shard(shard, config)

    monkeypatch.setattr(run_module, "filter_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(data, config, tmp_path / "killed")
    with pytest.raises(ArtifactError, match="unfinished"):
        load_kept(tmp_path / "killed", ["data-00000", "data-00001"])
    run(data, config, tmp_path / "killed")
    assert calls == ["data-00000", "data-00001", "data-00001"]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize("cap", [None, 1])
def test_a_lost_shard_is_made_again_with_the_same_bytes(data, tmp_path, cap):
    out, config = tmp_path / "out", replace(CONFIG, max_identical_captions=cap)
    run(data, config, out)
    before = files(out)
    (out / "shards" / "data-00001.parquet").unlink()
    (out / "manifest.json").unlink()
    run(data, config, out)
    assert files(out) == before


def test_a_finished_run_is_not_done_again_and_another_config_is_refused(data, tmp_path, monkeypatch):
    summary = run(data, CONFIG, tmp_path / "out")
    monkeypatch.setattr(run_module, "filter_shard", None)
    assert run(data, replace(CONFIG, workers=2), tmp_path / "out") == summary
    with pytest.raises(ArtifactError, match="min_complexity"):
        run(data, replace(CONFIG, min_complexity=2), tmp_path / "out")


def test_two_workers_write_what_one_writes(data, tmp_path):
    config = replace(CONFIG, text_overlap=None, max_identical_captions=2)
    run(data, config, tmp_path / "one")
    run(data, replace(config, workers=2), tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_verdicts_do_not_depend_on_order_or_sharding(tmp_path, make_tar, draw, monkeypatch):
    captions = [DOG, "card", FISH, "a green chair", "Two children are playing in the garden", "blue"] * 5
    pairs = [(f"{i:03d}", caption, draw()) for i, caption in enumerate(captions)]

    def kept_keys(*groups):
        folder = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for index, group in enumerate(groups):
            make_tar(folder / f"{index:05d}.tar", group)
        tables = [filter_shard(shard, CONFIG) for shard in open_data(str(folder))]
        return {row["key"]: row["reasons"] for table in tables for row in table.to_pylist()}

    whole = kept_keys(pairs)
    assert sum(not reasons for reasons in whole.values()) == 15
    monkeypatch.setattr("stillroom.filter.measure.BATCH", 4)
    assert kept_keys(pairs[:7], pairs[7:8], pairs[8:]) == whole
    assert kept_keys(pairs[::-1]) == whole


def test_a_tar_cut_off_is_listed_and_the_rest_is_used(data, tmp_path):
    path = tmp_path / "data" / "00001.tar"
    path.write_bytes(path.read_bytes()[:2600])
    summary = run(data, replace(CONFIG, text_overlap=None), tmp_path / "out")
    assert summary["faults"]["counts"]["shard_truncated"] == 1
    assert ("data-00000", "000") in kept_pairs(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_half_a_surrogate_in_a_caption_is_a_fault(tmp_path, make_tar, draw):
    make_tar(tmp_path / "0.tar", [("000", None, draw(), {"caption": "a dog \ud800 runs"}), ("001", DOG, draw())])
    run(str(tmp_path / "0.tar"), replace(CONFIG, text_overlap=None), tmp_path / "out")
    (path,) = (tmp_path / "out" / "shards").iterdir()
    assert pq.read_table(path)["reasons"].to_pylist() == [["caption_not_utf8"], []]


def test_load_kept_gives_keys_of_all_or_some_shards_and_refuses_others(data, tmp_path):
    run(data, replace(CONFIG, text_overlap=None), tmp_path / "out")
    kept = load_kept(tmp_path / "out", ["data-00000", "data-00001"])
    assert kept.keys("data-00001") == {"000", "001", "004"}
    with pytest.raises(ArtifactError, match="no verdicts on shard 'other'"):
        load_kept(tmp_path / "out", ["data-00000", "data-00001", "other"])
    assert load_kept(tmp_path / "out", ["data-00001"]).keys("data-00001") == kept.keys("data-00001")
    with pytest.raises(ArtifactError, match="not the output"):
        load_kept(tmp_path, ["data-00000"])
    shutil.copy(tmp_path / "out" / "run.json", tmp_path / "run.json")
    with pytest.raises(ArtifactError, match="unfinished"):
        load_kept(tmp_path, ["data-00000"])
