from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from stillroom.concepts.config import HeadConfig
from stillroom.concepts.heads import (
    feature_statistics,
    join_labels,
    make_labels,
    resampled_order,
    sampling_weights,
    soft_target_cross_entropy,
    train_head,
)
from stillroom.concepts.quality import measure_head
from stillroom.errors import ConfigError


def toy(pictures, classes, dim, seed=0):
    """Pictures of one or two concepts; a picture's feature is the sum of its concepts' directions."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(classes, dim)) * 3
    concepts = [sorted(rng.choice(classes, size=rng.integers(1, 3), replace=False).tolist()) for _ in range(pictures)]
    features = np.stack([directions[ids].sum(axis=0) for ids in concepts]) + rng.normal(size=(pictures, dim)) * 0.3
    return (features * 5 + 40).astype(np.float16), concepts


def test_labels_share_the_mass():
    labels = make_labels([[2], [], [0, 1, 3]], 4)
    ids, mass = labels.padded(np.array([2, 1, 0]))
    assert ids.tolist() == [[0, 1, 3], [0, 0, 0], [2, 0, 0]]
    np.testing.assert_allclose(mass, [[1 / 3] * 3, [0] * 3, [1, 0, 0]], rtol=1e-6)


def test_flat_labels_of_some_rows():
    labels = make_labels([[2], [], [0, 1, 3], [1]], 4)
    ids, lengths = labels.flat(np.array([3, 1, 2]))
    assert (ids.tolist(), lengths.tolist()) == ([1, 0, 1, 3], [1, 0, 3])
    assert labels.frequency(np.array([3, 1, 2])).tolist() == [1, 2, 0, 1]
    ids, lengths = labels.flat(np.arange(0))
    assert (len(ids), len(lengths)) == (0, 0)


def test_joined_labels_are_those_of_all_pictures():
    parts = [[[2], [], [0, 1, 3]], [], [[1]], [[], [0, 2]]]
    joined = join_labels([make_labels(part, 4) for part in parts])
    whole = make_labels([ids for part in parts for ids in part], 4)
    assert joined.indptr.tolist() == whole.indptr.tolist()
    assert joined.ids.tolist() == whole.ids.tolist()
    assert (joined.indptr.dtype, joined.ids.dtype, joined.classes) == (np.int64, np.int32, 4)


def test_one_long_caption_costs_no_more_than_its_own_concepts():
    # 100,000 captions of one concept and one of 1,000: a table as wide as the longest would take 1.2 GB.
    labels = make_labels([[i % 1000] for i in range(100_000)] + [list(range(1000))], 1000)
    rows = np.arange(100_001)
    tracemalloc.start()
    try:
        weights = sampling_weights(labels, rows, "sqrt")
        frequency = labels.frequency(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    np.testing.assert_allclose(weights, 1)
    assert frequency.tolist() == [101] * 1000


def test_loss_is_dense_cross_entropy():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    labels = make_labels([[0], [1, 2], [0, 3, 4], [4], [2], [1, 3]], 5)
    ids, mass = (torch.from_numpy(part) for part in labels.padded(np.arange(6)))
    target = torch.zeros(6, 5).scatter_add(1, ids, mass)
    expected = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(soft_target_cross_entropy(logits, ids, mass), expected)


def test_square_root_weights_by_hand():
    # Frequencies: concept 0 four times, concept 1 once; the picture with both counts as its rarest.
    labels = make_labels([[0], [0], [0], [0, 1]], 2)
    weights = sampling_weights(labels, np.arange(4), "sqrt")
    np.testing.assert_allclose(weights, np.array([0.5, 0.5, 0.5, 1.0]) * 4 / 2.5)
    turned = make_labels([[0, 1], [1], [0, 1], [1]], 2)
    np.testing.assert_allclose(
        sampling_weights(turned, np.array([2, 3, 1]), "sqrt"), [3 / (1 + 2 / 3**0.5)] + [3 / (2 + 3**0.5)] * 2
    )
    np.testing.assert_allclose(sampling_weights(labels, np.arange(4), "none"), 1)
    # Rows that are not trained on do not count: concept 0 is then as rare as concept 1.
    np.testing.assert_allclose(
        sampling_weights(labels, np.array([0, 3]), "sqrt")[0], np.sqrt(0.5) * 2 / (1 + np.sqrt(0.5))
    )


def test_square_root_sampling_of_single_concepts():
    labels = make_labels([[0]] * 90 + [[1]] * 10, 2)
    weights = sampling_weights(labels, np.arange(100), "sqrt")
    shown = [weights[:90].sum(), weights[90:].sum()]
    assert shown[0] / shown[1] == pytest.approx(3.0)  # sqrt(90) : sqrt(10)


def test_resampled_order_shows_each_as_often_as_its_weight():
    weights = np.array([0.25, 0.5, 1.0, 2.25] * 25)
    rng = np.random.default_rng(0)
    shown = np.zeros(100)
    for _ in range(200):
        times = np.bincount(resampled_order(weights, rng), minlength=100)
        assert times.sum() == 100
        assert (np.abs(times - weights) < 1 + 1e-9).all()
        shown += times / 200
    np.testing.assert_allclose(shown, weights, atol=0.15)
    assert sorted(resampled_order(np.ones(50), rng)) == list(range(50))


def test_feature_statistics():
    features = np.array([[1, 5, 7], [3, 5, 9], [100, 100, 100]], np.float16)
    mean, std = feature_statistics(features, np.array([0, 1]))
    np.testing.assert_allclose(mean, [2, 5, 8])
    np.testing.assert_allclose(std, [1, 1, 1])


@pytest.mark.parametrize("resampling", ["sqrt", "none"])
def test_head_learns_a_separable_problem(resampling):
    features, concepts = toy(1200, 30, 24)
    labels = make_labels(concepts, 30)
    rows = np.arange(1200)
    config = HeadConfig(epochs=12, batch_size=64, lr=0.01, resampling=resampling)
    arguments = {"training": rows[:1000], "held_out": rows[1000:], "config": config, "seed": 0}
    head, report = train_head(features, labels, **arguments)
    assert head.weight.shape == (30, 24)
    quality = measure_head(head, features, labels, training=rows[:1000], held_out=rows[1000:], top_k=3)
    assert quality.report()["recall_at_k"] > 0.97  # chance: 3 of 30
    assert report["losses"][-1]["held_out"] < 0.5 * report["losses"][0]["held_out"]
    again, _ = train_head(features, labels, **arguments)
    assert np.array_equal(head.weight, again.weight)
    other, _ = train_head(features, labels, **{**arguments, "seed": 1})
    assert not np.array_equal(head.weight, other.weight)


def test_training_stops_when_the_held_out_part_gets_worse():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 40)).astype(np.float16)
    labels = make_labels([[int(c)] for c in rng.integers(0, 10, 200)], 10)  # nothing to learn
    config = HeadConfig(epochs=30, patience=2, batch_size=32, lr=0.05)
    rows = np.arange(200)
    _, report = train_head(features, labels, training=rows[:100], held_out=rows[100:], config=config, seed=0)
    assert len(report["losses"]) < 30
    assert len(report["losses"]) - report["epochs"] == 2


def test_without_a_held_out_part_all_epochs_are_run():
    features, concepts = toy(100, 5, 8)
    config = HeadConfig(epochs=3, batch_size=32, held_out=0.0)
    _, report = train_head(
        features,
        make_labels(concepts, 5),
        training=np.arange(100),
        held_out=np.arange(0),
        config=config,
        seed=0,
    )
    assert report["epochs"] == 3


@pytest.mark.parametrize("broken", ["training", "held_out"])
def test_a_loss_that_is_not_finite_is_one_line(broken):
    features, concepts = toy(100, 5, 8)
    rows = np.arange(100)
    parts = {"training": rows[:80], "held_out": rows[80:]}
    features[parts[broken][7], 3] = np.nan
    with pytest.raises(ConfigError, match="the loss of a head is nan in epoch 1: lower heads.lr") as caught:
        train_head(features, make_labels(concepts, 5), **parts, config=HeadConfig(batch_size=32), seed=0)
    assert "\n" not in str(caught.value)
