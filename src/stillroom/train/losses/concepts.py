"""Concept distillation: cross-entropy against a teacher's sparse soft labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stillroom.errors import DataError
from stillroom.train.losses.inputs import full_precision, refuse_second_derivatives

# Logits worked on at a time (our choice): the only memory beyond the gradient itself.
_CHUNK_ELEMENTS = 1 << 18


def concept_distillation(logits: Tensor, ids: Tensor, probs: Tensor) -> Tensor:
    """Cross-entropy between the teacher's top-k concepts and the student's prediction, the mean over samples.

    Equal to dense soft-target cross-entropy with `probs` scattered to `ids`, without the dense target: the work
    beyond one softmax is k entries a sample (DiHT, concept distillation with precomputed labels).

    Args:
        logits: (N, C) student scores, any floating-point type; computed in float32 or better.
        ids: (N, k) concept indices of any integer type. An index given twice counts with both probabilities.
        probs: (N, k) non-negative; used as they are, not renormalised. 0 marks padding, whatever its id.

    Returns:
        0-d loss; 0 for a sample that has only padding. The gradient goes to `logits` alone, first derivatives only.

    Raises:
        DataError: shapes or types do not fit together, a probability is negative, or an id is not in [0, C). On a GPU,
            so as not to wait for it, PyTorch's own check reports the id, and nothing a negative probability.
        NotImplementedError: the gradient is taken with create_graph.
    """
    if logits.ndim != 2 or ids.ndim != 2 or ids.shape != probs.shape or len(ids) != len(logits):
        raise DataError(
            f"logits, ids and probs have shapes {tuple(logits.shape)}, {tuple(ids.shape)} and {tuple(probs.shape)}; "
            "give (N, C), (N, k) and (N, k)"
        )
    if ids.is_floating_point() or ids.is_complex() or not logits.is_floating_point():
        raise DataError(f"logits are {logits.dtype} and ids {ids.dtype}; give floating point and integers")
    probs = probs.detach().to(device=logits.device, dtype=torch.promote_types(logits.dtype, torch.float32))
    # uint32, the type labels are stored in, cannot index in PyTorch; the id of padding may be anything.
    index = ids.to(device=logits.device, dtype=torch.int64).masked_fill(probs == 0, 0)
    if index.device.type == "cpu":
        _check_labels(index, probs, logits.shape[1])
    with full_precision(logits):
        return _SparseCrossEntropy.apply(logits, index, probs)


def _check_labels(index: Tensor, probs: Tensor, classes: int) -> None:
    outside = (index < 0) | (index >= classes)
    if bool(outside.any()):
        raise DataError(f"concept id {int(index[outside][0])} is not among the {classes} classes of the logits")
    if bool((probs < 0).any()):
        raise DataError(f"probs holds {float(probs.min()):g}; give probabilities, which are not negative")


class _SparseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, probs: Tensor) -> Tensor:
        log_norms = probs.new_empty(len(logits))
        for rows in _chunks(logits):
            log_norms[rows] = torch.logsumexp(logits[rows].to(probs.dtype), 1)
        ctx.save_for_backward(logits, index, probs, log_norms)
        picked = logits.gather(1, index).to(probs.dtype)
        terms = probs * (log_norms[:, None] - picked)
        return terms.masked_fill_(probs == 0, 0.0).sum() / max(len(logits), 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivatives()
        logits, index, probs, log_norms = ctx.saved_tensors
        weights = probs * (grad / max(len(logits), 1))
        out = torch.empty_like(logits)
        for rows in _chunks(logits):
            chunk = logits[rows].to(probs.dtype, copy=True).sub_(log_norms[rows, None]).exp_()
            chunk.mul_(weights[rows].sum(1, keepdim=True)).scatter_add_(1, index[rows], -weights[rows])
            out[rows] = chunk
        return out, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(logits.shape[1], 1))
    for start in range(0, len(logits), step):
        yield slice(start, start + step)
