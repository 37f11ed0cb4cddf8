"""A run's checkpoints: numbered files, the newest ones kept, and the best model."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import ArtifactError
from stillroom.model.checkpoint import load_checkpoint, save_checkpoint

log = logging.getLogger("stillroom")
NAME = re.compile(r"step-(\d+)\.pt")
BEST = "best.pt"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that one rank chose, for all ranks to go on from.

    Attributes:
        step: optimiser steps done.
        sha256: of the file.
        damaged: steps of newer checkpoints that could not be loaded.
    """

    step: int
    sha256: str
    damaged: tuple[int, ...] = ()


class Checkpoints:
    """The folder `checkpoints` of a run.

    Args:
        folder: need not exist yet.
        keep: how many numbered ones are kept.
        damaged: steps of checkpoints that were passed over; they are not counted, and go with the next one saved: what
            could not be read is not thrown away before there is something newer.
    """

    def __init__(self, folder: Path, *, keep: int, damaged: Sequence[int] = ()) -> None:
        self.folder, self.keep, self.damaged = folder, keep, set(damaged)

    def steps(self) -> list[int]:
        """Return the steps there are checkpoints of, rising."""
        if not self.folder.is_dir():
            return []
        return sorted(int(found[1]) for entry in self.folder.iterdir() if (found := NAME.fullmatch(entry.name)))

    def path(self, step: int) -> Path:
        """Return the file of a checkpoint after `step` steps."""
        return self.folder / f"step-{step:09d}.pt"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`, and damaged ones; never what was just written."""
        save_checkpoint(self.path(step), state)
        damaged = self.damaged - {step}
        older = [old for old in self.steps() if old < step and old not in damaged]
        for old in (*older[: max(0, len(older) - self.keep + 1)], *damaged):
            self.path(old).unlink(missing_ok=True)
        self.damaged = set()

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the model that scored best so far."""
        save_checkpoint(self.folder / BEST, state)

    def newest(self) -> Saved | None:
        """Return the newest checkpoint; one that is damaged is passed over with a word for the one before.

        Raises:
            ArtifactError: there are some, and none can be loaded.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                # Read whole, before anything else is, and forgotten: a model and its optimizer are large.
                load_checkpoint(self.path(step))
            except ArtifactError as error:
                log.warning("%s", error)
                failed = error
                damaged.append(step)
            else:
                return Saved(step=step, sha256=_sha256(self.path(step)), damaged=tuple(damaged))
        if damaged:
            raise failed
        return None

    def load(self, saved: Saved) -> dict[str, Any]:
        """Load the checkpoint that was chosen, perhaps by another rank.

        Raises:
            ArtifactError: it is not there, or not the same file.
        """
        path = self.path(saved.step)
        try:
            same = _sha256(path) == saved.sha256
        except OSError as error:
            raise ArtifactError(
                f"cannot read {path} ({error.strerror}), which the first rank goes on from; --out must be one folder "
                "that all nodes see"
            ) from None
        if not same:
            raise ArtifactError(
                f"{path} is not what the first rank reads there; --out must be one folder that all nodes see"
            )
        return load_checkpoint(path)


def order_digest(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return a digest of what the order of pairs is drawn over: the shards in their order, and the pairs in each."""
    listed = json.dumps([list(names), list(counts)])
    return hashlib.sha256(listed.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
