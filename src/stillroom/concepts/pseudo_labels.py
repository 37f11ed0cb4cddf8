"""The teacher's opinion of a picture, kept sparse: its k most probable concepts.

Source: DiHT keeps the top-k probabilities and renormalises them (recalled, unverified); k = 10 is our choice. Ten
concepts of two kinds take 120 bytes a picture.
"""

from __future__ import annotations

import numpy as np


def top_k_labels(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax, the k largest, divided by their sum.

    Args:
        logits: (N, C), C may be less than k, even 0.
        k: labels per row.

    Returns:
        ids (N, k) uint32, distinct in a row, and probs (N, k) float16 in falling order, equal ones by rising id, so of
        equal ones at the end of the k the lower ids are there.
        Where C < k the rest of a row is padding: id 0, probability 0. A probability that float16 rounds to 0 is
        padding too, and its id is 0.
    """
    rows, classes = logits.shape
    ids = np.zeros((rows, k), np.uint32)
    probs = np.zeros((rows, k), np.float16)
    kept = min(k, classes)
    if rows == 0 or kept == 0:
        return ids, probs
    # Dividing the k largest probabilities by their sum cancels the softmax's own sum: only k logits are needed.
    chosen = np.argpartition(-logits, kept - 1, axis=1)[:, :kept]
    last = np.take_along_axis(logits, chosen, axis=1).min(axis=1, keepdims=True)
    # Concepts that always stand together have equal weights, and the partition takes any of them.
    shared = np.flatnonzero((logits >= last).sum(axis=1) > kept)
    chosen[shared] = np.argsort(-logits[shared], axis=1, kind="stable")[:, :kept]
    chosen.sort(axis=1)
    picked = np.take_along_axis(logits, chosen, axis=1).astype(np.float64)
    order = np.argsort(-picked, axis=1, kind="stable")
    picked = np.take_along_axis(picked, order, axis=1)
    picked = np.exp(picked - picked[:, :1])
    probs[:, :kept] = picked / picked.sum(axis=1, keepdims=True)
    ids[:, :kept] = np.take_along_axis(chosen, order, axis=1)
    ids[probs == 0] = 0
    return ids, probs
