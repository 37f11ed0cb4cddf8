"""Other thresholds on an earlier output: the pairs that a fresh run keeps, and no more measured than that takes."""

import itertools
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.filter import measure as measure_module
from stillroom.filter.config import FilterConfig
from stillroom.filter.reuse import changed_config, known_spotting, open_earlier
from stillroom.filter.run import run

BASE = FilterConfig(workers=1)
CAPTIONS = [
    "A brown dog chases a red ball",
    "card",
    "a green wooden chair on a lawn",
    "The lady sells cheap flights to people",
    "Two cats sleep, and a third cat eats cheap flights",
    "ein kleiner Hund schläft auf dem Sofa",
    "blue",
    "old car",
    "A man drives a blue car",
    "A brown dog chases a red ball",
    "A cheap bird sings",
]
CONFIGS = {
    "diht": BASE,
    "all": replace(BASE, measure_all=True),
    "no actions": replace(BASE, min_actions=None),
    "two actions": replace(BASE, min_actions=2, text_overlap=13),
    "complex": replace(BASE, min_complexity=3, min_actions=None),
    "longer text": replace(BASE, text_overlap=10, min_actions=None),
    "shorter text": replace(BASE, text_overlap=2, min_actions=None),
    "surer text": replace(BASE, text_confidence=0.9998, min_actions=None),
    "less sure text": replace(BASE, text_confidence=0.1, min_actions=None),
    "off": FilterConfig(preset="off", workers=1),
    "no pictures": FilterConfig(preset="complexity-only", workers=1, decode_images=False),
    "sizes": replace(BASE, min_picture_side=100, max_aspect_ratio=2.0, min_actions=None),
    "capped": replace(BASE, max_identical_captions=1, near_duplicate_distance=0, min_actions=None),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, draw, make_tar):
    """One small data set, filtered afresh under every config."""
    folder = tmp_path_factory.mktemp("reuse")
    (folder / "data").mkdir()
    pictures = [draw(), draw("cheap flights", size=(320, 120)), draw("blue car", size=(160, 60), letters=24)]
    for shard in range(2):
        numbered = list(enumerate(CAPTIONS))[shard::2]
        pairs = [(f"{i:03d}", caption, pictures[i % 3], {"punsafe": i / 18}) for i, caption in numbered]
        make_tar(folder / "data" / f"{shard:05d}.tar", pairs)
    for name, config in CONFIGS.items():
        run(str(folder / "data"), config, folder / name)
    return folder


def kept(out):
    return pq.read_table(out / "kept.parquet").to_pylist()


@pytest.mark.parametrize(("before", "now"), itertools.permutations(CONFIGS, 2))
def test_reuse_keeps_what_a_fresh_run_keeps(outputs, tmp_path, before, now):
    earlier = open_earlier(outputs / before)
    run(earlier.data, CONFIGS[now], tmp_path / "out", reuse=earlier)
    assert kept(tmp_path / "out") == kept(outputs / now)


def test_the_configs_keep_different_pairs(outputs):
    """Else the comparison above would prove nothing."""
    assert len({str(kept(outputs / name)) for name in CONFIGS}) >= 8


def decodings(monkeypatch):
    seen = []
    monkeypatch.setattr(
        measure_module, "decode_image", lambda data, **size: seen.append(data) or original(data, **size)
    )
    return seen


original = measure_module.decode_image


def test_known_values_are_not_measured_again(outputs, tmp_path, monkeypatch):
    seen = decodings(monkeypatch)
    parsed = []
    real = measure_module.graphs_that_can_pass

    def counted(nlp, captions, **how):
        parsed.extend(captions)
        return real(nlp, captions, **how)

    monkeypatch.setattr(measure_module, "graphs_that_can_pass", counted)
    earlier = open_earlier(outputs / "all")
    run(earlier.data, replace(BASE, measure_all=True, min_complexity=2, text_overlap=3), tmp_path / "a", reuse=earlier)
    assert (seen, parsed) == ([], [])
    # "two actions" dropped by the count of verbs alone; now a few pictures are looked at, those of captions with one.
    earlier = open_earlier(outputs / "two actions")
    run(earlier.data, BASE, tmp_path / "b", reuse=earlier)
    assert 0 < len(seen) < len(CAPTIONS)


