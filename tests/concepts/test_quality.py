"""Recall and calibration of a head, against sums done by hand and an independent slow count in float64."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from stillroom.concepts import quality as quality_module
from stillroom.concepts.heads import LinearHead, make_labels
from stillroom.concepts.quality import (
    BINS,
    EDGES,
    HeadQuality,
    among_labels,
    bin_sums,
    calibration,
    format_quality,
    measure_head,
    softmax,
)


def test_a_concept_is_found_if_it_is_among_the_labels():
    # In the second row concepts 0, 1 and 2 are equally probable: of these the labels have the lower ids.
    logits = np.array([[5.0, 4.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    labels = make_labels([[1, 3], [0, 1, 3]], 4)
    ids, mass = labels.padded(np.arange(2))
    assert among_labels(logits, ids, mass, 2).tolist() == [[True, False, False], [True, False, True]]
    assert among_labels(logits, ids, mass, 1).tolist() == [[False, False, False], [False, False, True]]


def test_a_label_that_float16_rounds_to_nothing_is_not_found():
    labels = make_labels([[1], [2], [0]], 3)
    logits = np.array([[50.0, 0.0, -1.0], [0.0, 50.0, 49.0], [-1.0, 50.0, 0.0]])
    assert among_labels(logits, *labels.padded(np.arange(3)), 2).tolist() == [[False], [True], [False]]


def test_recall_where_every_concept_is_a_label_is_not_given():
    head, features, concepts = toy(pictures=50, classes=6)
    labels = make_labels(concepts, 6)
    rows = np.arange(50)
    for top_k in (6, 10):
        made = measure_head(head, features, labels, training=rows[:25], held_out=rows[25:], top_k=top_k)
        report = made.report()
        assert {name for name, value in report.items() if value is None} == {
            "recall_at_k",
            "recall_at_k_mean_of_concepts",
            "recall_at_k_most_frequent",
        }
        table = list(csv.DictReader(io.StringIO(format_quality(list("abcdef"), made).decode())))
        assert {row["recall"] for row in table} == {""}
        assert int(table[0]["held_out"]) > 0
    assert measure_head(head, features, labels, training=rows[:25], held_out=rows[25:], top_k=5).report()["recall_at_k"]


def test_recall_of_the_most_frequent_by_hand():
    # Most frequent in training: 3, then 0 and 1 equally; with k = 2 those named are 3 and 0.
    counted = {
        "training": np.array([5, 5, 0, 9]),
        "held_out": np.array([2, 4, 1, 3]),
        "found": np.array([1, 4, 0, 0]),
    }
    made = HeadQuality(pictures=7, top_k=2, sums=np.zeros((4, 16)), **counted)
    report = made.report()
    assert report["recall_at_k"] == 0.5
    assert report["recall_at_k_mean_of_concepts"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert report["recall_at_k_most_frequent"] == 0.5


def test_softmax_of_large_logits():
    found = softmax(np.array([[1000.0, 1000.0, -1000.0], [0.0, math.log(3), -np.inf]], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0.25, 0.75, 0]], rtol=1e-7)


def test_edges_are_five_to_a_factor_of_ten():
    assert len(EDGES) == BINS + 1 == 16
    np.testing.assert_allclose([EDGES[0], EDGES[5], EDGES[10], EDGES[15]], [0.001, 0.01, 0.1, 1])


def test_bins_on_a_case_done_by_hand():
    # Bin 11 is 0.1 to 0.158, bin 12 to 0.251, bin 13 to 0.398, bin 14 to 0.631, bin 15 to 1 (with 1).
    probabilities = np.array([[0.2, 0.2995, 0.5, 0.0005], [1.0, 0.0, 0.0, 0.0]])
    labels = make_labels([[1, 3], [0]], 4)
    sums = bin_sums(probabilities, *labels.padded(np.arange(2)))
    expected = np.zeros((4, 16))
    expected[:, 12] = [1, 0.2, 0, 0]
    expected[:, 13] = [1, 0.2995, 0.5, 1]
    expected[:, 14] = [1, 0.5, 0, 0]
    expected[:, 15] = [1, 1.0, 1.0, 1]
    expected[:, 0] = [4, 0.0005, 0.5, 1]
    np.testing.assert_allclose(sums, expected, atol=1e-12)
    found = calibration(sums, 2)
    assert found["ece"] == pytest.approx((0.4995 + 0.2 + 0.2005 + 0.5) / 2)
    assert [b["pairs"] for b in found["bins"]] == [4, 1, 1, 1, 1]
    low = {"from": 0.0, "to": 0.001, "pairs": 4, "probability": 0.000125, "target": 0.125, "named": 0.25}
    assert found["bins"][0] == low
    assert (found["bins"][-1]["from"], found["bins"][-1]["to"]) == (0.630957, 1.0)


def test_an_edge_belongs_to_the_bin_above():
    edge = EDGES[9]
    probabilities = np.array([[edge, np.nextafter(edge, 0), 1 - edge - np.nextafter(edge, 0)]])
    sums = bin_sums(probabilities, *make_labels([[2]], 3).padded(np.arange(1)))
    assert (sums[0, 10], sums[0, 9]) == (1, 1)


def toy(pictures=700, classes=40, dim=6):
    rng = np.random.default_rng(1)
    head = LinearHead(
        weight=rng.normal(size=(classes, dim)).astype(np.float32) * 2, bias=rng.normal(size=classes).astype(np.float32)
    )
    features = rng.normal(size=(pictures, dim)).astype(np.float16)
    concepts = [sorted(rng.choice(classes - 1, size=rng.integers(1, 5), replace=False).tolist()) for _ in features]
    return head, features, concepts


def slow(head, features, concepts, training, held_out, top_k):
    """Count pair by pair in float64."""
    classes = len(head.bias)
    trained, named, found = ([0] * classes for _ in range(3))
    pairs = [[0, 0.0, 0.0, 0] for _ in range(BINS + 1)]
    for row in training:
        for concept in concepts[row]:
            trained[concept] += 1
    for row in held_out:
        logits = head.weight.astype(np.float64) @ features[row].astype(np.float64) + head.bias
        raised = [math.exp(value - max(logits)) for value in logits]
        first = sorted(range(classes), key=lambda c: -logits[c])[:top_k]
        for concept in range(classes):
            p = raised[concept] / math.fsum(raised)
            target = 1 / len(concepts[row]) if concept in concepts[row] else 0
            place = sum(p >= edge for edge in EDGES[:-1])
            for k, value in enumerate((1, p, target, concept in concepts[row])):
                pairs[place][k] += value
            named[concept] += concept in concepts[row]
            found[concept] += concept in concepts[row] and concept in first
    return trained, named, found, np.array(pairs).T


def test_a_head_is_measured_as_by_a_slow_count(monkeypatch):
    monkeypatch.setattr(quality_module, "ROWS_AT_ONCE", 64)
    head, features, concepts = toy()
    held_out, training = np.arange(0, 700, 3), np.setdiff1d(np.arange(700), np.arange(0, 700, 3))
    labels = make_labels(concepts, 40)
    found = measure_head(head, features, labels, training=training, held_out=held_out, top_k=5)
    trained, named, hits, sums = slow(head, features, concepts, training, held_out, 5)
    assert found.training.tolist() == trained
    assert found.held_out.tolist() == named
    assert found.found.tolist() == hits
    np.testing.assert_allclose(found.sums, sums, atol=1e-3, rtol=1e-4)
    report = found.report()
    assert report["held_out_pictures"] == len(held_out)
    assert report["recall_at_k"] == pytest.approx(sum(hits) / sum(named))
    shares = [h / n for h, n in zip(hits, named, strict=True) if n]
    assert len(shares) == 39  # the last concept is never named
    assert report["recall_at_k_mean_of_concepts"] == pytest.approx(sum(shares) / 39)
    often = sorted(range(40), key=lambda c: (-trained[c], c))[:5]
    assert report["recall_at_k_most_frequent"] == pytest.approx(sum(named[c] for c in often) / sum(named))
    assert sum(b["pairs"] for b in report["calibration"]["bins"]) == len(held_out) * 40
    assert sum(b["pairs"] * b["target"] for b in report["calibration"]["bins"]) == pytest.approx(
        len(held_out), rel=1e-4
    )


def test_a_head_that_knows_the_truth_is_calibrated():
    rng = np.random.default_rng(0)
    head, features, _ = toy(pictures=20_000)
    probabilities = softmax(head.logits(features))
    drawn = (probabilities.cumsum(axis=1) < rng.random((len(features), 1))).sum(axis=1).clip(max=39)
    labels = make_labels([[int(c)] for c in drawn], 40)
    rows = np.arange(len(features))
    true = measure_head(head, features, labels, training=rows[:0], held_out=rows, top_k=5).report()["calibration"]
    assert true["ece"] < 0.03
    for part in true["bins"]:
        spread = math.sqrt(part["probability"] / part["pairs"])  # of a mean of so many draws, at most
        assert abs(part["target"] - part["probability"]) < 4.5 * spread
    sharp = LinearHead(weight=head.weight * 2, bias=head.bias * 2)
    sure = measure_head(sharp, features, labels, training=rows[:0], held_out=rows, top_k=5).report()["calibration"]
    assert sure["ece"] > 0.15
    assert sure["bins"][-1]["target"] < sure["bins"][-1]["probability"] - 0.05


def test_without_a_held_out_part_nothing_is_claimed():
    head, features, concepts = toy(pictures=10)
    labels = make_labels(concepts, 40)
    found = measure_head(head, features, labels, training=np.arange(10), held_out=np.arange(0), top_k=5)
    assert found.report() == {
        "held_out_pictures": 0,
        "recall_at_k": None,
        "recall_at_k_mean_of_concepts": None,
        "recall_at_k_most_frequent": None,
        "calibration": None,
    }
    assert found.training.sum() == sum(map(len, concepts))


def test_the_table_has_every_concept_and_no_recall_where_there_is_none():
    counted = {"training": np.array([7, 5, 0]), "held_out": np.array([3, 0, 1]), "found": np.array([2, 0, 1])}
    made = HeadQuality(pictures=4, top_k=2, sums=np.zeros((4, 16)), **counted)
    text = format_quality(["dog", 'a "b", c', "="], made).decode()
    assert text.splitlines()[0] == "name,training,held_out,recall"
    assert list(csv.reader(io.StringIO(text)))[1:] == [
        ["dog", "7", "3", "0.6667"],
        ['a "b", c', "5", "0", ""],
        ["=", "0", "1", "1.0000"],
    ]
