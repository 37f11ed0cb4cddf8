"""The part of a recipe that says what is minimised."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from stillroom.errors import ConfigError


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise a `ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_within(
    config: Any, table: str, keys: Iterable[str], lowest: float, highest: float = math.inf, *, open_below: bool = False
) -> None:
    """Raise a `ConfigError` for numbers of a table outside [lowest, highest].

    Args:
        config: the table's dataclass.
        table: its place in the recipe with a dot behind it, "" for the top.
        keys: of the numbers.
        lowest: allowed, but not if `open_below`.
        highest: allowed.
        open_below: the number must be above `lowest`.
    """
    if highest < math.inf:
        allowed = f"in {'(' if open_below else '['}{lowest:g}, {highest:g}]"
    else:
        allowed = f"above {lowest:g}" if open_below else f"{lowest:g} or more"
    for key in keys:
        value = getattr(config, key)
        inside = lowest < value <= highest if open_below else lowest <= value <= highest
        require(inside, f"{table}{key} is {value}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class SoftLabelConfig:
    """Self-distillation: the soft labels of a moving average of the student (Cheng et al.); needs `ema.decay`.

    Attributes:
        weight: of this loss in the sum; 0 leaves it out. OTTER's script has 0.5 beside 0.5 of InfoNCE, both summed over
            directions.
        targets: the teacher's softmax, or the plan of an optimal transport (OTTER).
        teacher_scale: the teacher's 1 / temperature for softmax targets (100 in OTTER's script).
        initial_scale: where the student's own learnt 1 / temperature of this term starts (e^3.9 in OTTER's script).
        image_image: weight of the images' mutual similarity in the targets. With softmax targets it makes them collapse
            to one-hot, unless `diagonal` is false.
        text_text: the same for texts.
        diagonal: whether a pair's own entry can be a target.
        regularisation: weight of the transport plan's entropy; the larger, the flatter the targets.
        iterations: of Sinkhorn's algorithm, which finds the plan.
        over_ranks: one transport plan over the pairs of all ranks; false makes one on each rank.
    """

    weight: float = 0.0
    targets: Literal["softmax", "transport"] = "softmax"
    teacher_scale: float = 100.0
    initial_scale: float = 49.4
    image_image: float = 0.0
    text_text: float = 0.0
    diagonal: bool = True
    regularisation: float = 0.15
    iterations: int = 5
    over_ranks: bool = True

    def __post_init__(self) -> None:
        require_within(self, "loss.soft_labels.", ("weight", "image_image", "text_text"), 0)
        above = ("teacher_scale", "initial_scale", "regularisation", "iterations")
        require_within(self, "loss.soft_labels.", above, 0, open_below=True)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised: a weighted sum of a contrastive loss, concept distillation and soft labels.

    Attributes:
        contrastive: "info_nce" is CLIP's loss, "hard_negative_nce" DiHT's HN-NCE, where hard negatives weigh more.
        contrastive_weight: its weight in the sum; 0 leaves it out.
        alpha: weight of the positive in HN-NCE's denominator; below 1 it is decoupled by so much.
        beta: how much more HN-NCE's hard negatives weigh; with 0 all weigh the same. The paper's value is not known to
            us, 0.25 is common elsewhere.
        label_smoothing: of InfoNCE, not possible with HN-NCE.
        bf16_products: round embeddings to bf16 for the losses of pairs, and multiply them so, with float32 sums, where
            the processor can; faster there, gradients then err by about half a percent (our choice).
        exclude_identical_captions: pairs with the same caption are not each other's negatives (our choice).
        concept_weight: weight of the two concept terms; needs pseudo-labels, 0 leaves them out.
        soft_labels: self-distillation.
    """

    contrastive: Literal["info_nce", "hard_negative_nce"] = "hard_negative_nce"
    contrastive_weight: float = 1.0
    alpha: float = 1.0
    beta: float = 0.25
    label_smoothing: float = 0.0
    bf16_products: bool = False
    exclude_identical_captions: bool = True
    concept_weight: float = 1.0
    soft_labels: SoftLabelConfig = field(default_factory=SoftLabelConfig)

    def __post_init__(self) -> None:
        require_within(self, "loss.", ("alpha", "label_smoothing"), 0, 1)
        require_within(self, "loss.", ("beta", "contrastive_weight", "concept_weight"), 0)
        require(
            self.label_smoothing == 0 or self.contrastive == "info_nce",
            "loss.label_smoothing is for loss.contrastive = 'info_nce' only",
        )


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the weights and buffers: the teacher of soft labels, and perhaps the model that is kept.

    Attributes:
        decay: share of the old average at each step, below 1; 0 keeps no average.
        warm_up: use min(decay, (1 + n) / (10 + n)) at step n, counted from 0, so that the start is forgotten sooner
            (the formula is OTTER's script's, where n is 2 after the first step).
        export: write the average as the run's model, not the last weights (our choice).
    """

    decay: float = 0.0
    warm_up: bool = True
    export: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.decay < 1, f"ema.decay is {self.decay}; it must be 0 or more and below 1")
        require(self.decay > 0 or not self.export, "ema.export is set, but ema.decay is 0: there is no average")
