"""Pictures with several labels: average precision class by class, without a matrix of all scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import DataError
from stillroom.evaluate.metrics.ranking import mean_average_precision

Truth = Mapping[str, tuple[int, ...]]


def multilabel_metrics(
    images: NDArray[np.float32],
    weights: NDArray[np.float32],
    begins: NDArray[np.int64],
    names: Sequence[str],
    positives: Truth,
    known: Truth | None,
) -> tuple[dict[str, float], dict[str, float], int]:
    """Return mean average precision in both readings, what a random order scores, and how many classes were scored.

    A class is scored over the pictures of which it is known whether they show it; one without such a picture that does,
    or without one that does not, is left out. Chance is the mean share of true ones, the limit for many pictures.

    Args:
        images: (P, D) rows of length 1.
        weights: (D, N) columns of length 1, those of a class side by side; it scores as high as the highest of them.
        begins: (C,) first column of each class; `range(C)` where each has one.
        names: (P,) name of each picture.
        positives: true classes of each picture.
        known: classes of each picture that may be scored; None: all.

    Raises:
        DataError: no class can be scored.
    """
    truth = _by_class(names, positives)
    seen = None if known is None else _by_class(names, known)
    ends = np.append(begins[1:], weights.shape[1])
    values: list[tuple[float, float, float]] = []
    for label, rows_true in truth.items():
        rows = np.arange(len(names)) if seen is None else seen.get(label, rows_true)
        right = np.isin(rows, rows_true)
        if right.all():
            continue
        scores = (images[rows] @ weights[:, begins[label] : ends[label]]).max(axis=1)[:, None]
        both = [mean_average_precision(scores, right[:, None], method=m) for m in ("all_point", "voc_11_point")]
        values.append((both[0], both[1], float(right.mean())))
    if not values:
        raise DataError("no class has both pictures that show it and pictures that do not")
    all_point, eleven, share = np.mean(values, axis=0)
    metrics = {"mean_average_precision": float(all_point), "mean_average_precision_11_point": float(eleven)}
    return metrics, dict.fromkeys(metrics, float(share)), len(values)


def _by_class(names: Sequence[str], truth: Truth) -> dict[int, NDArray[np.int64]]:
    """Return the rows of each class that has any, in order of the class."""
    lengths = [len(truth.get(name, ())) for name in names]
    flat = np.fromiter((label for name in names for label in truth.get(name, ())), dtype=np.int64, count=sum(lengths))
    order = np.argsort(flat, kind="stable")
    labels, begins = np.unique(flat[order], return_index=True)
    rows = np.split(np.repeat(np.arange(len(names)), lengths)[order], begins[1:])
    return dict(zip(labels.tolist(), rows, strict=True)) if len(labels) else {}
