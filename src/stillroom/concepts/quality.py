"""How good a head is on captions it was not trained on: recall by concept, and calibration of its probabilities.

Calibration (our choice throughout): a caption's n concepts have the target 1/n each and all
others 0, and a head is calibrated if, among all (picture, concept) pairs that it gives the probability p, the mean
target is p. Pairs are put into 15 bins of equal width in log p, five to a factor of ten from 0.001 to 1, and one bin
for all below. Bins of equal width in p would put nearly all pairs into the first one, for a picture's probabilities are
spread over thousands of concepts; bins of equal numbers would all lie there too, and need every pair in memory.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
        training: (C,) training pictures whose caption names the concept.
        held_out: (C,) held-out pictures whose caption names it.
        found: (C,) those of them that have it among their k most probable concepts.
        sums: (4, BINS + 1) of `bin_sums`, over all held-out pictures.
    """

    pictures: int
    training: np.ndarray
    held_out: np.ndarray
    found: np.ndarray
    sums: np.ndarray

    def report(self) -> dict[str, Any]:
        """Return recall@k, over (picture, concept) pairs and as mean of concepts, and calibration; None without."""
        seen = self.held_out > 0
        found, held_out = self.found[seen], self.held_out[seen]
        return {
            "held_out_pictures": self.pictures,
            "recall_at_k": float(found.sum() / held_out.sum()) if seen.any() else None,
            "recall_at_k_mean_of_concepts": float((found / held_out).mean()) if seen.any() else None,
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
        top_k: k of recall@k.
    """
    named, found = np.zeros((2, labels.classes), np.int64)
    sums = np.zeros((4, BINS + 1))
    for start in range(0, len(held_out), ROWS_AT_ONCE):
        rows = held_out[start : start + ROWS_AT_ONCE]
        ids, mass = labels.padded(rows)
        logits = head.logits(features[rows])
        named += np.bincount(ids[mass > 0], minlength=labels.classes)
        found += np.bincount(ids[recall_at_k(logits, ids, mass, top_k)], minlength=labels.classes)
        sums += bin_sums(softmax(logits), ids, mass)
    ids, mass = labels.padded(training)
    trained = np.bincount(ids[mass > 0], minlength=labels.classes)
    return HeadQuality(pictures=len(held_out), training=trained, held_out=named, found=found, sums=sums)


def recall_at_k(logits: np.ndarray, ids: np.ndarray, mass: np.ndarray, k: int) -> np.ndarray:
    """Return (N, L) bool: whether a picture's concept stands among its k highest logits; False at padding."""
    own = np.take_along_axis(logits, ids, axis=1)
    # The number of better classes: a concept that shares its logit with others is not pushed out by them.
    better = np.stack([(logits > own[:, [place]]).sum(axis=1) for place in range(ids.shape[1])], axis=1)
    return (better < k) & (mass > 0)


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
    for place, name in enumerate(names):
        held_out, found = int(quality.held_out[place]), int(quality.found[place])
        writer.writerow((name, int(quality.training[place]), held_out, f"{found / held_out:.4f}" if held_out else ""))
    return sink.getvalue().encode("utf-8", "replace")
