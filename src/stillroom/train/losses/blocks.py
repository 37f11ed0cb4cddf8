"""Row and column log-sum-exps of a large score matrix, and their gradient, tile by tile.

The matrix z = scale * image @ text.T is never held: a tile is multiplied out, reduced and forgotten, in the
forward pass once and in the backward pass once more. Rows and columns share every tile, so both directions of a
contrastive loss cost one product forward and, backward, one product again and one for each gradient.

Products run in the type of the embeddings, float32 or float64, as `inputs.reduced_products` lets them; everything else
stays in that type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows and columns of a tile (our choice): 16 MB of float32, of which three are held. Larger tiles leave the cache,
# smaller ones make threads meet more often. A GPU wants fewer and larger launches.
_CPU_TILE = (2048, 2048)
_GPU_TILE = (4096, 8192)
# Scores kept from the forward pass instead of being computed again (our choice): all of a batch of 2,048, 16 MB.
_KEPT_SCORES = 1 << 22
# Natural logarithm of the most exponentials one tile may add up in a row or column, with room to spare.
_SUM_MARGIN = 16.0


@dataclass(frozen=True, kw_only=True)
class ScoreMatrix:
    """Scores of n images against N texts; image i belongs to text `offset` + i.

    Attributes:
        image: (n, D) embeddings.
        text: (N, D) embeddings of the same dtype.
        scale: 0-d, what the cosines are multiplied by.
        image_ids: (n,) caption ids, or None if only a pair's own entry is no negative.
        text_ids: (N,) caption ids, or None.
        offset: index of the first image's own text.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    image_ids: Tensor | None
    text_ids: Tensor | None
    offset: int

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges that cover the matrix."""
        height, width = self.tile_shape
        for top in range(0, len(self.image), height):
            for left in range(0, len(self.text), width):
                yield (
                    slice(top, min(top + height, len(self.image))),
                    slice(left, min(left + width, len(self.text))),
                )

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Rows and columns of the largest tile, at least one each: a rank may have no pairs."""
        height, width = _CPU_TILE if self.image.device.type == "cpu" else _GPU_TILE
        return max(1, min(height, len(self.image))), max(1, min(width, len(self.text)))

    def scratch(self, count: int) -> list[Tensor]:
        """Uninitialised memory for `count` tiles, used again for every tile."""
        height, width = self.tile_shape
        return [self.image.new_empty(height * width) for _ in range(count)]

    def scores(self, rows: slice, cols: slice, scratch: Tensor, kept: Tensor | None = None) -> Tensor:
        """One tile in `scratch`, multiplied out or copied from what was kept of it."""
        out = _tile_view(scratch, rows, cols)
        if kept is not None:
            return out.copy_(kept)
        return torch.mm(self.image[rows], self.text[cols].T, out=out).mul_(self.scale)

    def fill_positives(self, tile: Tensor, rows: slice, cols: slice, value: float) -> None:
        """Overwrite the entries that are no negatives: pairs themselves and pairs with an equal caption id."""
        if self.image_ids is not None and self.text_ids is not None:
            tile.masked_fill_(self.image_ids[rows, None] == self.text_ids[None, cols], value)
            return
        diagonal = rows.start + self.offset - cols.start
        if -tile.shape[0] < diagonal < tile.shape[1]:
            tile.diagonal(diagonal).fill_(value)

    def largest_score(self) -> float:
        """An upper bound of |z| by Cauchy and Schwarz; NaN if an embedding is."""
        if not len(self.image):
            return 0.0
        norms = [torch.linalg.vector_norm(rows, dim=1).max() for rows in (self.image, self.text)]
        return float(self.scale.abs() * norms[0] * norms[1])


@dataclass(frozen=True, kw_only=True)
class LogSums:
    """The log of the sum over negatives of exp(power * z), for one or two powers, the larger first.

    Attributes:
        powers: the P powers.
        rows: (P, n) log-sums of rows.
        columns: (P, N) log-sums of columns.
        kept: the scores of the first tiles, for the backward pass.
    """

    powers: tuple[float, ...]
    rows: Tensor
    columns: Tensor
    kept: tuple[Tensor, ...] = ()


def negative_log_sums(matrix: ScoreMatrix, powers: tuple[float, ...], *, keep: bool) -> LogSums:
    """Log-sum-exp over the negatives of every row and column; -inf where there is none.

    Args:
        matrix: The scores.
        powers: One or two, at least 0, the larger first.
        keep: Whether a backward pass will want the scores again.
    """
    n, total = len(matrix.image), len(matrix.text)
    rows_out = matrix.image.new_full((len(powers), n), -math.inf)
    columns_out = matrix.image.new_full((len(powers), total), -math.inf)
    bound, scratch = matrix.largest_score(), matrix.scratch(2)
    kept: list[Tensor] = []
    budget = _KEPT_SCORES if keep else 0
    for rows, cols in matrix.tiles():
        z = matrix.scores(rows, cols, scratch[0])
        budget -= z.numel()
        if budget >= 0:
            kept.append(z.clone())
        center = _center(z, bound, powers[0])
        for p, power in reversed(list(enumerate(powers))):
            if center is None:
                tile = torch.mul(z, power, out=_tile_view(scratch[1], rows, cols))
                matrix.fill_positives(tile, rows, cols, -math.inf)
                row_sums, column_sums = tile.logsumexp(1), tile.logsumexp(0)
            else:
                tile = _exponentials(z, power, center, out=z if p == 0 else _tile_view(scratch[1], rows, cols))
                matrix.fill_positives(tile, rows, cols, 0.0)
                row_sums = tile.sum(1).log_().add_(power * center)
                column_sums = tile.sum(0).log_().add_(power * center)
            rows_out[p, rows] = torch.logaddexp(rows_out[p, rows], row_sums)
            columns_out[p, cols] = torch.logaddexp(columns_out[p, cols], column_sums)
    return LogSums(powers=powers, rows=rows_out, columns=columns_out, kept=tuple(kept))


