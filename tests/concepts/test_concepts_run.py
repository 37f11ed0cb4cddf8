from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts import join, steps
from stillroom.concepts import labels as labels_module
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.join import load_pseudo_labels
from stillroom.concepts.labels import is_held_out, load_heads
from stillroom.concepts.run import describe, run
from stillroom.errors import ArtifactError, ConfigError, DataError

TINY = ConceptsConfig(
    teacher="timm:test_vit.r160_in1k",
    teacher_pretrained=False,
    image_size=32,
    fit="pad",
    min_count=4,
    top_k=3,
    heads=HeadConfig(epochs=4, batch_size=8, held_out=0.2),
    feature_batch=8,
    precision="fp32",
    workers=1,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, make_tar, shapes):
    """Four shards of the twelve shapes; in the last one stands a picture that is none."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(4):
        members = []
        for place, shape in enumerate(shapes):
            broken = number == 3 and place == 0
            members.append((f"{shape.key}.png", b"no picture" if broken else shape.picture))
            members.append((f"{shape.key}.txt", f"{shape.caption}{number * chr(46)}".encode() * (place != 1)))
        make_tar(folder / f"{number:05d}.tar", members)
    return str(folder)


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, run(pairs, TINY, out)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "environment.json"
    }


def test_what_is_written(finished):
    out, summary = finished
    assert summary["captions"] == 48
    assert summary["pairs"] == 47
    assert summary["faults"] == {"image_unreadable": 1}
    assert summary["fault_examples"][0]["key"] == "00000"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert "47 pairs labelled" in describe(summary)
    objects = [line.split(",")[:2] for line in (out / "objects.csv").read_text().splitlines()[1:]]
    assert {"circle", "square", "line"} <= {name for name, _ in objects}
    assert all(int(count) >= 4 for _, count in objects)
    stage = open_stage(out, "concepts")
    assert len(stage.shards) == 4
    table = stage.shard(stage.shards[0])
    assert table.column_names == ["key", "object_ids", "object_probs", "attribute_ids", "attribute_probs"]
    assert table.schema.field("object_ids").type == pa.list_(pa.field("element", pa.uint32()), 3)
    assert table.schema.field("object_probs").type == pa.list_(pa.field("element", pa.float16()), 3)
    assert not list(out.glob(".*"))


def test_heads_are_of_the_vocabulary(finished):
    out, summary = finished
    heads = load_heads(out / "heads.safetensors")
    for kind in ("objects", "attributes"):
        assert heads[kind].weight.shape == (summary["vocabulary"][kind]["size"], 64)
        assert heads[kind].weight.dtype == np.float32
        assert 0 <= summary["heads"][kind]["recall_at_k"] <= 1


def test_heads_say_how_good_they_are(finished):
    out, summary = finished
    for kind in ("objects", "attributes"):
        report = summary["heads"][kind]
        assert report == json.loads((out / "heads.json").read_text())[kind]
        held_out, size = report["held_out_pictures"], summary["vocabulary"][kind]["size"]
        assert sum(b["pairs"] for b in report["calibration"]["bins"]) == held_out * size
        rows = list(csv.DictReader((out / f"{kind}_quality.csv").open(encoding="utf-8")))
        names = [row["name"] for row in csv.DictReader((out / f"{kind}.csv").open(encoding="utf-8"))]
        assert [row["name"] for row in rows] == names
        named = sum(int(row["held_out"]) for row in rows)
        found = sum(float(row["recall"]) * int(row["held_out"]) for row in rows if row["recall"])
        assert found / named == pytest.approx(report["recall_at_k"], abs=1e-3)


def test_labels_are_found_by_shard_and_key(finished):
    out, _ = finished
    found = load_pseudo_labels(out)
    assert found.sizes.keys() == {"objects", "attributes"}
    assert "circle" in found.names["objects"]
    stage = open_stage(out, "concepts")
    name, first = stage.shards[1], stage.shards[0]
    ids, probs = found.lookup([name, first, name], ["00003", "00000", "00001"])["objects"]
    assert (ids.dtype, probs.dtype, ids.shape) == (np.int64, np.float32, (3, 3))
    stored = np.array(stage.shard(name)["object_ids"].to_pylist())
    assert ids[[0, 2]].tolist() == stored[[3, 1]].tolist()
    assert ids[1].tolist() == stage.shard(first)["object_ids"].to_pylist()[0]
    assert found.has(name, "00003")
    assert not found.has("elsewhere", "1")
    with pytest.raises(DataError, match=r"1 of 2 pairs have no pseudo-labels, e\.g\. elsewhere/1"):
        found.lookup([name, "elsewhere"], ["00003", "1"])
    with pytest.raises(DataError, match="e.g. .*-00003/00000"):
        found.lookup([stage.shards[3]], ["00000"])


def test_labels_of_few_shards_are_held_at_once(finished, monkeypatch):
    found = load_pseudo_labels(finished[0])
    names = found.stage.shards[:3]
    before = found.lookup(names, ["00001"] * 3)
    monkeypatch.setattr(join, "ROWS_IN_MEMORY", 1)
    again = load_pseudo_labels(finished[0])
    after = again.lookup(names, ["00001"] * 3)
    assert all(np.array_equal(before[kind][0], after[kind][0]) for kind in before)
    assert len(again._held) == 1


@pytest.mark.parametrize("killed_in", ["parse", "features", "heads", "labels"])
def test_interrupted_and_resumed_gives_the_same_bytes(pairs, finished, tmp_path, monkeypatch, killed_in):
    out, done = tmp_path / "out", []

    def dying(function):
        def call(*arguments, **options):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(1)
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        match killed_in:
            case "parse":
                patch.setattr(steps, "parse_shard", dying(steps.parse_shard))
            case "features":
                patch.setattr(steps, "compute_features", dying(steps.compute_features))
            case "heads":
                done.append(1)
                patch.setattr(labels_module, "train_head", dying(labels_module.train_head))
            case "labels":
                patch.setattr("stillroom.concepts.run.label_shard", dying(labels_module.label_shard))
        with pytest.raises(KeyboardInterrupt):
            run(pairs, TINY, out)
    assert not (out / "manifest.json").exists()
    with pytest.raises(ArtifactError, match="unfinished"):
        load_pseudo_labels(out)
    if killed_in != "parse":  # what is done is not done again, and the number of workers is free
        monkeypatch.setattr(steps, "parse_shard", None)
    run(pairs, dataclasses.replace(TINY, workers=2), out)
    assert contents(out) == contents(finished[0])


def test_a_complete_output_is_left_alone_and_another_config_refused(pairs, finished):
    out, summary = finished
    before = contents(out)
    assert run(pairs, TINY, out) == summary
    with pytest.raises(ArtifactError, match="config.seed: 0 there, 1 asked for"):
        run(pairs, dataclasses.replace(TINY, seed=1), out)
    assert contents(out) == before


def test_keep_uses_the_filters_pairs_only(pairs, finished, tmp_path):
    keep = tmp_path / "filter"
    names = open_stage(finished[0], "concepts").shards
    writer = StageWriter(keep, stage="filter", config={}, inputs={"data": pairs}, seed=None)
    keys = [f"{place:05d}" for place in range(12)]
    for name in names:
        kept = [name != names[0] and place % 2 == 0 for place in range(12)]
        writer.write_shard(name, pa.table({"key": keys, "kept": kept}))
    writer.finish({"kept": 18}, shards=list(names), timings={})
    summary = run(pairs, TINY, tmp_path / "out", keep)
    assert (summary["captions"], summary["pairs"]) == (18, 17)
    assert set(load_pseudo_labels(tmp_path / "out").shard(names[1]).row) == set(keys[::2])


def test_an_edited_vocabulary_is_used(pairs, finished, tmp_path):
    edited = tmp_path / "edited"
    edited.mkdir()
    (edited / "objects.csv").write_text("name\nline\ncircle\n")
    (edited / "attributes.csv").write_text("name\n")
    config = dataclasses.replace(TINY, vocabulary=str(edited))
    summary = run(pairs, config, tmp_path / "out")
    found = load_pseudo_labels(tmp_path / "out")
    assert found.names == {"objects": ("line", "circle")}
    assert (found.shard(found.stage.shards[0]).probs["objects"][:, 2] == 0).all()  # two concepts, k is 3
    assert summary["heads"].keys() == {"objects"}
    (tmp_path / "out" / "objects.csv").write_text("name\ncircle\nline\n")
    with pytest.raises(ArtifactError, match="not the vocabulary its labels were made with"):
        load_pseudo_labels(tmp_path / "out")


def test_what_cannot_be_used_is_one_line(pairs, tmp_path, make_tar):
    def refused(error, match, data=pairs, **changes):
        with pytest.raises(error, match=match) as caught:
            run(data, dataclasses.replace(TINY, **changes), tmp_path / str(len(list(tmp_path.iterdir()))))
        assert "\n" not in str(caught.value)

    refused(
        ConfigError, "no concept occurs in min_count = 1000 captions, the most frequent one occurs in", min_count=1000
    )
    refused(ConfigError, "unknown teacher 'nope'; allowed: efficientnet-lite0, timm:NAME", teacher="nope")
    refused(ConfigError, "teacher 'timm:nope' cannot be loaded", teacher="timm:nope")
    refused(ConfigError, "names no weights", teacher="open_clip:ViT-B-32")
    refused(ConfigError, "cannot read .*objects.csv", vocabulary=str(tmp_path / "none"))
    blank = make_tar(tmp_path / "blank" / "00000.tar", {"a.png": b"", "a.txt": b"a cat", "b.txt": b"a dog"})
    refused(DataError, "no picture could be read", data=str(blank), min_count=1)


def test_a_captions_pictures_are_held_out_together():
    held = [is_held_out(f"caption {i}", 0.2, seed=0) for i in range(5000)]
    assert 0.17 < sum(held) / 5000 < 0.23
    assert held == [is_held_out(f" Caption  {i}", 0.2, seed=0) for i in range(5000)]
    assert held != [is_held_out(f"caption {i}", 0.2, seed=1) for i in range(5000)]


def test_the_line_says_recall_beside_its_baseline_or_why_there_is_none():
    summary = {
        "pairs": 1200,
        "top_k": 10,
        "faults": {"image_truncated": 2},
        "vocabulary": {"objects": {"size": 2000}, "attributes": {"size": 5}},
        "heads": {
            "objects": {"recall_at_k": 0.5, "recall_at_k_most_frequent": 0.125},
            "attributes": {"recall_at_k": None},
        },
    }
    assert describe(summary) == (
        "1,200 pairs labelled, 2,000 objects (recall@10 50.0 %, of the 10 most frequent 12.5 %), "
        "5 attributes (every picture has all attributes, so no recall), 2 unusable"
    )
    del summary["heads"]["attributes"]
    assert "5 attributes (no head: no caption to train on names one)" in describe(summary)
