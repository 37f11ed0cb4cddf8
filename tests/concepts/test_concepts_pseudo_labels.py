from __future__ import annotations

import numpy as np
import pytest

from stillroom.concepts.pseudo_labels import top_k_labels


def test_hand_computed():
    logits = np.log(np.array([[1.0, 4.0, 2.0, 1.0]], np.float32))
    ids, probs = top_k_labels(logits, 3)
    assert ids.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(probs, [[4 / 7, 2 / 7, 1 / 7]], atol=1e-3)
    assert (ids.dtype, probs.dtype) == (np.uint32, np.float16)


@pytest.mark.parametrize(("classes", "k"), [(1, 1), (7, 3), (50, 10), (10, 10)])
def test_equals_dense_softmax(classes, k):
    logits = np.random.default_rng(classes).normal(size=(64, classes)).astype(np.float32)
    ids, probs = top_k_labels(logits, k)
    dense = np.exp(logits.astype(np.float64))
    dense /= dense.sum(axis=1, keepdims=True)
    for row in range(len(logits)):
        best = sorted(range(classes), key=lambda c: -dense[row, c])[:k]
        assert ids[row].tolist() == best
        expected = dense[row, best] / dense[row, best].sum()
        np.testing.assert_allclose(probs[row], expected, rtol=2e-3, atol=1e-6)
    assert all(len(set(row)) == k for row in ids.tolist())
    assert (np.diff(probs.astype(np.float32), axis=1) <= 0).all()
    np.testing.assert_allclose(probs.astype(np.float64).sum(axis=1), 1, atol=k * 5e-4)


def test_fewer_classes_than_k_are_padded():
    ids, probs = top_k_labels(np.array([[0.0, 1.0]], np.float32), 4)
    assert ids.tolist() == [[1, 0, 0, 0]]
    assert (probs[0, 2:] == 0).all()
    assert (probs[0, :2] > 0).all()
    ids, probs = top_k_labels(np.zeros((3, 0), np.float32), 2)
    assert ids.shape == probs.shape == (3, 2)
    assert not probs.any()


def test_a_probability_that_rounds_to_zero_is_padding():
    ids, probs = top_k_labels(np.array([[-1.0, 0.0, 50.0]], np.float32), 2)
    assert ids.tolist() == [[2, 0]]
    assert probs.tolist() == [[1, 0]]


def test_huge_logits_and_a_constant_change_nothing():
    logits = np.array([[3.0, 1.0, 2.0]], np.float32)
    for shift in (0, 1000, -1000):
        ids, probs = top_k_labels(logits + shift, 2)
        assert ids.tolist() == [[0, 2]]
        np.testing.assert_allclose(probs, [[0.7311, 0.2689]], atol=1e-3)


def test_ties_go_by_id():
    ids, _ = top_k_labels(np.zeros((2, 5), np.float32), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_of_equal_ones_at_the_end_the_lower_ids_are_kept():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (300, 40)).astype(np.float32)
    ids, _ = top_k_labels(logits, 7)
    for row, found in zip(logits, ids.tolist(), strict=True):
        assert found == sorted(range(40), key=lambda c: (-row[c], c))[:7]