def cosine_gradients(
    matrix: ScoreMatrix,
    sums: LogSums,
    row_weights: Tensor,
    column_weights: Tensor,
    *,
    image: bool,
    text: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a weighted sum of the log-sums, before the scale is multiplied in.

    Args:
        matrix: The scores.
        sums: Their log-sums; +inf where a row or column has no negative.
        row_weights: (P, n) weight of each of the rows' log-sums.
        column_weights: (P, N) weight of each of the columns' log-sums.
        image: Whether G @ text (n, D) is wanted, G being the gradient with respect to z.
        text: Whether G.T @ image (N, D) is wanted.
    """
    image_out = torch.zeros_like(matrix.image) if image else None
    text_out = torch.zeros_like(matrix.text) if text else None
    bound, scratch = matrix.largest_score(), matrix.scratch(3)
    kept = list(reversed(sums.kept))
    for rows, cols in matrix.tiles():
        z = matrix.scores(rows, cols, scratch[0], kept.pop() if kept else None)
        tile_sums = LogSums(powers=sums.powers, rows=sums.rows[:, rows], columns=sums.columns[:, cols])
        center = _center(z, bound, sums.powers[0])
        tile_gradient = _far_gradient if center is None else _near_gradient
        views = [_tile_view(memory, rows, cols) for memory in scratch[1:]]
        grad = tile_gradient(z, tile_sums, (row_weights[:, rows], column_weights[:, cols]), center or 0.0, views)
        matrix.fill_positives(grad, rows, cols, 0.0)
        if image_out is not None:
            image_out[rows].addmm_(grad, matrix.text[cols])
        if text_out is not None:
            text_out[cols].addmm_(grad.T, matrix.image[rows])
    return image_out, text_out


def _near_gradient(
    z: Tensor, sums: LogSums, weights: tuple[Tensor, Tensor], center: float, scratch: list[Tensor]
) -> Tensor:
    """Gradient for the scores of a tile that fits around one centre: an exponential serves row and column."""
    for p, power in reversed(list(enumerate(sums.powers))):
        by_row = weights[0][p] * (power * center - sums.rows[p]).exp() * power
        by_column = weights[1][p] * (power * center - sums.columns[p]).exp() * power
        tile = _exponentials(z, power, center, out=z if p == 0 else scratch[0])
        tile.mul_(torch.add(by_row[:, None], by_column[None, :], out=scratch[1]))
    return z.add_(scratch[0]) if len(sums.powers) == 2 else z


def _far_gradient(
    z: Tensor, sums: LogSums, weights: tuple[Tensor, Tensor], center: float, scratch: list[Tensor]
) -> Tensor:
    """Gradient for the scores of a tile of wider range: exponentials of row and column apart, none above 1."""
    del center
    grad = scratch[0].zero_()
    for p, power in enumerate(sums.powers):
        for log_sums, weight in (
            (sums.rows[p][:, None], weights[0][p][:, None]),
            (sums.columns[p][None, :], weights[1][p][None, :]),
        ):
            term = torch.mul(z, power, out=scratch[1]).sub_(log_sums).exp_()
            grad.add_(term.mul_(weight * power))
    return grad


def _exponentials(z: Tensor, power: float, center: float, *, out: Tensor) -> Tensor:
    """exp(power * (z - center)), written to `out`, which may be z."""
    exponent = z if power == 1.0 else torch.mul(z, power, out=out)
    if center:
        exponent = torch.sub(exponent, power * center, out=out)
    return torch.exp(exponent, out=out)


def _center(z: Tensor, bound: float, power: float) -> float | None:
    """The middle of a tile's scores, if exp(power * (z - middle)) neither overflows nor loses digits, else None.

    One shift per tile instead of one per row: float32 spans e^-87 to e^88, so any scale up to 58 passes without a
    look at the scores (power 1.25), and a scale of 100 as long as the tile's cosines span less than 1.16.
    """
    limit = (math.log(torch.finfo(z.dtype).max) - _SUM_MARGIN) / power
    if bound <= limit:
        return 0.0
    low, high = (float(value) for value in torch.aminmax(z))
    return (low + high) / 2 if high - low <= 2 * limit else None


def _tile_view(memory: Tensor, rows: slice, cols: slice) -> Tensor:
    height, width = rows.stop - rows.start, cols.stop - cols.start
    return memory[: height * width].view(height, width)
