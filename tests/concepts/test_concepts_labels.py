"""Training labels from stored parts, features that cannot be used, and kinds without a head."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts import labels as labels_module
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.counting import concept_ids
from stillroom.concepts.join import load_pseudo_labels
from stillroom.concepts.labels import fit_heads, is_held_out
from stillroom.concepts.run import run
from stillroom.concepts.vocabulary import Concept
from stillroom.errors import ConfigError, DataError

NAMES = {"objects": ("cat", "dog", "tree", "car"), "attributes": ("red", "big", "old", "new")}
VOCABULARIES = {
    "objects": [Concept(name=name, count=1, examples=()) for name in NAMES["objects"][:3]],
    "attributes": [Concept(name=name, count=1, examples=()) for name in NAMES["attributes"]],
}
CONFIG = ConceptsConfig(heads=HeadConfig(epochs=2, batch_size=16, held_out=0.3), top_k=2, device="cpu")
DIM = 5


@pytest.fixture
def stages(tmp_path):
    """Three shards of 40 parsed captions; of every shard some pictures have features, in another order."""
    rng = np.random.default_rng(0)
    parsed = StageWriter(tmp_path / "parsed", stage="parsed", config={}, inputs={}, seed=0)
    features = StageWriter(tmp_path / "features", stage="features", config={}, inputs={}, seed=0)
    modifiers = pa.list_(pa.struct([("name", pa.string()), ("object", pa.string()), ("place", pa.int64())]))
    shards = ["a", "b", "c"]
    for shard in shards:
        named = {
            kind: [sorted(rng.choice(names, rng.integers(0, 4), replace=False)) for _ in range(40)]
            for kind, names in NAMES.items()
        }
        table = {"key": [f"{row:02d}" for row in range(40)], "caption": [f"{shard} {row}" for row in range(40)]}
        table |= {kind: pa.array(rows, pa.list_(pa.string())) for kind, rows in named.items()}
        table["modifiers"] = pa.array([[]] * 40, modifiers)
        parsed.write_shard(shard, pa.table(table))
        keys = rng.permutation(40)[: 0 if shard == "b" else 30]
        values = rng.normal(size=(len(keys), DIM)).astype(np.float16)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)
        features.write_shard(shard, pa.table({"key": [f"{key:02d}" for key in keys], "features": lists}))
    parsed.finish({"pairs": 120}, shards=shards, timings={})
    features.finish({"feature_dim": DIM, "pictures": 60}, shards=shards, timings={})
    return open_stage(tmp_path / "parsed", "parsed"), open_stage(tmp_path / "features", "features")


def test_training_labels_are_those_of_plain_lists(stages):
    parsed, features = stages
    found, held = labels_module._training_labels(parsed, features, VOCABULARIES, CONFIG)
    for kind, names in NAMES.items():
        known = {name: place for place, name in enumerate(names) if place < len(VOCABULARIES[kind])}
        expected = []
        for shard in parsed.shards:
            table = parsed.shard(shard)
            rows = dict(zip(table["key"].to_pylist(), table[kind].to_pylist(), strict=True))
            for key in features.shard(shard)["key"].to_pylist():
                expected.append(sorted(known[name] for name in rows[key] if name in known))
        labels = found[kind]
        assert [labels.ids[a:b].tolist() for a, b in zip(labels.indptr, labels.indptr[1:], strict=False)] == expected
        assert labels.classes == len(VOCABULARIES[kind])
        assert labels.ids.dtype == np.int32
    captions = [f"{s} {int(k)}" for s in features.shards for k in features.shard(s)["key"].to_pylist()]
    assert held.tolist() == [is_held_out(caption, 0.3, 0) for caption in captions]
    assert held.dtype == bool
    assert 5 < held.sum() < 40


def test_concept_ids_are_asked_for_once_a_shard_and_kind(stages, monkeypatch):
    asked = []
    monkeypatch.setattr(
        labels_module, "concept_ids", lambda table, kind, *given: asked.append(kind) or concept_ids(table, kind, *given)
    )
    labels_module._training_labels(*stages, VOCABULARIES, CONFIG)
    assert sorted(asked) == ["attributes"] * 3 + ["objects"] * 3


def test_stored_features_that_are_not_finite_are_named(stages, tmp_path):
    parsed, features = stages
    scratch = tmp_path / "scratch"
    heads, reports, _ = fit_heads(parsed, features, VOCABULARIES, CONFIG, scratch)
    assert heads.keys() == reports.keys() == {"objects", "attributes"}
    assert all(np.isfinite(head.weight).all() for head in heads.values())
    table = features.shard("c")
    values = np.array(table["features"].to_pylist(), np.float16)
    values[3, 1], values[7, 0], key = np.nan, np.inf, table["key"][3].as_py()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)
    pa.parquet.write_table(table.set_column(1, "features", lists), features.path / "shards" / "c.parquet")
    with pytest.raises(
        DataError, match=rf"features of 2 pictures of c are not finite, e\.g\. of {key}: delete "
    ) as caught:
        fit_heads(parsed, features, VOCABULARIES, CONFIG, scratch)
    assert "\n" not in str(caught.value)
    assert not scratch.exists()


def test_a_kind_without_a_head_has_no_names_and_training_builds_none(shapes_tar, tmp_path):
    for kind, names in {"objects": ("line", "circle", "square"), "attributes": ("purple", "golden")}.items():
        (tmp_path / f"{kind}.csv").write_text("\n".join(["name", *names]) + "\n")
    config = ConceptsConfig(
        teacher="timm:test_vit.r160_in1k",
        teacher_pretrained=False,
        image_size=32,
        vocabulary=str(tmp_path),
        top_k=2,
        heads=HeadConfig(epochs=1, batch_size=8, held_out=0.0),
        precision="fp32",
        workers=1,
    )
    out = tmp_path / "out"
    summary = run(str(shapes_tar.parent), config, out)
    assert summary["heads"].keys() == {"objects"}
    labels = load_pseudo_labels(out)
    assert labels.sizes == {"objects": 3}
    shard = labels.stage.shards[0]
    assert labels.lookup([shard], ["00000"]).keys() == {"objects"}
    assert not any(map(sum, labels.stage.shard(shard)["attribute_probs"].to_pylist()))
    # A table that was changed is refused all the same.
    (out / "attributes.csv").write_text("name\npurple\n")
    with pytest.raises(ValueError, match="not the vocabulary its labels were made with"):
        load_pseudo_labels(out)


def test_a_learning_rate_beyond_all_bounds_is_said(stages, tmp_path):
    config = ConceptsConfig(heads=HeadConfig(epochs=3, batch_size=16, held_out=0.3, lr=1e37), top_k=2, device="cpu")
    with pytest.raises(ConfigError, match="lower heads.lr"):
        fit_heads(*stages, VOCABULARIES, config, tmp_path / "scratch")
