"""Stage 5, probe: a model and a classification task to a few-shot curve from zero-shot on.

    stillroom probe MODEL --task openmoji_subgroups --out OUT

Embeddings are computed once and kept. A curve that is complete is not computed again.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.artifacts import StageWriter, read_json, write_bytes, write_json
from stillroom.config_io import to_dict
from stillroom.errors import DataError
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.embed import ImageEmbeddings
from stillroom.evaluate.encoder import Encoder, make_encoder
from stillroom.evaluate.items import EvalDataset
from stillroom.evaluate.tasks import find_tasks
from stillroom.probe.config import ProbeConfig
from stillroom.probe.draws import split_half

log = logging.getLogger("stillroom")
NOT_RESULTS = ("batch_size", "device", "workers", "data_root", "cache")  # options that change no result


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Features (., D) and labels (.,) of the pool of shots and of the test pictures, and where they come from."""

    pool: NDArray[np.float32]
    pool_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    origin: str


def run(model: str, task: str, config: ProbeConfig, out: Path) -> dict[str, Any]:
    """Load a model by name or path and write curve.json, curve.csv, curve.svg and curve.png of a task to `out`.

    Returns:
        What curve.json holds: the task, sizes, classes with few pictures, and `points`, see `few_shot_curve`.

    Raises:
        ConfigError: an unknown task or device.
        ArtifactError: `out` belongs to another run.
        DataError: no such model, or data that is missing, damaged, no classification set or without a class's pictures.
    """
    from stillroom import load_model

    return probe_model(load_model(model), model, task, config, out)


def probe_model(loaded: tuple[Any, Any, Any], name: str, task: str, config: ProbeConfig, out: Path) -> dict[str, Any]:
    """Probe an open_clip (model, preprocess, tokenizer) that is already in memory; see `run`."""
    from stillroom.probe.protocol import few_shot_curve

    found = find_tasks((task,))[0]
    dataset = open_task(found, config.data_root, split=config.split)
    if dataset.kind != "classification":
        raise DataError(f"task '{task}' is {dataset.kind}; a few-shot curve needs a classification task")
    if dataset.positives:
        raise DataError(f"task '{task}' has several labels a picture; a few-shot curve needs one")
    other = open_task(found, config.data_root, split=config.shots_split) if config.shots_split else None
    encoder = _encoder(loaded, config, out)
    writer = StageWriter(
        out,
        stage="probe",
        config={key: value for key, value in to_dict(config).items() if key not in NOT_RESULTS},
        inputs={
            "images": encoder.image_key,
            "texts": encoder.text_key,
            "data": [part.fingerprint for part in (dataset, other) if part is not None],
        },
        seed=config.seed,
    )
    if writer.complete:
        log.info("probe: %s is complete, skipped", out)
        return read_json(out / "curve.json")
    started = time.monotonic()
    weights = encoder.class_weights(dataset)
    embedded = encoder.images(dataset)
    parts = _parts(dataset, embedded, other, encoder, config)
    scale = float(loaded[0].logit_scale.detach().exp())
    points = few_shot_curve(
        parts.pool,
        parts.pool_labels,
        weights,
        test_features=parts.test,
        test_labels=parts.test_labels,
        shots=config.shots,
        draws=config.draws,
        seed=config.seed,
        methods=config.methods,
        logit_scale=scale,
        config=config,
    )
    curve = {
        "task": found.name,
        "model": name,
        "classes": len(dataset.classnames),
        "chance": 1 / len(dataset.classnames),
        "logit_scale": scale,
        "pool_pictures": len(parts.pool),
        "test_pictures": len(parts.test),
        "origin": parts.origin,
        "skipped": [{"shard": f.shard, "key": f.key, "reason": f.reason} for f in embedded.faults],
        "short_classes": {
            str(p["shots"]): [dataset.classnames[c] for c in p["short_classes"]] for p in points if p["short_classes"]
        },
        "draws": config.draws,
        "seed": config.seed,
        "points": points,
    }
    write_curve(curve, out)
    writer.finish(summary_of(curve), shards=[], timings={"seconds": round(time.monotonic() - started, 3)})
    for line in summary_lines(curve):
        log.info("%s", line)
    return curve


