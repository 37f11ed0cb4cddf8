"""KL divergence from soft targets to a softmax over all pairs, some rows at a time.

A row's softmax needs that row alone, so its gradient is known as soon as the row is: forward and backward share one
pass, which keeps the two gradients and no matrix of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillroom.train.losses.gather import RankRows, logsumexp_over_ranks
from stillroom.train.losses.inputs import refuse_second_derivatives

# Scores worked on at a time (our choice); a few such chunks are held at once.
_CPU_CHUNK_ELEMENTS = 1 << 20
_GPU_CHUNK_ELEMENTS = 1 << 26

# Up to this many entries the transport kernel is kept through the iterations; beyond, it is computed each time.
_KEPT_KERNEL_ELEMENTS = 1 << 24

# Gives the target logits (b, N) of some rows, -inf where there is no target; the caller may overwrite them.
RowLogits = Callable[[slice], Tensor]


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Which of the N columns a row leaves out.

    Attributes:
        own_ids: (n,) caption ids of the rows, or None if captions are not compared.
        all_ids: (N,) caption ids of the columns, or None.
        offset: the column that is row 0's own pair.
    """

    own_ids: Tensor | None
    all_ids: Tensor | None
    offset: int

    def leave_out_equal_captions(self, logits: Tensor, rows: slice) -> Tensor:
        """Set the entries of other pairs with an equal caption to -inf, in place."""
        if self.own_ids is not None and self.all_ids is not None:
            own_pair = logits.diagonal(rows.start + self.offset)
            kept = own_pair.clone()
            logits.masked_fill_(self.own_ids[rows, None] == self.all_ids[None, :], -math.inf)
            own_pair.copy_(kept)
        return logits

    def leave_out_own_pair(self, logits: Tensor, rows: slice) -> Tensor:
        """Set the entries of the pairs themselves to -inf, in place."""
        logits.diagonal(rows.start + self.offset).fill_(-math.inf)
        return logits


def divergence_from_targets(
    query: Tensor, keys: Tensor, scale: Tensor, *, target_logits: RowLogits, exclusions: Exclusions
) -> Tensor:
    """Sum over rows of KL(softmax(target logits) || softmax(scale * query @ keys.T)).

    Args:
        query: (n, D), differentiated.
        keys: (N, D), differentiated.
        scale: 0-d, differentiated.
        target_logits: the targets' logits by rows; a row of -inf alone has no target and costs 0.
        exclusions: the columns that the student's softmax leaves out; the targets have to leave them out too.

    Returns:
        0-d sum.
    """
    return _RowDivergence.apply(query, keys, scale, target_logits, exclusions, torch.is_grad_enabled())


def sinkhorn_column_potentials(
    log_kernel: RowLogits, rows: Tensor, layout: RankRows, *, iterations: int, over_ranks: bool
) -> Tensor:
    """Sinkhorn-Knopp on exp(log kernel): (N,) potentials g of the columns, in the log domain.

    Every iteration scales rows to equal sums, then columns. The plan with its rows normalised is
    softmax(log kernel + g) along rows, so the potentials of the rows are not kept.

    Args:
        log_kernel: (b, N) blocks of the log kernel, -inf where nothing may be carried.
        rows: (n, ...) any tensor with this rank's rows, for their number, device and dtype.
        layout: the ranks' rows.
        iterations: number of row and column scalings; 0 leaves the kernel as it is.
        over_ranks: one plan over the rows of all ranks; otherwise one over this rank's rows and all columns.
    """
    potentials = rows.new_zeros(layout.total)
    for _ in range(iterations):
        column_sums = torch.full_like(potentials, -math.inf)
        for chunk in row_chunks(len(rows), layout.total, rows.device):
            kernel = log_kernel(chunk)
            row_sums = (kernel + potentials).logsumexp(1, keepdim=True)
            # A row or column that may carry nothing keeps potential 0; its kernel stays -inf.
            kernel = kernel - row_sums.masked_fill(row_sums == -math.inf, 0.0)
            column_sums = torch.logaddexp(column_sums, kernel.logsumexp(0))
        if over_ranks:
            column_sums = logsumexp_over_ranks(column_sums, layout)
        potentials = -column_sums.masked_fill(column_sums == -math.inf, 0.0)
    return potentials


def row_chunks(n: int, total: int, device: torch.device) -> Iterator[slice]:
    """Ranges that cover n rows, each with a limited number of the n x `total` entries."""
    budget = _CPU_CHUNK_ELEMENTS if device.type == "cpu" else _GPU_CHUNK_ELEMENTS
    step = max(1, budget // max(total, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def kept_if_small(logits_of: RowLogits, n: int, total: int) -> RowLogits:
    """The same function, answered from memory if all n x `total` entries are few."""
    if n * total > _KEPT_KERNEL_ELEMENTS:
        return logits_of
    kept = logits_of(slice(0, n))
    return lambda rows: kept[rows].clone()


def shifted(logits_of: RowLogits, shifts: Tensor) -> RowLogits:
    """The same function with (N,) shifts of the columns added."""
    return lambda rows: logits_of(rows).add_(shifts)


class _RowDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        scale: Tensor,
        target_logits: RowLogits,
        exclusions: Exclusions,
        grad_enabled: bool,  # noqa: FBT001 - `apply` takes positional arguments only
    ) -> Tensor:
        value = query.new_zeros(())
        # `needs_input_grad` does not know of no_grad.
        needed = [grad_enabled and need for need in ctx.needs_input_grad[:3]]
        grad_query = torch.zeros_like(query) if any(needed) else None
        grad_keys = torch.zeros_like(keys) if needed[1] else None
        for rows in row_chunks(len(query), len(keys), query.device):
            logits = (query[rows] @ keys.T).mul_(scale)
            exclusions.leave_out_equal_captions(logits, rows)
            divergence, grad = _divergence(logits, target_logits(rows))
            value += divergence
            if grad_query is not None:
                grad_query[rows] = grad @ keys
            if grad_keys is not None:
                grad_keys.addmm_(grad.T, query[rows])
        if grad_query is not None:
            grad_scale = (grad_query * query).sum()
            ctx.save_for_backward(
                grad_query.mul_(scale), None if grad_keys is None else grad_keys.mul_(scale), grad_scale
            )
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        return *(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None, None


def _divergence(logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(softmax(target logits) || softmax(logits)) summed over rows, and its gradient for the logits (b, N)."""
    log_student = logits.log_softmax(1)
    no_target = (target_logits == -math.inf).all(1, keepdim=True)
    log_target = target_logits.log_softmax(1).masked_fill_(no_target, -math.inf)
    target = log_target.exp()
    # 0 log 0 is 0: left-out entries are -inf on both sides.
    terms = log_target.sub_(log_student).mul_(target).masked_fill_(target == 0, 0.0)
    return terms.sum(), log_student.exp_().masked_fill_(no_target, 0.0).sub_(target)
