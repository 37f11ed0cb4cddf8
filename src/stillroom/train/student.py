"""The model in training: towers, concept heads and learnt scales as one module, and its moving average."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.model.parts import encode_text, image_head, text_head, tower_parameters
from stillroom.train.config import EmaConfig, LossConfig


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A student's output for B pairs, in float32.

    Attributes:
        image: (B, D), rows of length 1.
        text: (B, D), rows of length 1.
        logits: kind of concept -> (B, C).
        scale: 0-d, exp of the logit scale.
        soft_scale: 0-d, the scale of soft labels; None where there are none.
    """

    image: Tensor
    text: Tensor
    logits: dict[str, Tensor]
    scale: Tensor
    soft_scale: Tensor | None

    def first(self, pairs: int) -> Embedded:
        """Return the first so many pairs."""
        if pairs == len(self.image):
            return self
        logits = {kind: scores[:pairs] for kind, scores in self.logits.items()}
        return replace(self, image=self.image[:pairs], text=self.text[:pairs], logits=logits)


class Student(nn.Module):
    """An open_clip model with what is only there during training.

    Args:
        model: open_clip's; gives `encode_image`, `encode_text` and `logit_scale`.
        heads: kind of concept -> a linear layer on the image embedding before it is normalised (DiHT): what they teach
            is then in the very vector that retrieval uses, and they can be dropped after training.
        soft_scale: where the learnt scale of soft labels starts; None makes none.
        image_features: pictures come as features of a locked trunk.
        text_features: texts come as features of a locked trunk.
    """

    def __init__(
        self,
        model: Any,
        heads: nn.ModuleDict,
        *,
        soft_scale: float | None = None,
        image_features: bool = False,
        text_features: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        self.log_soft_scale = nn.Parameter(torch.tensor(math.log(soft_scale))) if soft_scale is not None else None
        self.image_features, self.text_features = image_features, text_features

    def forward(self, pictures: Tensor, texts: Tensor, *, heads: bool = True) -> Embedded:
        """Embed pictures (B, 3, s, s) or (B, F) and texts, tokens (B, L) or (B, W); no logits without `heads`.

        Runs in the surrounding autocast; what comes out is float32.
        """
        image = image_head(self.model)(pictures) if self.image_features else self.model.encode_image(pictures)
        text = text_head(self.model)(texts) if self.text_features else encode_text(self.model, texts)
        logits = {kind: head(image).float() for kind, head in self.heads.items()} if heads else {}
        return Embedded(
            image=F.normalize(image.float(), dim=-1),
            text=F.normalize(text.float(), dim=-1),
            logits=logits,
            scale=self.model.logit_scale.float().exp(),
            soft_scale=None if self.log_soft_scale is None else self.log_soft_scale.float().exp(),
        )

    @torch.no_grad()
    def clamp_scales(self, highest: float) -> None:
        """Keep the learnt scales in [1, highest]."""
        for scale in (self.model.logit_scale, self.log_soft_scale):
            if scale is not None:
                scale.clamp_(0, math.log(highest))


def build_heads(embed_dim: int, sizes: dict[str, int]) -> nn.ModuleDict:
    """Return a linear head for each kind of concept."""
    return nn.ModuleDict({kind: nn.Linear(embed_dim, size) for kind, size in sizes.items()})


def freeze_unreached(student: Student, loss: LossConfig) -> None:
    """Freeze what no term of the loss depends on: DDP waits for a gradient of everything that learns.

    The logit scale is the contrastive loss's own. Concept distillation alone does not see the texts.
    """
    if loss.contrastive_weight > 0:
        return
    owners = tower_parameters(student.model)
    for name, parameter in student.model.named_parameters():
        if name == "logit_scale" or (owners[name] == "text" and loss.soft_labels.weight == 0):
            parameter.requires_grad_(requires_grad=False)


class MovingAverage:
    """The exponential moving average of a student, parameters and buffers, in eval mode: the teacher of Cheng et al.

    A frozen parameter is shared with the student, not copied.
    """

    def __init__(self, student: Student, config: EmaConfig) -> None:
        self.config = config
        memo = {id(p): p for p in student.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(student, memo).eval()
        self.module.requires_grad_(requires_grad=False)

    def decay(self, step: int) -> float:
        """Return the share of the old average at 0-based step `step`: min(decay, (1 + n) / (10 + n)) in the warm-up."""
        return min(self.config.decay, (1 + step) / (10 + step)) if self.config.warm_up else self.config.decay

    @torch.no_grad()
    def update(self, student: Student, step: int) -> None:
        """Move towards the student; buffers that are no floating point numbers (counters) are copied."""
        averages, values = [], []
        news = student.state_dict(keep_vars=True)
        for name, average in self.module.state_dict(keep_vars=True).items():
            new = news[name]
            if average is new:
                continue
            if average.is_floating_point():
                averages.append(average)
                values.append(new.detach())
            else:
                average.copy_(new)
        torch._foreach_lerp_(averages, values, 1 - self.decay(step))