def test_without_new_measurements_data_may_be_gone(outputs, tmp_path):
    shutil.copytree(outputs / "data", tmp_path / "data")
    run(str(tmp_path / "data"), CONFIGS["diht"], tmp_path / "first")
    shutil.rmtree(tmp_path / "data")
    earlier = open_earlier(tmp_path / "first")
    summary = run(earlier.data, replace(BASE, min_complexity=3), tmp_path / "second", reuse=earlier)
    assert summary["kept"] < earlier.output.summary["kept"]
    with pytest.raises(DataError, match="need pictures of data-0000. that were not looked at"):
        run(earlier.data, replace(BASE, min_actions=None), tmp_path / "third", reuse=earlier)


def test_other_data_is_refused(outputs, tmp_path):
    shutil.copytree(outputs / "data", tmp_path / "data")
    run(str(tmp_path / "data"), CONFIGS["diht"], tmp_path / "first")
    earlier = open_earlier(tmp_path / "first")
    with pytest.raises(ConfigError, match="leave DATA out, or --reuse"):
        run(str(outputs / "data"), BASE, tmp_path / "second", reuse=earlier)
    first, second = ((tmp_path / "data" / name) for name in ("00000.tar", "00001.tar"))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ArtifactError, match=r"DATA has changed since .*first was made \(data-00000: "):
        run(earlier.data, replace(BASE, min_actions=None), tmp_path / "second", reuse=earlier)
    # Other pairs in a file of the same size are found when they are read.
    first.write_bytes(second.read_bytes().ljust(len(whole), b"\0"))
    with pytest.raises(DataError, match="data-00000 is not what it was"):
        run(earlier.data, replace(BASE, min_actions=None), tmp_path / "second", reuse=earlier)
    shutil.copy(tmp_path / "data" / "00000.tar", tmp_path / "data" / "00002.tar")
    with pytest.raises(ArtifactError, match="has other shards"):
        run(earlier.data, replace(BASE, min_actions=None), tmp_path / "third", reuse=earlier)


def test_changes_start_from_the_earlier_config(outputs, tmp_path):
    earlier = open_earlier(outputs / "sizes")
    changed = changed_config(earlier, settings=["min_actions=1"])
    assert changed == replace(CONFIGS["sizes"], min_actions=1, workers=0)
    # A preset brings its own thresholds, and none of the earlier ones.
    assert changed_config(earlier, settings=["preset=off"]) == FilterConfig(preset="off")
    path = tmp_path / "f.toml"
    path.write_text("min_picture_side = 7\nmin_complexity = 2\n")
    changed = changed_config(earlier, path=path, settings=["min_complexity=4"])
    assert (changed.min_picture_side, changed.min_complexity, changed.max_aspect_ratio) == (7, 4, 2.0)
    with pytest.raises(ConfigError, match="min_side"):
        changed_config(earlier, settings=["min_side=7"])


SPOTTED = {
    "caption": "cheap flights",
    "spotted_text": ["cheap", "flights"],
    "spotted_confidence": [0.85, 0.95],
    "spotted_boxes": [[0.0] * 8, [0.5] * 8],
    "text_overlap": 7,
    "text_overlap_exact": True,
    "text_skipped": None,
}


@pytest.mark.parametrize(
    ("values", "now", "texts", "overlap"),
    [
        ({}, {}, ("cheap", "flights"), 7),
        ({}, {"text_confidence": 0.9}, ("flights",), 7),
        ({}, {"text_confidence": 0.99}, (), 0),
        ({}, {"text_confidence": 0.7}, None, None),
        ({}, {"text_overlap": 20}, ("cheap", "flights"), 7),
        # A lower bound decides nothing above itself, and is no exact value.
        ({"text_overlap_exact": False}, {"text_overlap": 7}, ("cheap", "flights"), 7),
        ({"text_overlap_exact": False}, {"text_overlap": 8}, None, None),
        ({"text_overlap_exact": False}, {"measure_all": True}, None, None),
        ({"text_overlap_exact": False}, {"text_confidence": 0.99}, None, None),
        ({"text_overlap": None, "text_skipped": "caption_too_short"}, {}, None, None),
    ],
)
def test_what_an_earlier_search_still_tells(values, now, texts, overlap):
    found = known_spotting({**SPOTTED, **values}, BASE, replace(BASE, **now))
    assert (found.texts, found.overlap) == (texts, overlap)


def test_an_output_of_another_version_is_refused(outputs, tmp_path):
    shutil.copytree(outputs / "off", tmp_path / "old")
    path = tmp_path / "old" / "run.json"
    path.write_text(path.read_text().replace('"min_actions"', '"min_deeds"'))
    with pytest.raises(ArtifactError, match="of another version of stillroom"):
        open_earlier(tmp_path / "old")
    with pytest.raises(ArtifactError, match="not the output"):
        open_earlier(tmp_path)
