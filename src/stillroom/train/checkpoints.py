"""A run's checkpoints: numbered files, the newest ones kept, and the best one."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillroom.errors import ArtifactError
from stillroom.model.checkpoint import load_checkpoint, save_checkpoint

log = logging.getLogger("stillroom")
NAME = re.compile(r"step-(\d+)\.pt")
BEST = "best.pt"


class Checkpoints:
    """The folder `checkpoints` of a run.

    Args:
        folder: need not exist yet.
        keep: how many numbered ones are kept.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Return the steps there are checkpoints of, rising."""
        if not self.folder.is_dir():
            return []
        return sorted(int(found[1]) for entry in self.folder.iterdir() if (found := NAME.fullmatch(entry.name)))

    def path(self, step: int) -> Path:
        """Return the file of a checkpoint after `step` steps."""
        return self.folder / f"step-{step:09d}.pt"

    def save(self, step: int, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`; with `best` also as the best so far."""
        save_checkpoint(self.path(step), state)
        if best:
            save_checkpoint(self.folder / BEST, state)
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink()

    def newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint; one that is damaged is passed over with a word for the one before.

        Raises:
            ArtifactError: there are some, and none can be loaded.
        """
        for step in reversed(self.steps()):
            try:
                return load_checkpoint(self.path(step))
            except ArtifactError as error:
                log.warning("%s", error)
                damaged = error
        if self.steps():
            raise damaged
        return None