def _encoder(loaded: tuple[Any, Any, Any], config: ProbeConfig, out: Path) -> Encoder:
    options = EvaluateConfig(
        batch_size=config.batch_size, precision=config.precision, device=config.device, workers=config.workers
    )
    return make_encoder(loaded, options, Path(config.cache) if config.cache else out / "embeddings")


def _parts(
    dataset: EvalDataset, embedded: ImageEmbeddings, other: EvalDataset | None, encoder: Encoder, config: ProbeConfig
) -> Parts:
    """The pool of shots and the test pictures: two parts of the data set, or halves of its one part."""
    vectors, labels = embedded.vectors, np.array(embedded.labels, dtype=np.int64)
    if other is None:
        pool, test = split_half(labels, seed=config.seed)
        parts = Parts(
            pool=vectors[pool],
            pool_labels=labels[pool],
            test=vectors[test],
            test_labels=labels[test],
            origin="halves of the test part, class by class",
        )
    else:
        if other.classnames != dataset.classnames:
            raise DataError(f"'{config.shots_split}' has other class names than the test part; they must be the same")
        shots = encoder.images(other)
        parts = Parts(
            pool=shots.vectors,
            pool_labels=np.array(shots.labels, dtype=np.int64),
            test=vectors,
            test_labels=labels,
            origin=f"shots from '{config.shots_split}'",
        )
    missing = sorted(set(range(len(dataset.classnames))) - set(parts.pool_labels.tolist()))
    if missing:
        names = ", ".join(f"'{dataset.classnames[label]}'" for label in missing[:3])
        raise DataError(
            f"{dataset.name}: no shots for {len(missing)} of {len(dataset.classnames)} classes ({names}); "
            "give each a picture or drop its line from classnames.txt"
        )
    if not len(parts.test):
        raise DataError(f"{dataset.name}: no picture is left to test on; one picture a class has no two halves")
    return parts


def write_curve(curve: dict[str, Any], out: Path) -> None:
    """Write a curve as JSON, CSV (one row per method, shots and draw), SVG and PNG."""
    from stillroom.probe.plot import curve_bytes

    title = f"{curve['task']}: {curve['classes']} classes, {curve['test_pictures']:,} test pictures"
    write_json(out / "curve.json", curve)
    write_bytes(out / "curve.csv", curve_csv(curve["points"]).encode())
    for kind in ("svg", "png"):
        write_bytes(out / f"curve.{kind}", curve_bytes(curve["points"], kind, title=title, chance=curve["chance"]))


def curve_csv(points: list[dict[str, Any]]) -> str:
    """Return one line per method, number of shots and draw."""
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    table.writerow(["method", "shots", "draw", "accuracy", "setting"])
    for point in points:
        for draw, (accuracy, setting) in enumerate(zip(point["accuracies"], point["settings"], strict=True)):
            chosen = " ".join(f"{key}={value:g}" for key, value in setting.items())
            table.writerow([point["method"], point["shots"], draw, repr(accuracy), chosen])
    return sink.getvalue()


def summary_of(curve: dict[str, Any]) -> dict[str, Any]:
    """Return the zero-shot accuracy and every method's accuracy by shots."""
    methods: dict[str, dict[str, float]] = {}
    for point in curve["points"]:
        methods.setdefault(point["method"], {})[str(point["shots"])] = point["accuracy"]
    return {"task": curve["task"], "model": curve["model"], "accuracy": methods}


def summary_lines(curve: dict[str, Any]) -> list[str]:
    """Return a table for the terminal: a line per method, accuracies in percent by shots."""
    shots = sorted({point["shots"] for point in curve["points"] if point["shots"]})
    accuracy = summary_of(curve)["accuracy"]
    zero = accuracy.pop("zero_shot")["0"]
    lines = [f"probe {curve['task']}: zero-shot {100 * zero:.1f}%, then accuracy (%) by pictures per class"]
    lines.append(f"{'':20}" + "".join(f"{k:>7}" for k in shots))
    lines += [f"{m:20}" + "".join(f"{100 * by[str(k)]:7.1f}" for k in shots) for m, by in accuracy.items()]
    for number, names in curve["short_classes"].items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"{number} shots: too few pictures, all but the validation ones used, for {shown}")
    return lines
