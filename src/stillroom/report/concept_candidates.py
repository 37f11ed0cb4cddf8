"""The few pairs that show a concept best, found in the labels of a shard and merged over shards."""

from __future__ import annotations

import numpy as np

from stillroom.concepts.heads import ConceptLabels

# What is shown of a concept: named and sure, named and not found, found and not named.
STRIPS = ("surest", "hardest", "unnamed")
# More than are shown, because of several with the same caption only one is.
CANDIDATES = 12
CANDIDATE = np.dtype(
    [("concept", "i8"), ("share", "f8"), ("rank", "f8"), ("tie", "u8"), ("shard", "i4"), ("row", "i8")]
)


def shard_candidates(
    named: ConceptLabels, ids: np.ndarray, probs: np.ndarray, hashes: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """Find a shard's candidates for each strip of each concept.

    Args:
        named: the concepts of the n captions.
        ids: (n, k) int64 labels.
        probs: (n, k) float64 their probabilities; 0 is padding.
        hashes: (n,) uint64, order pairs of equal rank by chance.

    Returns:
        strip -> `CANDIDATE` array of at most `CANDIDATES` a concept, `shard` still 0; and the sum of the
        probabilities of labels that the caption names.
    """
    rows, places = np.nonzero(probs > 0)
    concepts, values = ids[rows, places], probs[rows, places]
    labels = rows * named.classes + concepts
    own_rows = np.repeat(np.arange(len(named.indptr) - 1), np.diff(named.indptr))
    own = own_rows * named.classes + named.ids
    inside = np.isin(labels, own)
    own_values = _probabilities(own, labels, values)
    strips = {
        "surest": _candidates(concepts[inside], values[inside], rows[inside], hashes),
        "hardest": _candidates(named.ids, own_values, own_rows, hashes, falling=False),
        "unnamed": _candidates(concepts[~inside], values[~inside], rows[~inside], hashes),
    }
    return strips, float(values[inside].sum())


def _probabilities(wanted: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values of the wanted labels; 0 for those that are none."""
    order = np.argsort(labels)
    codes, found = np.append(labels[order], -1), np.append(values[order], 0.0)
    at = np.searchsorted(codes[:-1], wanted)
    return np.where(codes[at] == wanted, found[at], 0.0)


def _candidates(
    concepts: np.ndarray, shares: np.ndarray, rows: np.ndarray, hashes: np.ndarray, *, falling: bool = True
) -> np.ndarray:
    made = np.zeros(len(rows), CANDIDATE)
    made["concept"], made["share"], made["row"], made["tie"] = concepts, shares, rows, hashes[rows]
    made["rank"] = -shares if falling else shares
    return first_of_each(made, CANDIDATES)


def first_of_each(candidates: np.ndarray, number: int) -> np.ndarray:
    """Return the first `number` candidates of each concept by rank, then by hash; sorted by concept."""
    ordered = candidates[np.lexsort((candidates["tie"], candidates["rank"], candidates["concept"]))]
    _, starts, counts = np.unique(ordered["concept"], return_index=True, return_counts=True)
    return ordered[np.arange(len(ordered)) - np.repeat(starts, counts) < number]
