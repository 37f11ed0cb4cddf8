"""Blockwise flat hit@k: worked by hand, equal to a plain float64 version, and never lucky by ties."""

import itertools
import tracemalloc

import numpy as np
import pytest

from stillroom.errors import DataError
from stillroom.evaluate import open_vocabulary
from stillroom.evaluate.metrics import hit_at_k
from stillroom.evaluate.open_vocabulary import class_ranks, flat_hit_at_k, hit_chance


def unit(rng, n, width):
    vectors = rng.standard_normal((n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def plain(images, weights, positives, k, ignored):
    """Sort each picture's classes in float64, wrong before true where scores are equal."""
    hits = 0
    for vector, true, out in zip(images.astype(np.float64), positives, ignored, strict=True):
        scores = weights.astype(np.float64) @ vector
        ranked = [c for c in range(len(weights)) if c in true or c not in out]
        ranked.sort(key=lambda c: (-scores[c], c in true))
        hits += any(c in true for c in ranked[:k])
    return hits / len(images)


@pytest.mark.parametrize("block", [1, 100, 2**23])
@pytest.mark.parametrize("with_ignored", [False, True])
def test_equal_to_a_plain_version(monkeypatch, block, with_ignored):
    monkeypatch.setattr(open_vocabulary, "BLOCK_SCORES", block)
    rng = np.random.default_rng(0)
    images, weights = unit(rng, 61, 8), unit(rng, 40, 8)
    positives = [set(rng.choice(40, rng.integers(0, 4), replace=False).tolist()) for _ in images]
    ignored = [set(rng.choice(40, 12, replace=False).tolist()) if with_ignored else set() for _ in images]
    found = flat_hit_at_k(images, weights, positives, (1, 2, 5, 10), ignored=ignored if with_ignored else None)
    expected = {f"hit@{k}": plain(images, weights, positives, k, ignored) for k in (1, 2, 5, 10)}
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found.values()) == sorted(found.values())
    if not with_ignored:
        scores = images.astype(np.float64) @ weights.T.astype(np.float64)
        assert found == pytest.approx({f"hit@{k}": hit_at_k(scores, positives, k) for k in (1, 2, 5, 10)})


def test_by_hand():
    images = np.eye(2, 3, dtype=np.float32)
    weights = np.array([[0.9, 0.3, 0], [0.2, 0.5, 0], [0.1, 0.4, 0]], dtype=np.float32)
    assert class_ranks(images, weights, [{0}, {0, 2}]).tolist() == [0, 1]
    assert class_ranks(images, weights, [{2}, {0}]).tolist() == [2, 2]
    assert class_ranks(images, weights, [{2}, {0}], ignored=[{1}, {1, 2}]).tolist() == [1, 0]
    assert class_ranks(images, weights, [{2}, {0}], ignored=[{0, 2}, {0}]).tolist() == [1, 2]
    assert flat_hit_at_k(images, weights, [[0, 0], ()], [1, 3]) == {"hit@1": 0.5, "hit@3": 0.5}


def test_ties_count_against_the_model():
    images = np.ones((3, 4), dtype=np.float32) / 2
    weights = np.ones((7, 4), dtype=np.float32) / 2
    assert flat_hit_at_k(images, weights, [{0}, {3}, {6}], [1, 6, 7]) == {"hit@1": 0.0, "hit@6": 0.0, "hit@7": 1.0}
    # two copies of the true class's vector that differ by less than float32 products do
    weights = unit(np.random.default_rng(1), 500, 512)
    weights[1] = weights[0]
    weights[1, 0] += 1e-8
    assert class_ranks(weights[:1], weights, [{0}]).tolist() == [1]


def test_no_matrix_of_all_scores_is_held():
    rng = np.random.default_rng(0)
    images, weights = unit(rng, 6_000, 4), unit(rng, 6_000, 4)  # 144 MB of scores
    positives = [[i % 6_000] for i in range(6_000)]
    tracemalloc.start()
    flat_hit_at_k(images, weights, positives)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_what_cannot_be_scored_is_one_line():
    images, weights = np.eye(2, 3, dtype=np.float32), np.eye(3, dtype=np.float32)
    for bad in (np.full((2, 3), np.nan, dtype=np.float32), images[:, :2], images[:0]):
        with pytest.raises(DataError):
            flat_hit_at_k(bad, weights, [{0}] * len(bad))
    with pytest.raises(DataError, match="positives has 1 sets for 2 pictures"):
        flat_hit_at_k(images, weights, [{0}])
    with pytest.raises(DataError, match="ignored holds 3; with 3 classes it must be 0 .. 2"):
        flat_hit_at_k(images, weights, [{0}, {1}], ignored=[{3}, ()])
    with pytest.raises(DataError, match="positives must be one set"):
        flat_hit_at_k(images, weights, [{"cat"}, {1}])
    with pytest.raises(DataError, match="k is 0"):
        flat_hit_at_k(images, weights, [{0}, {1}], [0])


def test_chance_is_the_mean_over_all_orders():
    positives, ignored, classes = [{0, 1}, {2}, set()], [{1, 4}, {0}, {1}], 5
    for k in (1, 2, 5):
        hits, orders = 0, list(itertools.permutations(range(classes)))
        for order in orders:
            for true, out in zip(positives, ignored, strict=True):
                ranked = [c for c in order if c in true or c not in out]
                hits += any(c in true for c in ranked[:k])
        expected = hits / len(orders) / len(positives)
        assert hit_chance(positives, classes, [k], ignored=ignored)[f"hit@{k}"] == pytest.approx(expected)
