"""Soft image-text targets of a teacher, usually a moving average of the student itself.

`self_distillation` takes the teacher's softmax (Cheng et al. 2021), `transport_distillation` the plan of an
entropic optimal transport (OTTER, by the same authors). Both return their own term only; OTTER's script adds it to
InfoNCE with equal weights.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from stillroom.errors import ConfigError
from stillroom.train.losses.inputs import checked_scale, full_precision, reduced_products
from stillroom.train.losses.soft_targets import (
    divergence_from_targets,
    kept_if_small,
    shifted,
    sinkhorn_column_potentials,
)
from stillroom.train.losses.teacher import directions, gather_pairs


def self_distillation(
    image: Tensor,
    text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: Tensor,
    teacher_scale: Tensor | float,
    *,
    image_image: float = 0.0,
    text_text: float = 0.0,
    diagonal: bool = True,
    caption_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    bf16_products: bool = False,
) -> Tensor:
    """KL(teacher || student) between the softmaxes of their image-text similarities, the mean over rows and directions.

    The teacher's logits of image i and text j, in cosines of its own embeddings, are

        teacher_scale * (image_i . text_j + image_image * image_i . image_j + text_text * text_i . text_j)

    Keep both weights at 0 for image-text soft labels (Cheng et al.). The other terms give a pair's own entry the
    largest cosine there is, a vector's with itself: at a teacher scale of 100 the targets collapse to one-hot.
    `diagonal=False` keeps these terms and leaves the pair itself out.

    Args:
        image: (N, D) L2-normalised student embeddings; row i belongs to row i of `text`.
        text: (N, D) L2-normalised student embeddings.
        teacher_image: (N, T) L2-normalised teacher embeddings of the same images; no gradient.
        teacher_text: (N, T) L2-normalised teacher embeddings of the same texts; no gradient.
        scale: the student's 1 / temperature, 0-d, not negative; differentiated. OTTER's script learns one apart from
            InfoNCE's.
        teacher_scale: the teacher's 1 / temperature (100 in OTTER's script); no gradient.
        image_image: weight of the images' mutual similarity in the targets.
        text_text: weight of the texts' mutual similarity in the targets.
        diagonal: whether a pair's own entry can be a target.
        caption_ids: (N,) integers; other pairs with an equal id are left out of both softmaxes.
        group: ranks whose pairs are candidates too; value and gradient scale as in `info_nce`.
        bf16_products: as in `info_nce`; for the teacher's embeddings too.

    Returns:
        0-d loss, non-negative, in float32 or better, with first derivatives only. A row without any target costs 0.
        OTTER's script adds the two directions up: twice this value.

    Raises:
        DataError: the tensors do not fit together, on this rank or another, or the ranks' calls differ.
        ConfigError: a scale is not one number, or negative (on a GPU the sign is not looked at).
        NotImplementedError: the gradient is taken with create_graph.
    """
    settings = {
        "loss": "self_distillation",
        "image_image": image_image,
        "text_text": text_text,
        "diagonal": diagonal,
        "bf16_products": bf16_products,
    }
    pairs = gather_pairs(
        (image, text),
        (teacher_image, teacher_text),
        scale,
        caption_ids,
        group,
        settings=settings,
        check_settings=lambda: _check_teacher_scale(teacher_scale, teacher_image),
    )
    with full_precision(pairs.image), reduced_products(bf16=bf16_products):
        student_scale = checked_scale(scale, pairs.image)
        teacher_logit_scale = checked_scale(teacher_scale, pairs.image, name="teacher_scale").detach()
        total = torch.zeros_like(student_scale)
        for direction in directions(pairs, image_image, text_text):
            total = total + divergence_from_targets(
                direction.query,
                direction.keys,
                student_scale,
                target_logits=direction.target_logits(teacher_logit_scale, pairs.exclusions, diagonal=diagonal),
                exclusions=pairs.exclusions,
            )
    return total * (pairs.layout.weight / 2)


def transport_distillation(
    image: Tensor,
    text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: Tensor,
    *,
    regularisation: float = 0.15,
    iterations: int = 5,
    image_image: float = 1.0,
    text_text: float = 1.0,
    diagonal: bool = False,
    over_ranks: bool = True,
    caption_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    bf16_products: bool = False,
) -> Tensor:
    """KL(target || student) with targets from optimal transport between a batch's images and texts (OTTER).

    The plan maximises the carried similarity S_ij = image_i . text_j + image_image * image_i . image_j +
    text_text * text_i . text_j plus `regularisation` times the plan's entropy, all rows and all columns carrying
    equal mass: Sinkhorn's iterations on exp(+S / regularisation), so that similar pairs attract mass. Its rows,
    normalised, are the targets; text-to-image has a plan of its own, on S transposed. Sinkhorn runs in the log
    domain and cannot overflow.

    Defaults are the values of OTTER's training script, where the pair itself is meant to be no target (InfoNCE beside
    this term supplies it). On one process the targets are the script's. Over ranks they are not: its mask has no
    offset for the rank, so that on ranks 1, 2, ... the pair itself stays a target and another pair, on rank 0, is left
    out. Here the pair itself is left out on every rank.

    Args:
        image: as in `self_distillation`, like the next four.
        text: (N, D).
        teacher_image: (N, T); no gradient.
        teacher_text: (N, T); no gradient.
        scale: the student's 1 / temperature, 0-d; differentiated.
        regularisation: weight of the entropy in units of similarity, above 0; the larger, the flatter the targets.
        iterations: scalings of rows and then columns; 0 gives the targets of `self_distillation` with a teacher
            scale of 1 / regularisation.
        image_image: weight of the images' mutual similarity.
        text_text: weight of the texts' mutual similarity.
        diagonal: whether a pair's own entry can be a target.
        over_ranks: one plan over the pairs of all ranks, so that the loss is that of one process with all pairs;
            otherwise each rank's rows have a plan with all columns of their own, without waiting for other ranks.
        caption_ids: (N,) integers; other pairs with an equal id are left out of the plan and the softmax.
        group: ranks whose pairs are candidates too; value and gradient scale as in `info_nce`.
        bf16_products: as in `info_nce`; for the teacher's embeddings too.

    Returns:
        0-d loss as in `self_distillation`.

    Raises:
        DataError: as in `self_distillation`, like the last.
        ConfigError: `regularisation`, `iterations` or `scale` is out of range.
        NotImplementedError: the gradient is taken with create_graph.
    """
    settings = {
        "loss": "transport_distillation",
        "regularisation": regularisation,
        "iterations": iterations,
        "image_image": image_image,
        "text_text": text_text,
        "diagonal": diagonal,
        "over_ranks": over_ranks,
        "bf16_products": bf16_products,
    }
    pairs = gather_pairs(
        (image, text),
        (teacher_image, teacher_text),
        scale,
        caption_ids,
        group,
        settings=settings,
        check_settings=lambda: _check_transport(regularisation, iterations),
    )
    with full_precision(pairs.image), reduced_products(bf16=bf16_products):
        student_scale = checked_scale(scale, pairs.image)
        kernel_scale = torch.full_like(student_scale, 1.0 / regularisation).detach()
        total = torch.zeros_like(student_scale)
        for direction in directions(pairs, image_image, text_text):
            log_kernel = direction.target_logits(kernel_scale, pairs.exclusions, diagonal=diagonal)
            log_kernel = kept_if_small(log_kernel, len(direction.query), pairs.layout.total)
            potentials = sinkhorn_column_potentials(
                log_kernel,
                direction.query.detach(),
                pairs.layout,
                iterations=iterations,
                over_ranks=over_ranks,
            )
            total = total + divergence_from_targets(
                direction.query,
                direction.keys,
                student_scale,
                target_logits=shifted(log_kernel, potentials),
                exclusions=pairs.exclusions,
            )
    return total * (pairs.layout.weight / 2)


def _check_teacher_scale(teacher_scale: Tensor | float, rows: Tensor) -> None:
    checked_scale(teacher_scale, rows, name="teacher_scale")


def _check_transport(regularisation: float, iterations: int) -> None:
    if not regularisation > 0.0:
        raise ConfigError(f"regularisation is {regularisation}; give a positive number (OTTER's script: 0.15)")
    if iterations < 0:
        raise ConfigError(f"iterations is {iterations}; give 0 or more (OTTER's script: 5)")
