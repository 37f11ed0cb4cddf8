"""Stage 4, evaluate: a model and a list of tasks to one result file per task.

    stillroom evaluate MODEL --tasks openmoji_names,pairs.tsv --out results/mine

Data that is missing or damaged costs its own task only. A task whose result file was made of the same weights,
transform, data and task is skipped, and embeddings are kept, so the run can be killed and started again.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json, write_json
from stillroom.errors import ArtifactError, DataError, MissingDependencyError
from stillroom.evaluate.cache import key_of
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.embed import SYNONYMS, ImageEmbeddings
from stillroom.evaluate.encoder import Encoder, make_encoder
from stillroom.evaluate.items import EvalDataset
from stillroom.evaluate.own_pairs import PAIRS
from stillroom.evaluate.results import existing_result, make_result, write_result
from stillroom.evaluate.scoring import score
from stillroom.evaluate.tasks import Task, find_tasks

log = logging.getLogger("stillroom")


def run(model: str, config: EvaluateConfig, out: Path) -> list[dict[str, Any]]:
    """Load a model by name or path, evaluate it on the config's tasks and write the results to `out`.

    Returns:
        One result per task whose data could be read, in the order of the tasks; see `results.make_result`.

    Raises:
        ConfigError: an unknown task or device.
        ArtifactError: `out` belongs to another model, or holds something else.
        DataError: no task could be evaluated, or there is no such model.
    """
    from stillroom import load_model

    tasks = find_tasks(config.tasks, config.data)
    return evaluate_model(load_model(model), model, tasks, config, out)


def evaluate_model(
    loaded: tuple[Any, Any, Any], name: str, tasks: tuple[Task, ...], config: EvaluateConfig, out: Path
) -> list[dict[str, Any]]:
    """Evaluate an open_clip (model, preprocess, tokenizer) that is already in memory; see `run`."""
    import torch

    torch.manual_seed(config.seed)
    encoder = make_encoder(loaded, config, Path(config.cache) if config.cache else out / "embeddings")
    claim_folder(out, name, encoder.model_key)
    results, failures = [], []
    for task in tasks:
        try:
            results.append(evaluate_task(encoder, task, name, config, out))
        except (DataError, MissingDependencyError, OSError) as error:  # OSError: files that may not be read
            log.warning("%s: not evaluated: %s", task.name, error)
            failures.append(str(error))
    if not results:
        raise DataError(f"none of {len(tasks)} tasks could be evaluated: {failures[0] if failures else 'none given'}")
    log.info("evaluate: %d of %d tasks, results in %s", len(results), len(tasks), out)
    return results


def evaluate_task(encoder: Encoder, task: Task, name: str, config: EvaluateConfig, out: Path) -> dict[str, Any]:
    """Evaluate one task, or return its result if it is already there.

    Raises:
        DataError: the task's data is missing, damaged or of another kind, or the model gives NaN.
    """
    dataset = open_task(task, config.data_root)
    fingerprint = key_of(
        *(encoder.image_key, encoder.text_key, dataset.fingerprint),
        *(task.kind, task.metric, str(task.version)),
        *([config.caption_template] if task.kind == "retrieval" else []),
    )
    done = existing_result(out, task, fingerprint)
    if done is not None:
        log.info("%s: already evaluated, skipped", task.name)
        return done
    embedded = encoder.images(dataset)
    metrics, chance, counts = score(task, encoder, dataset, embedded, config.caption_template)
    differs = _report(task, counts, embedded)
    about = {
        **counts,
        **_wording(dataset, config),
        "differs": differs,
        "seed": config.seed,
        "precision": config.precision,
        "fingerprint": fingerprint,
        "skipped": [{"shard": f.shard, "key": f.key, "reason": f.reason} for f in embedded.faults],
    }
    result = make_result(task=task, model=name, metrics=metrics, chance=chance, about=about)
    write_result(out, task, result)
    shown = ", ".join(f"{metric} {metrics[metric]:.4f} (chance {chance[metric]:.4f})" for metric in task.metrics)
    log.info("%s: %s, %s pictures", task.name, shown, f"{counts['n']:,}")
    return result


def claim_folder(out: Path, name: str, model_key: str) -> None:
    """Mark `out` as this model's results; a folder of another model, or with something else in it, is an error."""
    mark = out / "run.json"
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"--out {out} is a file; give a folder")
    if mark.exists():
        old = read_json(mark)
        if old.get("stage") != "evaluate":
            raise ArtifactError(f"--out {out} is the output of 'stillroom {old.get('stage')}'; choose another folder")
        if old.get("model_key") != model_key:
            raise ArtifactError(
                f"--out {out} holds results of another model, '{old.get('model')}'; choose another folder"
            )
    elif out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise ArtifactError(f"--out {out} holds files that are not a stillroom output; choose an empty folder")
    else:
        write_json(mark, {"stage": "evaluate", "model": name, "model_key": model_key})


def _wording(dataset: EvalDataset, config: EvaluateConfig) -> dict[str, Any]:
    """Return how pictures' classes, questions or captions were put into words."""
    if dataset.kind == "retrieval":
        return {"caption_template": config.caption_template}
    named_twice = any(SYNONYMS in name for name in dataset.classnames)
    return {"templates": list(dataset.templates), **({"synonyms": dataset.synonyms} if named_twice else {})}


def _report(task: Task, counts: dict[str, int], embedded: ImageEmbeddings) -> dict[str, list[int]]:
    """Say which pictures were skipped, and where the data differs in size from what the task file states.

    Returns:
        [found, stated] of each count that differs.
    """
    if embedded.faults:
        reasons = Counter(fault.reason for fault in embedded.faults)
        shown = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
        what = "pictures or captions" if task.reader == PAIRS else "pictures"
        log.warning("%s: %d %s skipped (%s), listed in the result", task.name, len(embedded.faults), what, shown)
    stated = {"n": task.pictures, "texts": task.texts, "classes": task.classes, "questions": task.questions}
    differs = {
        key: [counts[key], number]
        for key, number in stated.items()
        if number is not None and counts.get(key, number) != number
    }
    for key, (found, number) in differs.items():
        log.warning("%s: %s is %s, the task file states %s", task.name, key, f"{found:,}", f"{number:,}")
    return differs
