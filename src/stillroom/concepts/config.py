"""What the concepts stage can be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillroom.data.config import DataConfig
from stillroom.errors import ConfigError

# Fields that say how the work is done, not what comes out; they are not part of a run's identity.
RUNTIME = ("workers", "backend")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Training of the two linear classifiers; the paper's schedule was not recovered, all values are our choice.

    Attributes:
        epochs: at most so many passes; the held-out part stops earlier.
        patience: stop after so many passes without a better held-out loss; the best pass is kept.
        batch_size: pictures per step.
        lr: learning rate of AdamW, on standardised features; falls to zero by a cosine over `epochs`.
        weight_decay: weight decay of AdamW.
        resampling: "sqrt" shows pictures of rare concepts more often, "none" shows every picture once a pass.
        held_out: share of the captions, with all their pictures, that is never trained on: it ends the
            training early and gives the recall that is reported.
    """

    epochs: int = 10
    patience: int = 2
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.01
    resampling: Literal["sqrt", "none"] = "sqrt"
    held_out: float = 0.05

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            _at_least(name, getattr(self, name), 1)
        if not self.lr > 0:
            raise ConfigError(f"lr is {self.lr}; it must be above 0")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out is {self.held_out}; it must lie between 0 and 0.5")


@dataclass(frozen=True, kw_only=True)
class ConceptsConfig:
    """Options of `stillroom concepts`. The paper's vocabulary sizes and k were not recovered: all are our choice.

    Attributes:
        teacher: the frozen encoder that looks at the pictures; docs/concepts.md has the names.
        teacher_pretrained: false leaves a `timm:` or `open_clip:` teacher with random weights (for trials and tests).
        image_size: side of the square the teacher sees, in pixels; without it, the size it was trained with.
        fit: how a picture becomes square: "crop" the middle as in the teacher's own evaluation, "pad" with white
            (drawings on white lose nothing), or "squash".
        min_count: a concept must occur in at least so many captions.
        max_objects: size of the object vocabulary at most; the most frequent are kept.
        max_attributes: the same for attributes.
        extra_stop_objects: more names that are never objects, beside `stop_objects.txt`.
        extra_stop_attributes: more names that are never attributes, beside `stop_attributes.txt`.
        fold_synonyms: make words one concept whose first sense in WordNet is the same ("car", "automobile"), named by
            the one that more captions hold; needs `stillroom[wordnet]` and WordNet's files.
        vocabulary: folder with `objects.csv` and `attributes.csv` of an earlier run, edited perhaps; without it, the
            vocabulary is counted on the captions.
        top_k: how many objects, and how many attributes, a picture gets as pseudo-labels.
        heads: training of the classifiers.
        precision: of the teacher's arithmetic; "auto" is bf16 where the processor multiplies it natively, fp32
            elsewhere.
        feature_batch: pictures per teacher forward pass.
        parser: spaCy pipeline that parses the captions.
        device: of teacher and heads: "auto" (a GPU if torch sees one, else the CPU), "cpu", "cuda:1" ...
        workers: processes that parse and threads that decode; 0 takes one a core.
        backend: what parses the captions: processes of this machine, or Ray (the cluster at RAY_ADDRESS, or a Ray
            started here). The teacher runs here.
        seed: of the held-out split and of the order of training.
        data: how DATA is read.
    """

    teacher: str = "efficientnet-lite0"
    teacher_pretrained: bool = True
    image_size: int | None = None
    fit: Literal["crop", "pad", "squash"] = "crop"
    min_count: int = 15
    max_objects: int = 10_000
    max_attributes: int = 2_000
    extra_stop_objects: tuple[str, ...] = ()
    extra_stop_attributes: tuple[str, ...] = ()
    fold_synonyms: bool = False
    vocabulary: str | None = None
    top_k: int = 10
    heads: HeadConfig = field(default_factory=HeadConfig)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    feature_batch: int = 64
    parser: str = "en_core_web_sm"
    device: str = "auto"
    workers: int = 0
    backend: Literal["local", "ray"] = "local"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name in ("min_count", "max_objects", "max_attributes", "top_k", "feature_batch"):
            _at_least(name, getattr(self, name), 1)
        for name in ("seed", "workers"):
            _at_least(name, getattr(self, name), 0)
        if self.image_size is not None:
            _at_least("image_size", self.image_size, 16)
        if self.fold_synonyms and self.vocabulary is not None:
            raise ConfigError(
                "fold_synonyms is for counting; what is one concept in a given vocabulary its column 'also' says: "
                "leave fold_synonyms or vocabulary out"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the output, as plain values: all fields but the runtime's."""
        return {name: value for name, value in asdict(self).items() if name not in RUNTIME}


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")
