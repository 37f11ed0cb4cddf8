"""Parameter groups and the optimiser."""

from __future__ import annotations

from typing import Any

import torch

from stillroom.model.parts import tower_parameters
from stillroom.train.config import OptimizerConfig
from stillroom.train.student import Student


def parameter_groups(student: Student, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split what learns by part (image, text, heads, scale) and, in each, into matrices and vectors.

    Vectors (biases, norms, scales) have no weight decay. A group's `factor` is its rate over the recipe's.
    """
    factors = {
        "image": config.image_lr_multiplier,
        "text": config.text_lr_multiplier,
        "heads": config.heads_lr_multiplier,
        "other": 1.0,
    }
    owners = {f"model.{name}": owner for name, owner in tower_parameters(student.model).items()}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "heads" if name.startswith("heads.") else owners.get(name, "other")
        matrix = parameter.ndim >= 2
        decay = (config.heads_weight_decay if part == "heads" else config.weight_decay) if matrix else 0.0
        group: dict[str, Any] = {"params": [], "name": part, "weight_decay": decay, "factor": factors[part]}
        groups.setdefault((part, matrix), group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(student: Student, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser over `parameter_groups`, fused where torch has it."""
    groups = parameter_groups(student, config)
    match config.name:
        case "adamw":
            betas = (config.beta1, config.beta2)
            return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.beta1, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """Set each group's rate to `rate` times its factor; return the rates by part where they differ from `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups if group["factor"] != 1.0}
