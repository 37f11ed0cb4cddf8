"""Results in CLIP_benchmark's JSON schema, one file per task, with what it takes to trust them under "stillroom"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json, versions, write_json
from stillroom.errors import ArtifactError
from stillroom.evaluate.tasks import Task

REQUIRED = ("dataset", "model", "pretrained", "task", "metrics", "language")
# The last two are ours: CLIP_benchmark has no such tasks.
CLIP_BENCHMARK_TASK = {
    "classification": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "vqa": "zeroshot_vqa",
    "open_vocabulary": "zeroshot_open_vocabulary",
}


def make_result(
    *, task: Task, model: str, metrics: Mapping[str, float], chance: Mapping[str, float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a result in CLIP_benchmark's schema.

    Args:
        task: what was evaluated.
        model: name or path as the user gave it.
        metrics: name -> fraction in [0, 1].
        chance: name -> what guessing scores.
        about: further facts for the "stillroom" key: counts, faults, seed, fingerprint.
    """
    architecture, _, tag = model.rpartition("/") if not Path(model).exists() else (model, "", "")
    return {
        "dataset": task.name,
        "model": architecture or tag,
        "pretrained": tag if architecture else "",
        "task": CLIP_BENCHMARK_TASK[task.kind],
        "metrics": dict(metrics),
        "language": "en",
        "stillroom": {
            "task_version": task.version,
            "kind": task.kind,
            "headline": list(task.metrics),
            "chance": dict(chance),
            "versions": versions(),
            **about,
        },
    }


def result_path(out: Path, task: Task) -> Path:
    """Return the file of a task's result; the name is made safe, so it is never a path."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", task.name).lstrip(".")
    return out / f"{safe or 'data'}.json"


def write_result(out: Path, task: Task, result: Mapping[str, Any]) -> None:
    """Write one task's result atomically."""
    write_json(result_path(out, task), result)


def existing_result(out: Path, task: Task, fingerprint: str) -> dict[str, Any] | None:
    """Return the result that is there if it was made of the same weights, transform, data and task; else None."""
    path = result_path(out, task)
    if not path.exists():
        return None
    result = read_json(path)
    same = isinstance(result, dict) and result.get("stillroom", {}).get("fingerprint") == fingerprint
    return result if same else None


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all results of a folder by data set, sorted; files in CLIP_benchmark's own output are read too.

    Raises:
        ArtifactError: no folder, no result in it, or two results of one data set.
    """
    if not folder.is_dir():
        raise ArtifactError(f"no results at '{folder}'; give the folder that 'stillroom evaluate' wrote")
    results: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if not isinstance(value, dict) or any(key not in value for key in REQUIRED):
            continue
        name = str(value["dataset"])
        if name in results:
            raise ArtifactError(f"{folder} holds two results for '{name}'; compare folders with one model each")
        results[name] = value
    if not results:
        raise ArtifactError(f"'{folder}' holds no result; give the folder that 'stillroom evaluate' wrote")
    return results
