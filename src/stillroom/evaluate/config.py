"""What `stillroom evaluate` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stillroom.data.config import DataConfig
from stillroom.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of an evaluation; none but `precision`, `caption_template` and `data` changes a score beyond rounding.

    Attributes:
        tasks: names from `stillroom tasks`, a suite ("bundled", "diht", "cheng"), paths of data sets, or pairs of one's
            own (tars, a table or a folder); an empty list means every task that `stillroom tasks` names.
        batch_size: pictures, or texts, per forward pass.
        precision: of the model's arithmetic; "bf16" is autocast to bfloat16.
        caption_template: prompt for the captions of retrieval, with `{}`; "{}" is the caption itself.
        device: "auto" (a GPU if torch sees one, else the CPU) or what torch takes, e.g. "cpu", "cuda:1".
        workers: threads that decode and preprocess pictures.
        data_root: folder that the tasks' paths are relative to; without it, the current folder and then the checkout.
        cache: folder of cached embeddings, fit to be shared by evaluations; without it, one in the output folder.
        seed: for models that draw random numbers in eval mode; recorded with every result.
        data: how pairs of one's own are read.
    """

    tasks: tuple[str, ...] = ()
    batch_size: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"
    caption_template: str = "{}"
    device: str = "auto"
    workers: int = 2
    data_root: str | None = None
    cache: str | None = None
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}; allowed: 'fp32', 'bf16'")
        if "{}" not in self.caption_template:
            raise ConfigError(f"caption_template is {self.caption_template!r}; it needs {{}} for the caption")
