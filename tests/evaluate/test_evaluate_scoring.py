"""Several labels a picture and several names a class: against slow versions in float64."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from stillroom.errors import DataError
from stillroom.evaluate import synonyms
from stillroom.evaluate.metrics import hit_at_k, mean_average_precision, mean_per_class_recall, top_k_accuracy
from stillroom.evaluate.multilabel import multilabel_metrics
from stillroom.evaluate.synonyms import best_name_accuracy, best_name_hits


def _unit(rng, *shape):
    values = rng.standard_normal(shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("names_per_class", [1, 3])
def test_average_precision_over_what_is_known(names_per_class):
    rng = np.random.default_rng(names_per_class)
    images, weights = _unit(rng, 30, 8), _unit(rng, 6 * names_per_class, 8).T
    truth, seen = rng.random((30, 6)) < 0.4, rng.random((30, 6)) < 0.7
    truth &= seen
    truth[:, 5] = seen[:, 5] = False  # of one class nothing is known
    names = [f"p{row}" for row in range(30)]
    positives = {name: tuple(np.flatnonzero(truth[row])) for row, name in enumerate(names)}
    known = {name: tuple(np.flatnonzero(seen[row])) for row, name in enumerate(names)}
    begins = np.arange(6) * names_per_class
    scores = (images.astype(float) @ weights).reshape(30, 6, names_per_class).max(axis=2)
    for which, mask in ((known, seen), (None, np.ones_like(seen))):
        metrics, chance, scored = multilabel_metrics(images, weights, begins, names, positives, which)
        parts = [(scores[mask[:, c], c], truth[mask[:, c], c]) for c in range(5)]
        assert scored == 5
        expected = np.mean([average_precision_score(right, part) for part, right in parts])
        assert metrics["mean_average_precision"] == pytest.approx(expected)
        eleven = [mean_average_precision(p[:, None], r[:, None], method="voc_11_point") for p, r in parts]
        assert metrics["mean_average_precision_11_point"] == pytest.approx(np.mean(eleven))
        assert chance["mean_average_precision"] == pytest.approx(np.mean([right.mean() for _, right in parts]))


def test_classes_with_one_kind_of_picture_are_left_out():
    images, weights = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    with pytest.raises(DataError, match="no class has both"):
        multilabel_metrics(images, weights, np.arange(2), ["a", "b"], {"a": (0,), "b": (0,)}, None)
    found = multilabel_metrics(images, weights, np.arange(2), ["a", "b"], {"a": (0, 1), "b": (0,)}, None)
    assert found[2] == 1
    assert found[0]["mean_average_precision"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("block", [1, 50, 2**23])
def test_the_best_name_of_a_class(monkeypatch, block):
    monkeypatch.setattr(synonyms, "BLOCK_SCORES", block)
    rng = np.random.default_rng(3)
    begins = np.array([0, 2, 3, 6, 7, 9])
    images, weights = _unit(rng, 25, 8), _unit(rng, 10, 8).T
    names = images.astype(float) @ weights.astype(float)
    ends = [*begins[1:], 10]
    scores = np.stack([names[:, a:b].max(axis=1) for a, b in zip(begins, ends, strict=True)], axis=1)
    labels = rng.integers(0, 6, 25)
    assert best_name_accuracy(images, weights, begins, labels) == pytest.approx(
        {
            "acc1": top_k_accuracy(scores, labels, 1),
            "acc5": top_k_accuracy(scores, labels, 5),
            "mean_per_class_recall": mean_per_class_recall(scores, labels),
        }
    )
    positives = [tuple(rng.choice(6, size=2, replace=False)) for _ in range(25)]
    found = best_name_hits(images, weights, begins, positives, (1, 3))
    assert found == {f"hit@{k}": pytest.approx(hit_at_k(scores, positives, k)) for k in (1, 3)}
    ignored = [tuple({0, 1, 2} - set(true)) for true in positives]
    masked = scores.copy()
    for row, classes in enumerate(ignored):
        masked[row, list(classes)] = -np.inf
    found = best_name_hits(images, weights, begins, positives, (1, 3), ignored)
    assert found == {f"hit@{k}": pytest.approx(hit_at_k(masked, positives, k)) for k in (1, 3)}
