"""Scores of a model while it is trained: what `stillroom train` calls every so many samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillroom.train.config import EvaluationConfig

Scorer = Callable[[tuple[Any, Any, Any]], Mapping[str, float]]


def make_scorer(config: EvaluationConfig) -> Scorer | None:
    """Return a function from open_clip's (model, preprocess, tokenizer) to scores by "task/metric"; None for no tasks.

    Tasks whose data is missing are said so and left out; the scores are those of the metrics that stand for a task, in
    which higher is better.

    Raises:
        ConfigError: an unknown task.
    """
    if not config.tasks:
        return None
    from stillroom.evaluate.config import EvaluateConfig
    from stillroom.evaluate.run import evaluate_model
    from stillroom.evaluate.tasks import find_tasks

    tasks = {task.name: task for task in find_tasks(config.tasks)}

    def score(loaded: tuple[Any, Any, Any]) -> dict[str, float]:
        device = str(next(loaded[0].parameters()).device)
        options = EvaluateConfig(device=device, data_root=config.data_root)
        # The weights will never be these again, so nothing of it is worth keeping.
        with tempfile.TemporaryDirectory() as folder:
            results = evaluate_model(loaded, "training", tuple(tasks.values()), options, Path(folder) / "scores")
        return {
            f"{result['dataset']}/{metric}": result["metrics"][metric]
            for result in results
            for metric in tasks[result["dataset"]].metrics
        }

    return score
