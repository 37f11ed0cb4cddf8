"""The demo's whole path, smaller still than `--tiny`, on the bundled data: complete, repeatable, resumable."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stillroom import demo
from stillroom.errors import DataError

# What may differ between two equal runs: timings, versions, and caches named by content.
APART = ("environment.json", "speed.jsonl", "timings.json")


def small(monkeypatch):
    task = "openclipart_heldout_categories"
    size = replace(
        demo.TINY,
        max_per_shard=16,
        samples=640,
        batch_size=32,
        min_count=2,
        head_epochs=2,
        tasks=(task,),
        probe_task=task,
        shots=(1,),
    )
    monkeypatch.setattr(demo, "TINY", size)
    monkeypatch.setattr(demo, "SEARCH_TASK", "openclipart_heldout_retrieval")


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in APART and "embeddings" not in path.parts
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "a"
    with pytest.MonkeyPatch.context() as monkeypatch:
        small(monkeypatch)
        result = demo.run(out, tiny=True)
    return out, result


def test_every_stage_leaves_its_output_and_the_report_is_whole(first):
    out, result = first
    for stage in ("filter", "concepts", "train/infonce", "train/stillroom", "train/pretrained", "probe"):
        assert (out / stage / "manifest.json").exists(), stage
    assert result.report == out / "index.html"
    html = result.report.read_text()
    assert html.count("<svg") >= 4
    assert "openclipart heldout categories" in html
    for name in ("infonce", "stillroom", "pretrained"):
        scores = json.loads((out / "evaluate" / name / "openclipart_heldout_categories.json").read_text())
        assert 0 <= scores["metrics"]["acc1"] <= 1
        assert scores["stillroom"]["n"] > 300
    assert result.table.row_count > 0


def test_a_second_run_skips_what_is_complete(first, monkeypatch):
    from stillroom.train import loop

    small(monkeypatch)
    before = files(first[0])
    monkeypatch.setattr(loop.Trainer, "step", None)
    monkeypatch.setattr("stillroom.filter.measure.filter_shard", None)
    demo.run(first[0], tiny=True)
    assert files(first[0]) == before


def test_one_seed_gives_the_same_files(first, tmp_path, monkeypatch):
    small(monkeypatch)
    demo.run(tmp_path / "b", tiny=True)
    one, other = files(first[0]), files(tmp_path / "b")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_without_the_data_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nothing at"):
        demo.run(tmp_path / "out", examples=Path("/nowhere"))
    monkeypatch.setattr(demo, "TRAINING_DATA", ("no such folder",))
    with pytest.raises(DataError, match="bundled data is not beside"):
        demo.default_examples()
