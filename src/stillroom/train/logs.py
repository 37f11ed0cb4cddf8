"""What a run writes down as it goes: metrics, speed, scores, and TensorBoard's event files."""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stillroom.artifacts import write_bytes
from stillroom.errors import MissingDependencyError

# Rows that depend on the data and the seed, and rows that depend on the machine.
METRICS, SPEED, SCORES = "metrics.jsonl", "speed.jsonl", "scores.jsonl"


class RunLog:
    """Appends rows to the files of a run folder; rows after `steps_done` are dropped first, to be written again."""

    def __init__(self, out: Path, *, steps_done: int, tensorboard: bool) -> None:
        self.out = out
        for name in (METRICS, SPEED, SCORES):
            cut_log(out / name, steps_done)
        self.board = open_tensorboard(out / "tensorboard", steps_done) if tensorboard else None

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a row; its "step" counts finished steps."""
        with (self.out / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            group = name.partition(".")[0]
            for key, value in row.items():
                if key != "step" and value is not None:
                    self.board.add_scalar(f"{group}/{key}", value, row["step"])

    def close(self) -> None:
        """Flush what is open."""
        if self.board is not None:
            self.board.close()


def open_tensorboard(folder: Path, steps_done: int) -> Any:
    """Open TensorBoard's writer; steps after `steps_done` in older files are marked as void.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("tensorboard", "tensorboard", "tensorboard = true") from None
    return SummaryWriter(str(folder), purge_step=steps_done + 1 if steps_done else None)


def cut_log(path: Path, steps_done: int) -> None:
    """Drop log lines of steps after the checkpoint that training goes on from: they will be written again."""
    if not path.exists():
        return
    rows = path.read_bytes()
    lines = rows.splitlines(keepends=True)
    kept = list(itertools.takewhile(lambda line: _is_row_until(line, steps_done), lines))
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _is_row_until(line: bytes, steps_done: int) -> bool:
    """Whether a line is a whole row of a step that is done; a power cut can leave half of one, or zeros."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= steps_done
    except (ValueError, KeyError, TypeError):
        return False


class Clock:
    """Times the steps between two rows of the speed log: in all, and waiting for data."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._begin = time.monotonic()
        self.samples, self.waited = 0, 0.0

    def add(self, samples: int, waited: float) -> None:
        """Count a step of `samples` pairs that waited for its data for `waited` seconds."""
        self.samples += samples
        self.waited += waited

    def row(self) -> dict[str, float]:
        """Return rate, share of the time spent waiting for data, and peak memory; start again."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        row = {
            "samples_per_second": round(self.samples / seconds, 1),
            "data_wait": round(self.waited / seconds, 4),
            "memory_gb": round(peak_memory(self.device) / 2**30, 3),
        }
        self._begin, self.samples, self.waited = time.monotonic(), 0, 0.0
        return row


def peak_memory(device: torch.device) -> int:
    """Return the peak of this process in bytes: of the GPU's allocator, or of the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
