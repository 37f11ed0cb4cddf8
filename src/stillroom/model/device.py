"""The torch device that a user's word stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from stillroom.errors import ConfigError, StillroomError

# How torch says that a CPU has no more memory; for GPUs it has an error of its own.
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)
ASKED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def resolve_device(device: str) -> str:
    """Return the device that "auto" stands for, or `device` itself if torch knows and has it.

    Raises:
        ConfigError: unknown to torch, or a GPU that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"device is '{device}'; allowed: auto, cpu, or a GPU that torch sees ({reason})") from None
    return device


@contextmanager
def memory_told(mend: str) -> Iterator[None]:
    """Say in one line that memory ran out, and `mend`, what to do about it, as a `StillroomError`."""
    import torch

    try:
        yield
    except RuntimeError as error:
        gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        if not gpu and NO_MEMORY.search(str(error)) is None:
            raise
        asked = ASKED.search(str(error))
        amount = f" for {asked[1]} more" if asked else ""
        raise StillroomError(f"{'the GPU' if gpu else 'this machine'} has no memory{amount}; {mend}") from None
