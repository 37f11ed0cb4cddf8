"""Classes with several names where the best name counts: a class scores as high as its highest name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stillroom.evaluate.metrics.accuracy import label_ranks, recall_per_class
from stillroom.evaluate.metrics.ranking import best_positive_ranks

BLOCK_SCORES = 2**23  # scores held at a time: 32 MB


def best_name_blocks(
    images: NDArray[np.float32], weights: NDArray[np.float32], begins: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield (rows, scores (rows, C)): per class the highest score of its names, a block of pictures at a time.

    Args:
        images: (P, D) rows of length 1.
        weights: (D, N) columns of length 1, one per name, those of a class side by side.
        begins: (C,) first column of each class.
    """
    rows = max(1, BLOCK_SCORES // weights.shape[1])
    for start in range(0, len(images), rows):
        part = slice(start, start + rows)
        yield part, np.maximum.reduceat(images[part] @ weights, begins, axis=1)


def best_name_accuracy(
    images: NDArray[np.float32], weights: NDArray[np.float32], begins: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Return the metrics of `zero_shot.classification_metrics`; arguments as `best_name_blocks` and there."""
    ranks = np.concatenate(
        [label_ranks(scores, labels[part]) for part, scores in best_name_blocks(images, weights, begins)]
    )
    metrics = {"acc1": float(np.mean(ranks < 1))}
    if len(begins) >= 5:
        metrics["acc5"] = float(np.mean(ranks < 5))
    return {**metrics, "mean_per_class_recall": float(recall_per_class(ranks < 1, labels).mean())}


def best_name_hits(
    images: NDArray[np.float32],
    weights: NDArray[np.float32],
    begins: NDArray[np.int64],
    positives: list[tuple[int, ...]],
    ks: tuple[int, ...],
    ignored: list[tuple[int, ...]] | None = None,
) -> dict[str, float]:
    """Return flat hit@k as `open_vocabulary.flat_hit_at_k`; `ignored` classes take no place in a picture's ranking."""
    ranks = []
    for part, scores in best_name_blocks(images, weights, begins):
        for row, classes in enumerate(ignored[part] if ignored is not None else []):
            scores[row, list(classes)] = -np.inf
        ranks.append(best_positive_ranks(scores, positives[part]))
    found = np.concatenate(ranks)
    return {f"hit@{k}": float(np.mean(found < k)) for k in ks}
