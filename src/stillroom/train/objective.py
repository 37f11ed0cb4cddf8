"""The loss of one batch, term by term: of embeddings over all ranks, and of each pair's own concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillroom.train.config import LossConfig
from stillroom.train.losses import (
    concept_distillation,
    hard_negative_nce,
    info_nce,
    self_distillation,
    transport_distillation,
)


@dataclass(frozen=True, kw_only=True)
class PairTensors:
    """What the losses of pairs take: this rank's N pairs.

    Attributes:
        image: (N, D) normalised.
        text: (N, D) normalised.
        scale: 0-d.
        soft_scale: 0-d, or None without soft labels.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    soft_scale: Tensor | None


def pair_losses(
    student: PairTensors, teacher: tuple[Tensor, Tensor] | None, config: LossConfig, caption_ids: Tensor, group: Any
) -> dict[str, Tensor]:
    """Return the terms of embeddings, each 0-d and not yet weighted, scaled over ranks as the losses are.

    Args:
        student: of this rank's pairs.
        teacher: normalised (N, D) image and text embeddings of the moving average; needed with soft labels.
        config: which terms.
        caption_ids: (N,) int64, equal for equal captions on any rank.
        group: ranks whose pairs belong to the batch, or None.
    """
    options: dict[str, Any] = {"caption_ids": caption_ids if config.exclude_identical_captions else None}
    options |= {"group": group, "bf16_products": config.bf16_products}
    terms = {}
    if config.contrastive_weight > 0:
        terms["contrastive"] = _contrastive(student, config, options)
    if config.soft_labels.weight > 0:
        assert teacher is not None
        terms["soft_labels"] = _soft_labels(student, teacher, config, options)
    return terms


def _contrastive(pairs: PairTensors, config: LossConfig, options: dict[str, Any]) -> Tensor:
    match config.contrastive:
        case "info_nce":
            return info_nce(pairs.image, pairs.text, pairs.scale, label_smoothing=config.label_smoothing, **options)
        case "hard_negative_nce":
            return hard_negative_nce(
                pairs.image, pairs.text, pairs.scale, alpha=config.alpha, beta=config.beta, **options
            )


def _soft_labels(
    pairs: PairTensors, teacher: tuple[Tensor, Tensor], config: LossConfig, options: dict[str, Any]
) -> Tensor:
    soft = config.soft_labels
    assert pairs.soft_scale is not None
    options |= {"image_image": soft.image_image, "text_text": soft.text_text, "diagonal": soft.diagonal}
    match soft.targets:
        case "softmax":
            return self_distillation(pairs.image, pairs.text, *teacher, pairs.soft_scale, soft.teacher_scale, **options)
        case "transport":
            return transport_distillation(
                pairs.image,
                pairs.text,
                *teacher,
                pairs.soft_scale,
                regularisation=soft.regularisation,
                iterations=soft.iterations,
                over_ranks=soft.over_ranks,
                **options,
            )


def concept_losses(
    logits: dict[str, Tensor], targets: dict[str, tuple[Tensor, Tensor]], share: float
) -> dict[str, Tensor]:
    """Return each kind's soft-target cross-entropy times `share`, which makes parts of a batch add up to its mean.

    Args:
        logits: kind -> (B, C).
        targets: kind -> ids (B, k) and probabilities (B, k).
        share: W B / N for B of N pairs over W ranks.
    """
    return {kind: share * concept_distillation(logits[kind], *targets[kind]) for kind in logits}


def weights(config: LossConfig) -> dict[str, float]:
    """Return the weight of every term by its name; kinds of concepts share one."""
    concept = config.concept_weight
    return {
        "contrastive": config.contrastive_weight,
        "soft_labels": config.soft_labels.weight,
        "objects": concept,
        "attributes": concept,
    }


def weighted_sum(terms: dict[str, Tensor], config: LossConfig) -> Tensor:
    """Return what is minimised."""
    by_name = weights(config)
    return torch.stack([by_name[name] * term for name, term in terms.items()]).sum()
