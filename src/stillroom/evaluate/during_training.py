"""Scores of a model while it is trained: what `stillroom train` calls every so many samples."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.errors import DataError

if TYPE_CHECKING:
    from stillroom.data.config import DataConfig
    from stillroom.evaluate.tasks import Task
    from stillroom.train.config import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class TaskScorer:
    """Scores a model on tasks, by the metrics that stand for each, in which higher is better.

    Attributes:
        tasks: what to score on.
        data_root: folder of the named tasks' data, as in `stillroom evaluate`.
    """

    tasks: tuple[Task, ...]
    data_root: str | None

    def check(self) -> None:
        """Open every task's data.

        Raises:
            DataError: some is missing, damaged or of another kind; all such tasks are named.
        """
        from stillroom.evaluate.datasets import open_task

        failed = {}
        for task in self.tasks:
            try:
                open_task(task, self.data_root)
            except (DataError, OSError) as error:
                failed[task.name] = str(error)
        if failed:
            raise DataError(
                f"{len(failed)} of {len(self.tasks)} evaluation.tasks cannot be opened: {', '.join(failed)}; leave "
                f"them out, or put their data in place; the first: {next(iter(failed.values()))}"
            )

    def __call__(self, loaded: tuple[Any, Any, Any]) -> dict[str, float | None]:
        """Return scores of open_clip's (model, preprocess, tokenizer) by "task/metric"; None where a task failed.

        Raises:
            DataError: none of the tasks could be evaluated.
        """
        from stillroom.evaluate.config import EvaluateConfig
        from stillroom.evaluate.run import evaluate_model

        device = str(next(loaded[0].parameters()).device)
        options = EvaluateConfig(device=device, data_root=self.data_root)
        # The weights will never be these again, so nothing of it is worth keeping.
        with tempfile.TemporaryDirectory() as folder:
            results = evaluate_model(loaded, "training", self.tasks, options, Path(folder) / "scores")
        found = {result["dataset"]: result["metrics"] for result in results}
        return {
            f"{task.name}/{metric}": found[task.name][metric] if task.name in found else None
            for task in self.tasks
            for metric in task.metrics
        }


def make_scorer(config: EvaluationConfig, data: DataConfig | None = None) -> TaskScorer | None:
    """Return what scores models on the config's tasks; None for no tasks.

    Args:
        config: the tasks.
        data: how the training data is read; a table of test pairs has the same names of columns, and all of it is used.

    Raises:
        ConfigError: an unknown task.
        DataError: a folder that is no data set, or pairs of one's own that cannot be used.
    """
    if not config.tasks:
        return None
    from stillroom.evaluate.tasks import find_tasks

    # Its keys and its limit are of the training data: a test set without a column of ids is none the worse.
    data = data and dataclasses.replace(data, key_column=None, max_per_shard=None)
    return TaskScorer(tasks=find_tasks(config.tasks, data), data_root=config.data_root)
