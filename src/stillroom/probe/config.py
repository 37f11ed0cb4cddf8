"""Options of `stillroom probe`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stillroom.errors import ConfigError

Method = Literal["zero_shot", "prompt_probe", "logistic_regression", "prompt_penalty", "interpolation", "cache_model"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A few-shot curve: its protocol, the methods' grids, and how pictures are embedded.

    The number of shots, draws and the grids of DiHT are not known to us (docs/papers.md); these are our choice, made on
    digits and Open Clip Art (docs/probe.md). Of each method one setting is chosen on validation pictures.

    Attributes:
        shots: pictures per class, ascending.
        draws: independent draws of the shots.
        seed: of the draws, and of the split where a data set has one part only.
        methods: what to compare; zero-shot is always in.
        scale_share: share of the model's logit scale that the methods which start at the prompts are fitted with.
        radii: how far the probe may move from the prompts, in units of ||W0||_F (Frobenius norm of the prompt weights).
        bias_radii: how long its bias may be, in logits; every pair with a radius is tried, 0 with 0 is zero-shot.
        l2_from_scratch: L2 penalties of logistic regression from scratch.
        l2_to_prompts: L2 penalties of the distance to the prompts.
        mixes: the interpolation's shares of the probe: 0 is zero-shot, 1 the probe in its widest ball.
        cache_weights: weights of the cache model's votes, in units of the logit scale.
        cache_sharpness: how fast the cache model's votes fall with distance (Tip-Adapter's beta).
        max_iterations: limit of the solver.
        tolerance: certified distance from the optimum at which the solver stops, nats per picture.
        solver_precision: "fp32" takes half the memory and a faster step, but weak penalties and wide balls, whose
            progress rounding hides, take more steps.
        split: the data set's part that the test pictures come from; without it, the one the task names.
        shots_split: the data set's part that the shots come from; without it, half of the test part by seed, class by
            class.
        batch_size: pictures, or texts, per forward pass.
        precision: of the model's arithmetic; "bf16" is autocast to bfloat16.
        device: "auto" (a GPU if torch sees one, else the CPU), "cpu", "cuda:1" ...
        workers: threads that decode pictures.
        data_root: folder that the tasks' paths are relative to; without it, the current folder and then the checkout.
        cache: folder of cached embeddings; without it, one in the output folder.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    draws: int = 5
    seed: int = 0
    methods: tuple[Method, ...] = METHODS
    scale_share: float = 0.3
    radii: tuple[float, ...] = (0.0, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
    bias_radii: tuple[float, ...] = (0.0, 4.0)
    l2_from_scratch: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    l2_to_prompts: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 1e1)
    mixes: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
    cache_weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    cache_sharpness: tuple[float, ...] = (1.0, 5.5, 20.0, 60.0)
    max_iterations: int = 2000
    tolerance: float = 1e-3
    solver_precision: Literal["fp64", "fp32"] = "fp64"
    split: str | None = None
    shots_split: str | None = None
    batch_size: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    workers: int = 2
    data_root: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "max_iterations", "batch_size", "workers"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a whole number of at least 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; give a whole number of at least 0")
        whole = all(isinstance(k, int) and k >= 1 for k in self.shots)
        if not self.shots or not whole or list(self.shots) != sorted(set(self.shots)):
            raise ConfigError(f"shots is {list(self.shots)}; give ascending whole numbers from 1 on")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise ConfigError(f"methods: unknown '{unknown[0]}'; allowed: {', '.join(METHODS)}")
        for name in ("radii", "bias_radii", "mixes", "cache_weights", "cache_sharpness"):
            _check_grid(name, getattr(self, name), lowest=0.0)
        for name in ("l2_from_scratch", "l2_to_prompts"):
            _check_grid(name, getattr(self, name), lowest=1e-12)
        for name, allowed in (("solver_precision", ("fp64", "fp32")), ("precision", ("fp32", "bf16"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("tolerance", "scale_share"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")


def _check_grid(name: str, values: tuple[float, ...], *, lowest: float) -> None:
    bad = [value for value in values if not math.isfinite(value) or value < lowest]
    if bad or not values:
        raise ConfigError(f"{name} is {list(values)}; give one or more finite numbers of at least {lowest:g}")
