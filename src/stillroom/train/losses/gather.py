"""Rows of all ranks, with gradient: the collectives the losses need, for unequal numbers of rows per rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stillroom.train.losses.inputs import refuse_second_derivatives


@dataclass(frozen=True, kw_only=True)
class RankRows:
    """Who holds which of the N rows: rank r of the group holds `counts[r]` rows, in rank order.

    `group` None means one process that never communicates.
    """

    group: dist.ProcessGroup | None
    rank: int
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """N, the number of rows over all ranks."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """Index of this rank's first row among the N."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> slice:
        """This rank's rows among the N."""
        return slice(self.start, self.start + self.counts[self.rank])

    @property
    def weight(self) -> float:
        """W / N: times the sum over own rows, averaged over the W ranks, this is the mean over all N rows."""
        return len(self.counts) / max(self.total, 1)


def gather_rows(rows: Tensor, layout: RankRows) -> Tensor:
    """The rows of all ranks (N, ...), in rank order; the gradient of a row is summed over the ranks that used it."""
    return rows if layout.group is None else _GatherRows.apply(rows, layout)


def gather_detached(rows: Tensor, layout: RankRows) -> Tensor:
    """The rows of all ranks (N, ...), in rank order, without gradient."""
    rows = rows.detach()
    if layout.group is None:
        return rows
    # Back ends ask for equal shapes, so every rank pads to the longest.
    longest = max(layout.counts)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in layout.counts]
    dist.all_gather(parts, padded, group=layout.group)
    return torch.cat([part[:count] for part, count in zip(parts, layout.counts, strict=True)])


def sum_own_rows(rows: Tensor, layout: RankRows) -> Tensor:
    """Sum the ranks' (N, ...) tensors and return this rank's own rows of the sum; `rows` stays as it is."""
    if layout.group is None:
        return rows
    if not _scatters_sums(rows, layout.group):
        total = rows.clone()
        dist.all_reduce(total, group=layout.group)
        # A copy, so that the other ranks' rows are not held with it.
        return total[layout.own].clone()
    longest = max(layout.counts)
    parts = []
    for part in rows.split(layout.counts):
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts.append(padded)
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts, group=layout.group)
    return own[: layout.counts[layout.rank]]


def _scatters_sums(rows: Tensor, group: dist.ProcessGroup) -> bool:
    """Whether to use reduce_scatter: gloo lacked it before PyTorch 2.8, and makes it of all-reduces since."""
    return rows.device.type != "cpu" and dist.get_backend(group) != "gloo"


def logsumexp_over_ranks(values: Tensor, layout: RankRows) -> Tensor:
    """Log of the sum over ranks of exp(values), elementwise and without gradient; -inf stands for an empty sum."""
    if layout.group is None:
        return values
    peak = values.clone()
    dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=layout.group)
    finite_peak = torch.where(peak.isinf(), 0.0, peak)
    total = (values - finite_peak).exp_()
    dist.all_reduce(total, group=layout.group)
    return total.log_().add_(finite_peak)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: RankRows) -> Tensor:
        ctx.layout = layout
        return gather_detached(rows, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        return sum_own_rows(grad.contiguous(), ctx.layout), None
