"""A student's and a teacher's embeddings of the same pairs, as rows to compare with all columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from stillroom.errors import DataError
from stillroom.train.losses.agreement import Call, describe_call, rank_rows
from stillroom.train.losses.gather import RankRows, gather_detached, gather_rows
from stillroom.train.losses.inputs import at_least_float32, check_pairs, checked_ids, checked_scale, rounded_to_bf16
from stillroom.train.losses.soft_targets import Exclusions, RowLogits


@dataclass(frozen=True, kw_only=True)
class StudentAndTeacher:
    """A batch over all ranks, in the precision of the computation."""

    image: Tensor
    text: Tensor
    teacher_image: Tensor
    teacher_text: Tensor
    exclusions: Exclusions
    layout: RankRows


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Own rows against all columns: student (n, D) and (N, D), teacher features whose products are similarities."""

    query: Tensor
    keys: Tensor
    teacher_query: Tensor
    teacher_keys: Tensor

    def target_logits(self, scale: Tensor, exclusions: Exclusions, *, diagonal: bool) -> RowLogits:
        """The teacher's logits by rows, without the excluded entries, and without the pairs' own if not `diagonal`."""

        def logits_of(rows: slice) -> Tensor:
            logits = (self.teacher_query[rows] @ self.teacher_keys.T).mul_(scale)
            exclusions.leave_out_equal_captions(logits, rows)
            return logits if diagonal else exclusions.leave_out_own_pair(logits, rows)

        return logits_of


def gather_pairs(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    scale: Tensor,
    caption_ids: Tensor | None,
    group: dist.ProcessGroup | None,
    *,
    settings: Mapping[str, object],
    check_settings: Callable[[], None],
) -> StudentAndTeacher:
    """Check a batch, convert it to one precision and learn from the other ranks what to leave out.

    Args:
        student: (n, D) image and text.
        teacher: (n, T) image and text.
        scale: the student's.
        caption_ids: (n,), or None.
        group: the ranks.
        settings: of the loss, the same on every rank; with "bf16_products" embeddings are rounded.
        check_settings: raises a `ConfigError` if these or a scale of the teacher's cannot be.
    """

    def check() -> Call:
        check_settings()
        check_pairs(*student)
        check_pairs(*teacher, names="teacher image and text")
        if len(teacher[0]) != len(student[0]):
            raise DataError(
                f"the teacher has {len(teacher[0])} pairs and the student {len(student[0])}; "
                "give the same pairs to both"
            )
        checked_scale(scale, student[0])
        return describe_call(
            student[0],
            dtype=at_least_float32(*(rows[:0] for rows in (*student, *teacher)))[0].dtype,
            caption_ids=checked_ids(caption_ids, student[0]),
            differentiated={"image": student[0], "text": student[1], "scale": scale},
            settings={**settings, "teacher's embedding width": teacher[0].shape[1]},
        )

    layout = rank_rows(check, student[0].device, group)
    ids = checked_ids(caption_ids, student[0])
    features = at_least_float32(*student, *(rows.detach() for rows in teacher))
    image, text, teacher_image, teacher_text = (
        [rounded_to_bf16(rows) for rows in features] if settings["bf16_products"] else features
    )
    exclusions = Exclusions(
        own_ids=ids, all_ids=None if ids is None else gather_detached(ids, layout), offset=layout.start
    )
    return StudentAndTeacher(
        image=image,
        text=text,
        teacher_image=teacher_image,
        teacher_text=teacher_text,
        exclusions=exclusions,
        layout=layout,
    )


def directions(pairs: StudentAndTeacher, image_image: float, text_text: float) -> list[Direction]:
    """Image-to-text and text-to-image; the weighted terms become further columns of the teacher's features."""
    own = (pairs.teacher_image, pairs.teacher_text)
    everyone = tuple(gather_detached(features, pairs.layout) for features in own)
    student = (pairs.image, pairs.text)
    found = []
    for row, column in ((0, 1), (1, 0)):
        query, keys = [own[row]], [everyone[column]]
        for modality, weight in enumerate((image_image, text_text)):
            if weight:
                query.append(weight * own[modality])
                keys.append(everyone[modality])
        found.append(
            Direction(
                query=student[row],
                keys=gather_rows(student[column], pairs.layout),
                teacher_query=torch.cat(query, 1),
                teacher_keys=torch.cat(keys, 1),
            )
        )
    return found
