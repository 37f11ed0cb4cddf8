"""The part of a recipe that says what is minimised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stillroom.errors import ConfigError


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise a `ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class SoftLabelConfig:
    """Self-distillation: the soft labels of a moving average of the student (Cheng et al.); needs `ema.decay`.

    Attributes:
        weight: of the term; 0 leaves it out. OTTER's script has 0.5 beside 0.5 of InfoNCE, both summed over directions.
        targets: the teacher's softmax, or the plan of an optimal transport (OTTER).
        teacher_scale: the teacher's 1 / temperature for softmax targets (100 in OTTER's script).
        initial_scale: where the student's own learnt 1 / temperature of this term starts (e^3.9 in OTTER's script).
        image_image: weight of the images' mutual similarity in the targets. With softmax targets it makes them collapse
            to one-hot, unless `diagonal` is off.
        text_text: the same for texts.
        diagonal: whether a pair's own entry can be a target.
        regularisation: of the transport, above 0.
        iterations: of Sinkhorn's algorithm.
        over_ranks: whether a transport plan spans all ranks, or one is made on each.
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
        require(self.weight >= 0, f"loss.soft_labels.weight is {self.weight}; it must be 0 or more")
        for key in ("teacher_scale", "initial_scale", "regularisation", "iterations"):
            value = getattr(self, key)
            require(value > 0, f"loss.soft_labels.{key} is {value}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised: a weighted sum of a contrastive loss, concept distillation and soft labels.

    Attributes:
        contrastive: InfoNCE or HN-NCE (DiHT).
        contrastive_weight: its weight.
        alpha: weight of the positive in HN-NCE's denominator, in [0, 1]; below 1 it is decoupled by so much.
        beta: hardness of HN-NCE's negatives, 0 or more; the paper's value is not known to us, 0.25 is common elsewhere.
        label_smoothing: of InfoNCE, in [0, 1].
        exclude_identical_captions: pairs with the same caption are not each other's negatives (our choice).
        concept_weight: weight of the two concept terms; needs pseudo-labels.
        soft_labels: self-distillation.
    """

    contrastive: Literal["info_nce", "hard_negative_nce"] = "hard_negative_nce"
    contrastive_weight: float = 1.0
    alpha: float = 1.0
    beta: float = 0.25
    label_smoothing: float = 0.0
    exclude_identical_captions: bool = True
    concept_weight: float = 1.0
    soft_labels: SoftLabelConfig = field(default_factory=SoftLabelConfig)

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"loss.alpha is {self.alpha}; it must be in [0, 1]")
        require(self.beta >= 0, f"loss.beta is {self.beta}; it must be 0 or more")
        require(0 <= self.label_smoothing <= 1, f"loss.label_smoothing is {self.label_smoothing}; it must be in [0, 1]")
        require(
            self.label_smoothing == 0 or self.contrastive == "info_nce",
            "loss.label_smoothing is for loss.contrastive = 'info_nce' only",
        )
        for key in ("contrastive_weight", "concept_weight"):
            require(getattr(self, key) >= 0, f"loss.{key} is {getattr(self, key)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the weights and buffers: the teacher of soft labels, and perhaps the model that is kept.

    Attributes:
        decay: share of the old average at each step, below 1; 0 keeps no average.
        warm_up: use min(decay, (1 + n) / (10 + n)) at step n (OTTER's script), so that the start is forgotten.
        export: write the average as the run's model, not the last weights (our choice).
    """

    decay: float = 0.0
    warm_up: bool = True
    export: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.decay < 1, f"ema.decay is {self.decay}; it must be 0 or more and below 1")
        require(self.decay > 0 or not self.export, "ema.export is set, but ema.decay is 0: there is no average")
