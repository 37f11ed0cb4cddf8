"""Number types of the towers' arithmetic."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which towers run; "fp32" changes nothing."""
    return torch.autocast(device.type, dtype=TYPES[precision], enabled=precision != "fp32")
