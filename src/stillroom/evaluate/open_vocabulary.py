"""Flat hit@k over a large vocabulary from embeddings, a block of scores at a time: no matrix of all scores.

Layout: P pictures, C classes, several true classes per picture. Two pictures, three classes, scores 0.9 0.2 0.1 and
0.3 0.5 0.4, positives [{0}, {0, 2}]: picture 0 is hit at 1, picture 1 at 2, because class 1 comes before class 2.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import DataError
from stillroom.evaluate.metrics.arrays import as_k
from stillroom.evaluate.metrics.ranking import NEVER
from stillroom.evaluate.retrieval import BLOCK_SCORES, TIE

# Flat hit@k as Cheng et al. (2104.08945) report it.
KS = (1, 2, 5, 10)

Sets = Sequence[Iterable[int]]


def flat_hit_at_k(
    image_vectors: NDArray[np.float32],
    class_weights: NDArray[np.float32],
    positives: Sets,
    ks: Sequence[int] = KS,
    *,
    ignored: Sets | None = None,
) -> dict[str, float]:
    """Return the fraction of pictures with at least one true class among the k highest-scored, for each k.

    Ties are resolved against the model. A picture without a true class counts as a miss.

    Args:
        image_vectors: (P, D) rows of length 1.
        class_weights: (C, D) rows of length 1.
        positives: P sets of class indices in 0 .. C - 1, the true classes of each picture.
        ks: values of k, each at least 1.
        ignored: P sets of class indices that are left out of each picture's ranking; a class that is both true and
            ignored counts as true.

    Returns:
        "hit@k" -> fraction in [0, 1].

    Raises:
        DataError: a NaN, an index out of range, or shapes that do not fit.
    """
    ks = [as_k(k) for k in ks]
    ranks = class_ranks(image_vectors, class_weights, positives, ignored=ignored)
    return {f"hit@{k}": float(np.mean(ranks < k)) for k in ks}


def class_ranks(
    image_vectors: NDArray[np.float32],
    class_weights: NDArray[np.float32],
    positives: Sets,
    *,
    ignored: Sets | None = None,
) -> NDArray[np.int64]:
    """Count, for each picture, the wrong classes that score at least as high as its best true class.

    Arguments and errors as for `flat_hit_at_k`.

    Returns:
        (P,) int64: 0 means a true class is in first place; `NEVER` for a picture without a true class.
    """
    _check(image_vectors, class_weights)
    pictures, classes = len(image_vectors), len(class_weights)
    true = _Entries(positives, pictures, classes, "positives")
    left_out = _Entries(ignored if ignored is not None else [()] * pictures, pictures, classes, "ignored")
    ranks = np.full(pictures, NEVER, dtype=np.int64)
    rows = max(1, BLOCK_SCORES // classes)
    scores_BC = np.empty((min(rows, pictures), classes), dtype=np.float32)
    at_least_BC = np.empty(scores_BC.shape, dtype=bool)
    for start in range(0, pictures, rows):
        part = slice(start, min(start + rows, pictures))
        size = part.stop - start
        scores, at_least = scores_BC[:size], at_least_BC[:size]
        np.matmul(image_vectors[part], class_weights.T, out=scores)
        row, column = true.block(part)
        best = np.full(size, np.inf, dtype=np.float32)  # no class reaches it where there is no true one
        best[row] = -np.inf
        np.maximum.at(best, row, scores[row, column])
        scores[left_out.block(part)] = -np.inf
        scores[row, column] = -np.inf  # a true class is never a wrong one
        np.greater_equal(scores, (best - np.float32(TIE))[:, None], out=at_least)
        wrong = np.array([np.count_nonzero(line) for line in at_least], dtype=np.int64)
        ranks[part] = np.where(np.isinf(best), NEVER, wrong)
    return ranks


class _Entries:
    """P sets of class indices as sorted flat arrays, of which a block of pictures is a slice."""

    def __init__(self, sets: Sets, pictures: int, classes: int, name: str) -> None:
        if len(sets) != pictures:
            raise DataError(f"{name} has {len(sets)} sets for {pictures} pictures; they must be as many")
        try:
            unique = [{operator.index(item) for item in items} for items in sets]
        except TypeError:
            raise DataError(f"{name} must be one set of class indices (integers) for each picture") from None
        lengths = [len(items) for items in unique]
        self.ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.columns = np.fromiter((item for items in unique for item in items), dtype=np.int64, count=sum(lengths))
        self.rows = np.repeat(np.arange(pictures), lengths)
        wrong = self.columns[(self.columns < 0) | (self.columns >= classes)]
        if wrong.size:
            raise DataError(f"{name} holds {wrong[0]}; with {classes} classes it must be 0 .. {classes - 1}")

    def block(self, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows, counted from the block's first, and columns of the entries of a block of pictures."""
        entries = slice(self.ends[part.start], self.ends[part.stop])
        return self.rows[entries] - part.start, self.columns[entries]


def _check(image_vectors: NDArray[np.float32], class_weights: NDArray[np.float32]) -> None:
    fit = image_vectors.ndim == class_weights.ndim == 2 and image_vectors.shape[1] == class_weights.shape[1]
    if not fit or not image_vectors.size or not class_weights.size:
        shapes = f"image_vectors has shape {image_vectors.shape}, class_weights {class_weights.shape}"
        raise DataError(f"{shapes}; they must be (P, D) and (C, D), neither of them empty")
    if np.isnan(image_vectors).any() or np.isnan(class_weights).any():
        raise DataError("the embeddings hold NaN")


def hit_chance(
    positives: Sets, classes: int, ks: Sequence[int] = KS, *, ignored: Sets | None = None
) -> dict[str, float]:
    """Return what a random order of the classes scores on average; arguments as for `flat_hit_at_k`."""
    true = [set(items) for items in positives]
    left_out = [set(items) for items in ignored] if ignored is not None else [set()] * len(true)
    sizes = [(len(a), classes - len(b - a)) for a, b in zip(true, left_out, strict=True)]
    return {f"hit@{k}": float(np.mean([_one_chance(*pair, k) for pair in sizes])) for k in ks}


def _one_chance(true: int, ranked: int, k: int) -> float:
    """Return the probability that one of `true` among `ranked` classes comes within the first k."""
    if true == 0:
        return 0.0
    missed = 1.0
    for place in range(min(k, ranked)):
        missed *= max(0, ranked - true - place) / (ranked - place)
    return 1.0 - missed
