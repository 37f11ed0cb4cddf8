"""What `stillroom evaluate` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stillroom.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of an evaluation; none but `precision` and `caption_template` changes a score beyond rounding.

    Attributes:
        tasks: names from `stillroom tasks`, a suite ("bundled", "diht", "cheng") or paths of data sets; empty
            means every task of that list.
        batch_size: pictures, or texts, per forward pass.
        precision: "fp32", or "bf16" for autocast to bfloat16.
        caption_template: prompt for the captions of retrieval, with `{}`; "{}" is the caption itself.
        device: "auto" (a GPU if torch sees one, else the CPU) or what torch takes, e.g. "cpu", "cuda:1".
        workers: threads that decode and preprocess pictures.
        data_root: folder that the tasks' paths are relative to; None looks in the current folder and in the checkout.
        cache: folder of cached embeddings, fit to be shared by evaluations; None puts it into the output folder.
        seed: for models that draw random numbers in eval mode; recorded with every result.
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

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}; allowed: 'fp32', 'bf16'")
        if "{}" not in self.caption_template:
            raise ConfigError(f"caption_template is {self.caption_template!r}; it needs {{}} for the caption")
