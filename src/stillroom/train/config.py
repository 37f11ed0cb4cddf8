"""The recipe of a training run as frozen dataclasses; a TOML recipe has the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillroom.data.config import DataConfig
from stillroom.train.config_loss import EmaConfig, LossConfig, require, require_within

# Fields that say how the work is done, not what comes out; they are not part of a run's identity. (Micro-batches
# change rounding, and what batch norm sees; they may be changed between a run and its resumption all the same.)
RUNTIME = (
    "inputs",
    "evaluation",
    "micro_batch",
    "pixel_cache_mb",
    "checkpoint_samples",
    "checkpoint_minutes",
    "keep_checkpoints",
    "tensorboard",
    "workers",
    "cache",
    "device",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which dual encoder to train; exactly one of `name`, `open_clip` and `start_from` is given.

    Attributes:
        name: an architecture of open_clip, trained from scratch ("ViT-B-32").
        open_clip: the content of an `open_clip_config.json`: `model_cfg` and `preprocess_cfg`.
        start_from: a trained model to go on from: anything `stillroom.load_model` loads.
        image_size: side of the pictures in pixels; without it, the architecture's own. Position embeddings of
            `start_from` are interpolated.
        pretrained_image: start a timm image tower from timm's weights.
        pretrained_text: start a Hugging Face text tower (`hf_model_name`) from its own weights.
        lock_image: freeze the image tower; its projection, where it has one, keeps learning. Without random changes
            to the pictures it then runs once per picture.
        unlocked_image_groups: with `lock_image`, the last so many groups of layers keep learning.
        lock_text: freeze the text tower; its projection, where it has one, keeps learning. It then runs once per
            distinct caption.
        unlocked_text_layers: with `lock_text`, the last so many layers keep learning.
        gradient_checkpointing: save memory: keep less for the backward pass and compute it again; slower.
    """

    name: str | None = None
    open_clip: Mapping[str, Any] | None = None
    start_from: str | None = None
    image_size: int | None = None
    pretrained_image: bool = False
    pretrained_text: bool = False
    lock_image: bool = False
    unlocked_image_groups: int = 0
    lock_text: bool = False
    unlocked_text_layers: int = 0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        given = [key for key in ("name", "open_clip", "start_from") if getattr(self, key) is not None]
        require(len(given) == 1, f"model: give exactly one of name, open_clip, start_from, not {given or 'none'}")
        if self.open_clip is not None:
            unknown = set(self.open_clip) - {"model_cfg", "preprocess_cfg"}
            require("model_cfg" in self.open_clip, "model.open_clip has no model_cfg table")
            require(not unknown, f"model.open_clip: unknown key {sorted(unknown)}; allowed: model_cfg, preprocess_cfg")
        size = self.image_size
        require(size is None or size >= 1, f"model.image_size is {size}; it must be 1 or more")
        for tower, key in (("image", "unlocked_image_groups"), ("text", "unlocked_text_layers")):
            number = getattr(self, key)
            require(number >= 0, f"model.{key} is {number}; it must be 0 or more")
            require(
                number == 0 or getattr(self, f"lock_{tower}"), f"model.{key} is {number}, but lock_{tower} is not set"
            )

    @property
    def stores_text(self) -> bool:
        """Whether the text trunk is frozen as a whole, so that its features can be stored."""
        return self.lock_text and self.unlocked_text_layers == 0


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or SGD with linear warm-up and a cosine to zero.

    Attributes:
        name: "adamw", or "sgd" with momentum `beta1`.
        lr: peak learning rate.
        weight_decay: of the weight matrices; biases, norms and scales have none.
        beta1: AdamW's first-moment decay; SGD's momentum.
        beta2: AdamW's second-moment decay (0.98 as in CLIP).
        eps: AdamW's epsilon.
        warmup_samples: pairs over which the learning rate rises linearly from 0.
        warmup_steps: the same counted in steps; if given, `warmup_samples` does not count.
        schedule: "cosine" falls to zero at the end, "constant" does not fall.
        image_lr_multiplier: the image tower's learning rate is so many times `lr`.
        text_lr_multiplier: the same for the text tower.
        heads_lr_multiplier: the same for the concept heads (10 as in DiHT: recalled, unverified).
        heads_weight_decay: weight decay of the concept heads (0.01 as in DiHT: recalled, unverified).
        max_grad_norm: longer gradients are scaled down to this norm; 0, in Python None too, leaves them.
        max_logit_scale: learnt scales are clamped to [1, this] (100 as in CLIP).
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_samples: int = 10_000
    warmup_steps: int | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    image_lr_multiplier: float = 1.0
    text_lr_multiplier: float = 1.0
    heads_lr_multiplier: float = 10.0
    heads_weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    max_logit_scale: float = 100.0

    def __post_init__(self) -> None:
        require_within(self, "optimizer.", ("lr", "eps"), 0, open_below=True)
        rates = ("image_lr_multiplier", "text_lr_multiplier", "heads_lr_multiplier")
        require_within(self, "optimizer.", ("warmup_samples", "weight_decay", "heads_weight_decay", *rates), 0)
        for key in ("beta1", "beta2"):
            beta = getattr(self, key)
            require(0 <= beta < 1, f"optimizer.{key} is {beta}; it must be 0 or more and below 1")
        require_within(self, "optimizer.", ("max_logit_scale",), 1, open_below=True)
        if self.warmup_steps is not None:
            require_within(self, "optimizer.", ("warmup_steps",), 0)
        if self.max_grad_norm is not None:
            require_within(self, "optimizer.", ("max_grad_norm",), 0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training pictures, drawn from the seed and the step alone.

    Attributes:
        min_crop: smallest share of a picture's area that a random crop takes (0.9 in DiHT's released code).
        max_aspect: the crop's sides are stretched by at most this factor against each other; 1 does not stretch.
        grayscale: probability of dropping the colour.
        recolor: probability of replacing the channels by a random mix of them, inverted half of the time.
    """

    min_crop: float = 0.9
    max_aspect: float = 4 / 3
    grayscale: float = 0.0
    recolor: float = 0.0

    def __post_init__(self) -> None:
        require_within(self, "augment.", ("min_crop",), 0, 1, open_below=True)
        require_within(self, "augment.", ("max_aspect",), 1)
        require_within(self, "augment.", ("grayscale", "recolor"), 0, 1)
        both = self.grayscale + self.recolor
        require(
            both <= 1, f"augment.grayscale and recolor add up to {both:g}; a picture gets one of them, so 1 at most"
        )

    @property
    def changes(self) -> bool:
        """Whether anything is random."""
        return self.min_crop < 1 or self.max_aspect > 1 or self.grayscale > 0 or self.recolor > 0


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """The order in which pairs come; it depends on these, the seed and the step only.

    Attributes:
        lanes: a batch is filled from so many places of the data at once, each reading on shard by shard. At least one a
            rank, and at least one for each worker that shall be busy.
        shuffle: so many pairs are held, still encoded, and drawn from in random order, over all lanes.
    """

    lanes: int = 8
    shuffle: int = 20_000

    def __post_init__(self) -> None:
        require(self.lanes >= 1, f"stream.lanes is {self.lanes}; it must be 1 or more")
        require(self.shuffle >= 1, f"stream.shuffle is {self.shuffle}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scores during training.

    Attributes:
        tasks: names, data set folders or pairs, as `stillroom evaluate --tasks` takes them; none: no evaluation.
        every_samples: pairs from one scoring to the next; the last step is always scored.
        data_root: folder of the named tasks' data, as in `stillroom evaluate`.
    """

    tasks: tuple[str, ...] = ()
    every_samples: int = 1_000_000
    data_root: str | None = None

    def __post_init__(self) -> None:
        require(self.every_samples >= 1, f"evaluation.every_samples is {self.every_samples}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """What to train on, for a recipe that stands for one run; the command line's own win.

    Attributes:
        data: DATA, as on the command line.
        keep: output folder of `stillroom filter`.
        concepts: output folder of `stillroom concepts`.
    """

    data: str | None = None
    keep: str | None = None
    concepts: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole recipe: it names a model, and either `samples` or `epochs` is above 0.

    Attributes:
        model: the dual encoder.
        loss: what is minimised.
        ema: a moving average of the weights.
        optimizer: how it is minimised.
        augment: random changes to the pictures.
        stream: the order of the pairs.
        data: how DATA is read.
        evaluation: scores during training.
        inputs: what to train on.
        samples: pairs to see in all; a pair seen twice counts twice. 0: `epochs` says how many.
        epochs: passes over the pairs; 0: `samples` says how many.
        batch_size: pairs a step, over all ranks (processes of torchrun).
        micro_batch: pairs whose activations are held at once on a rank; without it, the whole batch's are. Loss and
            gradient are the big batch's (gradient caching), for about a third more work.
        precision: of the towers' arithmetic; losses are in float32 always.
        pixel_cache_mb: decoded pictures are kept in memory where all of them fit into so many MiB.
        checkpoint_samples: write a checkpoint after every so many pairs.
        checkpoint_minutes: and after so many minutes; 0 goes by pairs only.
        keep_checkpoints: how many are kept, the newest ones.
        tensorboard: write TensorBoard's event files too; needs `stillroom[tensorboard]`.
        workers: processes a rank that decode pictures; 0 takes one a core of its share.
        cache: folder where the features of locked towers are kept for other runs; without it, they are not kept.
        device: "auto" (a GPU if torch sees one, else the CPU), "cpu", "cuda:1" ...; under torchrun each rank takes its
            own GPU.
        seed: of weights, order and augmentation.
    """

    model: ModelConfig
    loss: LossConfig = field(default_factory=LossConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    samples: int = 0
    epochs: float = 0.0
    batch_size: int = 512
    micro_batch: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    pixel_cache_mb: int = 1024
    checkpoint_samples: int = 100_000
    checkpoint_minutes: float = 0.0
    keep_checkpoints: int = 1
    tensorboard: bool = False
    workers: int = 0
    cache: str | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        # A step's random numbers are drawn from the seed times a million and more, in 64 bits.
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must be in [0, 2147483647]")
        require(self.batch_size >= 2, f"batch_size is {self.batch_size}; a contrastive batch needs at least 2")
        require(
            min(self.samples, self.epochs) == 0 < max(self.samples, self.epochs),
            f"samples is {self.samples} and epochs is {self.epochs}; one must be above 0 and the other 0",
        )
        require(
            self.samples == 0 or self.samples >= self.batch_size,
            f"samples is {self.samples}, less than one batch of {self.batch_size}",
        )
        require(
            self.micro_batch is None or self.micro_batch >= 1,
            f"micro_batch is {self.micro_batch}; it must be 1 or more",
        )
        for key in ("checkpoint_samples", "keep_checkpoints"):
            require(getattr(self, key) >= 1, f"{key} is {getattr(self, key)}; it must be 1 or more")
        require_within(self, "", ("epochs", "checkpoint_minutes", "pixel_cache_mb", "workers"), 0)
        require(
            self.loss.soft_labels.weight == 0 or self.ema.decay > 0,
            "loss.soft_labels.weight is above 0, but ema.decay is 0: the average gives the labels (0.999 is usual)",
        )
        require(
            max(self.loss.contrastive_weight, self.loss.soft_labels.weight, self.loss.concept_weight) > 0,
            "all weights of loss are 0: there is nothing to learn",
        )

    def identity(self) -> dict[str, Any]:
        """Return what decides the output, as plain values: all fields but the runtime's."""
        return {name: value for name, value in asdict(self).items() if name not in RUNTIME}

    def steps(self, pairs: int) -> int:
        """Return how many optimiser steps the run takes on so many pairs, at least one."""
        return max(1, (self.samples or round(self.epochs * pairs)) // self.batch_size)
