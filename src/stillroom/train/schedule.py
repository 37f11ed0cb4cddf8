"""The learning rate over a run."""

from __future__ import annotations

import math

from stillroom.train.config import OptimizerConfig


def rate_factor(step: int, *, steps: int, warmup: int, cosine: bool = True) -> float:
    """Return the factor on the peak rate at `step` (0-based): linear from 1/warmup to 1, then a half cosine to 0.

    The last step still has a rate above 0, so no step is wasted. Without `cosine` it stays at 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) if cosine else 1.0


def learning_rate(step: int, steps: int, batch_size: int, config: OptimizerConfig) -> float:
    """Return the rate of a step; a warm-up takes at most half of the run."""
    asked = config.warmup_samples // batch_size if config.warmup_steps is None else config.warmup_steps
    warmup = min(asked, steps // 2)
    return config.lr * rate_factor(step, steps=steps, warmup=warmup, cosine=config.schedule == "cosine")
