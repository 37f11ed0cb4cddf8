"""The few pairs that show a concept best, found in the labels of a shard and merged over shards."""

from __future__ import annotations

import numpy as np

from stillroom.concepts.heads import ConceptLabels, LinearHead

# What is shown of a concept: named and sure, named and not found, found and not named.
STRIPS = ("surest", "hardest", "unnamed")
# More than are shown, because of several with the same caption only one is.
CANDIDATES = 12
CANDIDATE = np.dtype(
    [
        ("concept", "i8"),
        ("share", "f8"),
        ("label", "?"),
        ("rank", "f8"),
        ("tie", "u8"),
        ("shard", "i4"),
        ("row", "i8"),
    ]
)
# (picture, concept) pairs at once: two rows of weights for each take 40 MB at 1,280 features.
PAIRS_AT_ONCE = 4096


def shard_candidates(
    named: ConceptLabels,
    ids: np.ndarray,
    probs: np.ndarray,
    hashes: np.ndarray,
    *,
    head: LinearHead | None = None,
    features: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], float]:
    """Find a shard's candidates for each strip of each concept.

    A candidate's share is the concept's probability divided by that of the picture's k labels together, so that the
    labels have the shares that are stored. `label` says whether it is one of them; the shares of others come from
    `head` and `features`, or are 0 without these. A picture without labels, which the teacher could not see, is no
    candidate.

    Args:
        named: the concepts of the n captions.
        ids: (n, k) int64 labels.
        probs: (n, k) float64 their probabilities; 0 is padding.
        hashes: (n,) uint64, order pairs of equal rank by chance.
        head: that the labels come from.
        features: (m, D) float16, of the first m pictures; only those have labels.

    Returns:
        strip -> `CANDIDATE` array of at most `CANDIDATES` a concept, `shard` still 0; and the sum of the
        probabilities of labels that the caption names.
    """
    rows, places = np.nonzero(probs > 0)
    concepts, values = ids[rows, places], probs[rows, places]
    labels = rows * named.classes + concepts
    own_rows = np.repeat(np.arange(len(named.indptr) - 1), np.diff(named.indptr))
    seen = probs[own_rows, 0] > 0
    own_rows, own_ids = own_rows[seen], named.ids[seen]
    own = own_rows * named.classes + own_ids
    inside = np.isin(labels, own)
    own_values = _probabilities(own, labels, values)
    own_label = own_values > 0
    if head is not None and features is not None:
        beyond = np.flatnonzero(~own_label)
        own_values[beyond] = shares_beyond(head, features, ids[:, 0], probs[:, 0], own_rows[beyond], own_ids[beyond])
    strips = {
        "surest": _candidates(concepts[inside], values[inside], rows[inside], hashes),
        "hardest": _candidates(own_ids, own_values, own_rows, hashes, labels=own_label, falling=False),
        "unnamed": _candidates(concepts[~inside], values[~inside], rows[~inside], hashes),
    }
    return strips, float(values[inside].sum())


def shares_beyond(
    head: LinearHead,
    features: np.ndarray,
    first: np.ndarray,
    share: np.ndarray,
    rows: np.ndarray,
    concepts: np.ndarray,
) -> np.ndarray:
    """Return what share concepts have that are none of a picture's labels.

    Softmax probabilities have the ratio exp(difference of the logits), so the concept's share is that of the first
    label times this ratio, and the other logits are not needed.

    Args:
        head: that the labels come from.
        features: (n, D) float16.
        first: (n,) the first label.
        share: (n,) its share.
        rows: (m,) pictures.
        concepts: (m,) a concept of each.
    """
    found = np.zeros(len(rows))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        own, best = concepts[part], first[rows[part]]
        weights = head.weight[own] - head.weight[best]
        logits = np.einsum("md,md->m", features[rows[part]].astype(np.float32), weights)
        found[part] = share[rows[part]] * np.exp(np.minimum(logits + head.bias[own] - head.bias[best], 0))
    return found


def _probabilities(wanted: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values of the wanted labels; 0 for those that are none."""
    order = np.argsort(labels)
    codes, found = np.append(labels[order], -1), np.append(values[order], 0.0)
    at = np.searchsorted(codes[:-1], wanted)
    return np.where(codes[at] == wanted, found[at], 0.0)


def _candidates(
    concepts: np.ndarray,
    shares: np.ndarray,
    rows: np.ndarray,
    hashes: np.ndarray,
    *,
    labels: np.ndarray | bool = True,
    falling: bool = True,
) -> np.ndarray:
    made = np.zeros(len(rows), CANDIDATE)
    made["concept"], made["share"], made["row"], made["tie"] = concepts, shares, rows, hashes[rows]
    made["label"], made["rank"] = labels, -shares if falling else shares
    return first_of_each(made, CANDIDATES)


def first_of_each(candidates: np.ndarray, number: int) -> np.ndarray:
    """Return the first `number` candidates of each concept by rank, then by hash; sorted by concept."""
    ordered = candidates[np.lexsort((candidates["tie"], candidates["rank"], candidates["concept"]))]
    _, starts, counts = np.unique(ordered["concept"], return_index=True, return_counts=True)
    return ordered[np.arange(len(ordered)) - np.repeat(starts, counts) < number]
