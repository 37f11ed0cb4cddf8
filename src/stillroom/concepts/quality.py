"""How good a head is on captions it was not trained on: recall by concept, and calibration of its probabilities.

Recall@k counts the (picture, concept in its caption) pairs whose concept is among the k labels that the picture gets.
It stands beside the recall of a head that looks at no picture and always names the k concepts that were most frequent
in training; with k concepts or fewer every picture has them all as labels, and no recall is given.

Calibration (our choice throughout): a caption's n concepts have the target 1/n each and all
others 0, and a head is calibrated if, among all (picture, concept) pairs that it gives the probability p, the mean
target is p. Pairs are put into 15 bins of equal width in log p, five to a factor of ten from 0.001 to 1, and one bin
for all below. Bins of equal width in p would put nearly all pairs into the first one, for a picture's probabilities are
spread over thousands of concepts; bins of equal numbers would all lie there too, and need every pair in memory.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.concepts.pseudo_labels import top_k_labels

if TYPE_CHECKING:
    from stillroom.concepts.heads import ConceptLabels, LinearHead

BINS = 15
EDGES = 10.0 ** (np.arange(-BINS, 1) / 5)
COLUMNS = ("name", "training", "held_out", "recall")
# Pictures at once: probabilities of 10,000 concepts then take 40 MB.
ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class HeadQuality:
    """What was counted of one head, C concepts.

    Attributes:
        pictures: held-out pictures with at least one concept.
        top_k: labels of a picture.
        training: (C,) training pictures whose caption names the concept.
        held_out: (C,) held-out pictures whose caption names it.
        found: (C,) those of them that have it among their k labels.
        sums: (4, BINS + 1) of `bin_sums`, over all held-out pictures.
    """

    pictures: int
    top_k: int
    training: np.ndarray
    held_out: np.ndarray
    found: np.ndarray
    sums: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """(C,) float64 recall@k by concept; NaN of a concept that no held-out caption names, and of all if C <= k."""
        measured = (self.held_out > 0) & (len(self.held_out) > self.top_k)
        return np.where(measured, self.found / np.maximum(self.held_out, 1), np.nan)

    def report(self) -> dict[str, Any]:
        """Return recall@k and calibration; a value is None where there is nothing to be measured.

        recall_at_k: over (picture, concept) pairs. recall_at_k_mean_of_concepts: mean of `recall`.
        recall_at_k_most_frequent: over pairs, of always naming the k concepts most frequent in training.
        """
        recall = self.recall
        measured = not np.isnan(recall).all()
        common = np.argsort(-self.training, kind="stable")[: self.top_k]
        return {
            "held_out_pictures": self.pictures,
            "recall_at_k": float(self.found.sum() / self.held_out.sum()) if measured else None,
            "recall_at_k_mean_of_concepts": float(np.nanmean(recall)) if measured else None,
            "recall_at_k_most_frequent": (
                float(self.held_out[common].sum() / self.held_out.sum()) if measured else None
            ),
            "calibration": calibration(self.sums, self.pictures) if self.pictures else None,
        }


def measure_head(
    head: LinearHead,
    features: np.ndarray,
    labels: ConceptLabels,
    *,
    training: np.ndarray,
    held_out: np.ndarray,
    top_k: int,
) -> HeadQuality:
    """Count over the held-out rows, a few hundred pictures at a time.

    Args:
        head: as it was trained.
        features: (N, D) float16, in memory or mapped.
        labels: of the same N pictures.
        training: rows that were trained on.
        held_out: rows to measure on, each with at least one concept; may be empty.
        top_k: labels of a picture.
    """
    found = np.zeros(labels.classes, np.int64)
    sums = np.zeros((4, BINS + 1))
    for start in range(0, len(held_out), ROWS_AT_ONCE):
        rows = held_out[start : start + ROWS_AT_ONCE]
        ids, mass = labels.padded(rows)
        logits = head.logits(features[rows])
        found += np.bincount(ids[among_labels(logits, ids, mass, top_k)], minlength=labels.classes)
        sums += bin_sums(softmax(logits), ids, mass)
    return HeadQuality(
        pictures=len(held_out),
        top_k=top_k,
        training=labels.frequency(training),
        held_out=labels.frequency(held_out),
        found=found,
        sums=sums,
    )


def among_labels(logits: np.ndarray, ids: np.ndarray, mass: np.ndarray, k: int) -> np.ndarray:
    """Return (N, L) bool: whether a picture's concept is among the k labels it gets; False at padding."""
    chosen, probs = top_k_labels(logits, k)
    labelled = np.zeros(logits.shape, bool)
    rows, places = np.nonzero(probs > 0)
    labelled[rows, chosen[rows, places]] = True
    return np.take_along_axis(labelled, ids, axis=1) & (mass > 0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return (N, C) float64 probabilities."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def bin_sums(probabilities: np.ndarray, ids: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Sum over all (picture, concept) pairs, by bin of the pair's probability.

    Args:
        probabilities: (N, C) float64, each row sums to 1.
        ids: (N, L) concepts that the caption names.
        mass: (N, L) their targets, a row sums to 1; 0 is padding.

    Returns:
        (4, BINS + 1) float64: number of pairs, sum of probabilities, sum of targets, number of pairs that the caption
        names. Bin 0 is below `EDGES[0]`, bin b holds EDGES[b - 1] <= p < EDGES[b], the last one p = 1 too.
    """
    sums = np.zeros((4, BINS + 1))
    large = probabilities[probabilities >= EDGES[0]]  # few: at most 1,000 in a row
    places = _bins(large)
    sums[0] = np.bincount(places, minlength=BINS + 1)
    sums[1] = np.bincount(places, weights=large, minlength=BINS + 1)
    sums[0, 0] = probabilities.size - len(large)
    sums[1, 0] = max(len(probabilities) - large.sum(), 0.0)
    named = mass > 0
    places = _bins(np.take_along_axis(probabilities, ids, axis=1)[named])
    sums[2] = np.bincount(places, weights=mass[named].astype(np.float64), minlength=BINS + 1)
    sums[3] = np.bincount(places, minlength=BINS + 1)
    return sums


def _bins(probabilities: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(EDGES, probabilities, side="right"), BINS)


def calibration(sums: np.ndarray, pictures: int) -> dict[str, Any]:
    """Return the bins that hold pairs, and the expected calibration error.

    The error is Guo et al.'s (2017): |sum of probabilities - sum of targets| over bins, here per picture and not per
    pair, so that it does not fade with the size of the vocabulary. It lies between 0 and 2.

    Args:
        sums: of `bin_sums`.
        pictures: how many pictures they are of, at least 1.

    Returns:
        `ece`, and `bins`: from, to, pairs, and the means over the pairs: probability, target, and named, the share of
        pairs whose concept the caption names.
    """
    edges = [0.0, *EDGES]
    bins = []
    for place in np.flatnonzero(sums[0]):
        pairs, probability, target, named = sums[:, place]
        bins.append(
            {
                "from": _rounded(edges[place]),
                "to": _rounded(edges[place + 1]),
                "pairs": int(pairs),
                "probability": _rounded(probability / pairs),
                "target": _rounded(target / pairs),
                "named": _rounded(named / pairs),
            }
        )
    return {"ece": _rounded(np.abs(sums[1] - sums[2]).sum() / pictures), "bins": bins}


def _rounded(value: float) -> float:
    """Keep six digits: the last ones of a sum depend on how a machine multiplies."""
    return float(f"{value:.6g}")


def format_quality(names: Sequence[str], quality: HeadQuality) -> bytes:
    """Return a table as CSV, a row for each concept in the order of the vocabulary.

    Columns: name, training and held-out pictures whose caption names it, and recall@k on the latter or nothing.
    """
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = zip(names, quality.training.tolist(), quality.held_out.tolist(), quality.recall.tolist(), strict=True)
    for name, training, held_out, recall in rows:
        writer.writerow((name, training, held_out, "" if math.isnan(recall) else f"{recall:.4f}"))
    return sink.getvalue().encode("utf-8", "replace")
