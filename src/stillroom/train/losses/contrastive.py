"""InfoNCE and its hard-negative version: exact, in both directions, without an N x N matrix.

Notation: N pairs over all ranks, n of them on this rank, D the embedding width, z = scale * cosine. The matrix is
evaluated in tiles (`blocks`), of which a rank sees its own images against all texts: it completes its rows alone,
and the columns by one exchange of N log-sums.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stillroom.errors import ConfigError
from stillroom.train.losses.agreement import Call, describe_call, rank_rows
from stillroom.train.losses.blocks import LogSums, ScoreMatrix, cosine_gradients, negative_log_sums
from stillroom.train.losses.gather import (
    RankRows,
    gather_detached,
    logsumexp_over_ranks,
    sum_own_rows,
)
from stillroom.train.losses.inputs import (
    at_least_float32,
    check_pairs,
    checked_ids,
    checked_scale,
    full_precision,
    negative_counts,
    reduced_products,
    refuse_second_derivatives,
    rounded_to_bf16,
)
from stillroom.train.losses.smoothing import mean_margin


def info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    caption_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    bf16_products: bool = False,
) -> Tensor:
    """Cross-entropy of picking a pair's own text among all texts, and its own image among all images.

    The mean over pairs and both directions, as in open_clip's `ClipLoss`. Computed in float32, or in float64 if an
    embedding is float64; bf16 and fp16 embeddings are converted, and get gradients of their own type. float16 ends at
    65,504: gradients of a loss multiplied by 65,536 (`GradScaler`'s start) overflow it at a scale of 100 and few pairs,
    and the scaler skips the step. float32 embeddings have no such limit.

    Args:
        image: (N, D) L2-normalised rows; row i belongs to row i of `text`.
        text: (N, D) L2-normalised rows.
        scale: exp(logit scale), 0-d, not negative; differentiated.
        label_smoothing: target mass in [0, 1] taken from the pair and spread evenly over its negatives (the convention
            of OTTER's scripts; `torch.nn.functional.cross_entropy` spreads it over the pair too, so that its value
            e N / (N - 1) is e here).
        caption_ids: (N,) integers; pairs with an equal id are not each other's negatives, and a pair without
            negatives costs 0. Given on every rank or on none.
        group: ranks whose pairs are negatives too; their numbers of pairs may differ. A rank returns W / N times the
            sum over its own pairs, N counted over all W ranks: averaged over ranks, as DDP does, value and
            gradients are those of one process with all pairs. None never communicates.
        bf16_products: round float32 embeddings to bf16's 8 binary digits and let the processor multiply matrices so,
            with float32 sums, where PyTorch knows how to (`inputs.reduced_products`); faster there. The value is that
            of the rounded embeddings; in the backward pass the scores' gradients may be rounded as well.

    Returns:
        0-d loss, with first derivatives only.

    Raises:
        DataError: the tensors do not fit together, on this rank or another, or the ranks' calls differ.
        ConfigError: `label_smoothing` is out of range, or `scale` is not one number or negative (on a GPU the sign
            is not looked at, so as not to wait for it).
        NotImplementedError: the gradient is taken with create_graph.
    """
    settings = _Settings(loss="info_nce", label_smoothing=label_smoothing, bf16_products=bf16_products)
    return _contrastive(image, text, scale, caption_ids, group, settings)


def hard_negative_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.25,
    caption_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    bf16_products: bool = False,
) -> Tensor:
    """HN-NCE, InfoNCE with harder negatives weighted up (DiHT, Radenovic et al. 2023).

    For the image-to-text direction, n_i being the number of negatives of pair i, with sums over those negatives,

        L_i  = -log( exp(z_ii) / (alpha exp(z_ii) + sum_j w_ij exp(z_ij)) )
        w_ij = n_i exp(beta z_ij) / sum_k exp(beta z_ik)

    and the same on columns for text-to-image. The weights are differentiated too. alpha = 1 and beta = 0 is InfoNCE;
    alpha = 0 leaves the positive out of the denominator (decoupled, DHN-NCE).

    Args:
        image: (N, D) L2-normalised rows; row i belongs to row i of `text`.
        text: (N, D) L2-normalised rows.
        scale: exp(logit scale), 0-d, not negative; differentiated.
        alpha: weight of the positive in the denominator, in [0, 1].
        beta: how much harder negatives count, at least 0.
        caption_ids: as in `info_nce`; n_i is then the number of negatives that are left.
        group: as in `info_nce`.
        bf16_products: as in `info_nce`.

    Returns:
        0-d loss, the mean over pairs and both directions, in float32 or better, with first derivatives only.

    Raises:
        DataError: as in `info_nce`, like the last.
        ConfigError: `alpha`, `beta` or `scale` is out of range.
        NotImplementedError: the gradient is taken with create_graph.
    """
    settings = _Settings(loss="hard_negative_nce", alpha=alpha, beta=beta, bf16_products=bf16_products)
    return _contrastive(image, text, scale, caption_ids, group, settings)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What does not depend on the pairs: the same on every rank."""

    loss: str
    alpha: float = 1.0
    beta: float = 0.0
    label_smoothing: float = 0.0
    bf16_products: bool = False

    def check(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; give a share between 0 and 1")
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha is {self.alpha}; give a weight of the positive between 0 and 1")
        if not 0.0 <= self.beta < math.inf:
            raise ConfigError(
                f"beta is {self.beta}; give a finite number of at least 0 (0: all negatives weigh the same)"
            )


def _contrastive(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    caption_ids: Tensor | None,
    group: dist.ProcessGroup | None,
    settings: _Settings,
) -> Tensor:
    def check() -> Call:
        settings.check()
        check_pairs(image, text)
        checked_scale(scale, image)
        return describe_call(
            image,
            dtype=at_least_float32(image[:0], text[:0])[0].dtype,
            caption_ids=checked_ids(caption_ids, image),
            differentiated={"image": image, "text": text, "scale": scale},
            settings=asdict(settings),
        )

    layout = rank_rows(check, image.device, group)
    with full_precision(image), reduced_products(bf16=settings.bf16_products):
        rows = at_least_float32(image, text)
        image, text = (rounded_to_bf16(one) for one in rows) if settings.bf16_products else rows
        scale = checked_scale(scale, image)
        ids = checked_ids(caption_ids, image)
        all_ids = None if ids is None else gather_detached(ids, layout)
        loss = _PairLoss.apply(image, text, scale, all_ids, layout, settings, torch.is_grad_enabled())
        if settings.label_smoothing:
            loss = loss + settings.label_smoothing * mean_margin(image, text, scale, all_ids, layout)
    return loss


def pair_terms(diagonal: Tensor, log_sums: Tensor, negatives: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each pair's loss in one direction, and the share of its negatives in the denominator.

    Args:
        diagonal: (n,) the pairs' own scores z_ii.
        log_sums: (2, n) log sums over negatives of exp((1 + beta) z) and exp(beta z); (1, n) for beta = 0.
        negatives: (n,) their numbers.
        alpha: weight of the positive in the denominator.
    """
    # log sum_j w_ij exp(z_ij) = log n_i + LSE((1 + beta) z) - LSE(beta z), here relative to the positive.
    excess = log_sums[0] - diagonal
    if len(log_sums) == 2:
        excess = excess + negatives.log() - log_sums[1]
    log_alpha = torch.full_like(excess, math.log(alpha) if alpha else -math.inf)
    loss = torch.logaddexp(log_alpha, excess)
    share = (excess - loss).exp()
    alone = negatives == 0
    return loss.masked_fill(alone, 0.0), share.masked_fill(alone, 0.0)


def _score_matrix(image: Tensor, all_text: Tensor, scale: Tensor, ids: Tensor | None, layout: RankRows) -> ScoreMatrix:
    own_ids = None if ids is None else ids[layout.own]
    return ScoreMatrix(image=image, text=all_text, scale=scale, image_ids=own_ids, text_ids=ids, offset=layout.start)


class _PairLoss(torch.autograd.Function):
    """W / N times the loss of this rank's pairs, both directions halved, with a gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        ids: Tensor | None,
        layout: RankRows,
        settings: _Settings,
        grad_enabled: bool,  # noqa: FBT001 - `apply` takes positional arguments only
    ) -> Tensor:
        own, alpha, beta = layout.own, settings.alpha, settings.beta
        matrix = _score_matrix(image, gather_detached(text, layout), scale, ids, layout)
        powers = (1.0 + beta, beta) if beta else (1.0,)
        # `needs_input_grad` does not know of no_grad.
        sums = negative_log_sums(matrix, powers, keep=grad_enabled and any(ctx.needs_input_grad))
        columns = logsumexp_over_ranks(sums.columns, layout)
        negatives = negative_counts(ids, layout.total, image)
        diagonal = scale * (image * text).sum(1)
        row_loss, row_share = pair_terms(diagonal, sums.rows, negatives[own], alpha)
        column_loss, column_share = pair_terms(diagonal, columns[:, own], negatives[own], alpha)

        ctx.save_for_backward(image, matrix.text, scale, ids, sums.rows, columns, negatives, *sums.kept)
        ctx.shares = row_share, column_share
        ctx.layout, ctx.powers, ctx.bf16_products = layout, powers, settings.bf16_products
        return (row_loss.sum() + column_loss.sum()) * (layout.weight / 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        image, all_text, scale, ids, rows, columns, negatives, *kept = ctx.saved_tensors
        layout, own = ctx.layout, ctx.layout.own
        text = all_text[own]
        matrix = _score_matrix(image, all_text, scale, ids, layout)
        # A row without negatives has no gradient: exp(z - inf) is 0.
        sums = LogSums(
            powers=ctx.powers,
            rows=rows.masked_fill(negatives[own] == 0, math.inf),
            columns=columns.masked_fill(negatives == 0, math.inf),
            kept=tuple(kept),
        )
        row_weights, own_column_weights = (share * grad * (layout.weight / 2) for share in ctx.shares)
        column_weights = gather_detached(own_column_weights, layout)
        signs = grad.new_tensor([1.0, -1.0])[: len(ctx.powers), None]
        need_image, need_text, need_scale = ctx.needs_input_grad[:3]
        with reduced_products(bf16=ctx.bf16_products):
            grad_image, grad_text = cosine_gradients(
                matrix,
                sums,
                signs * row_weights,
                signs * column_weights,
                image=need_image or (need_scale and not need_text),
                text=need_text,
            )
        positives = -(row_weights + own_column_weights)[:, None]
        if grad_image is not None:
            grad_image.addcmul_(positives, text)
        if grad_text is not None:
            grad_text[own].addcmul_(positives, image)
            grad_scale = (grad_text * all_text).sum()
            grad_text = sum_own_rows(grad_text.mul_(scale), layout)
        if grad_image is not None:
            grad_scale = (grad_image * image).sum()
            grad_image.mul_(scale)
        return grad_image, grad_text, grad_scale, None, None, None, None
