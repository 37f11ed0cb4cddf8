"""Scores of a model while it is trained: when they are due, what a failure costs, and which model was the best.

`scores.jsonl` is the memory of it: a step is scored if its row is there, and the best so far is the best row. The best
model is written before the row. So a run that is killed at any moment and resumed scores what was due, and keeps the
same model as one that was left alone.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillroom.model.load import eval_transform
from stillroom.model.locking import set_training_mode
from stillroom.model.towers import one_line
from stillroom.train.checkpoints import Checkpoints
from stillroom.train.logs import SCORES, RunLog

if TYPE_CHECKING:
    from stillroom.train.loop import Trainer

log = logging.getLogger("stillroom")


class Scorer(Protocol):
    """What scores models; see `stillroom.evaluate.during_training`."""

    def check(self) -> None:
        """Raise a `StillroomError` if there is something that cannot be scored on."""
        ...

    def __call__(self, loaded: tuple[Any, Any, Any], /) -> Mapping[str, float | None]:
        """Return scores of open_clip's (model, preprocess, tokenizer), higher is better; None: it failed."""
        ...


def score_if_due(trainer: Trainer, step: int, checkpoints: Checkpoints, journal: RunLog | None) -> None:
    """Score the model after `step` steps on the first rank, where that is due and not done, and keep the best one.

    Every rank calls it; the others wait. A scoring that fails costs its own scores only.
    """
    every = max(1, trainer.config.evaluation.every_samples // trainer.config.batch_size)
    if trainer.scorer is None or step == 0 or (step % every and step != trainer.steps):
        return

    def on_first() -> None:
        assert journal is not None
        earlier = read_scores(journal.out / SCORES)
        if any(row["step"] == step for row in earlier):
            return
        scores = _scores(trainer, step)
        values = [value for value in scores.values() if value is not None]
        complete = len(values) == len(scores) > 0
        mean = sum(values) / len(values) if complete else None
        if mean is not None and mean > best_mean(earlier, scores.keys()):
            checkpoints.save_best({**trainer.weights(step), "scores": scores})
        journal.write(SCORES, {"step": step, "mean": mean, **scores})

    trainer.gradients.ranks.on_first(on_first)
    set_training_mode(trainer.gradients.student)


def _scores(trainer: Trainer, step: int) -> dict[str, float | None]:
    """Score the model; what failed, or is not finite, is None."""
    assert trainer.scorer is not None
    model = trainer.exported()
    try:
        found = trainer.scorer((model.eval(), eval_transform(model), trainer.tokenizer))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not worth a week of training
        log.warning("step %d: could not be scored, training goes on: %s", step, one_line(error))
        return {}
    scores = {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}
    shown = (f"{name} {'failed' if value is None else f'{value:.4f}'}" for name, value in scores.items())
    log.info("step %d: %s", step, ", ".join(shown))
    return scores


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Return the rows of `scores.jsonl`; none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def best_mean(rows: list[dict[str, Any]], names: Collection[str]) -> float:
    """Return the highest mean of rows with exactly these scores: means over other tasks do not compare."""
    same = (row["mean"] for row in rows if row.keys() - {"step", "mean"} == set(names))
    return max((mean for mean in same if mean is not None), default=-math.inf)
