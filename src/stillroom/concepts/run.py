"""`stillroom concepts`: parse captions, choose vocabularies, run the teacher, train heads, write pseudo-labels.

OUT/parsed/       a stage output: the names in each caption, by shard
OUT/features/     a stage output: the teacher's features, by shard
OUT/*.csv         the vocabularies; heads.safetensors, heads.json: the trained heads and how they did
OUT/shards/       the pseudo-labels
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stillroom.artifacts import StageOutput, StageWriter, read_json, write_bytes
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import KINDS, Vocabularies, make_vocabularies
from stillroom.concepts.features import read_faults, resolve_precision
from stillroom.concepts.labels import label_shard
from stillroom.concepts.reuse import reuse_parts
from stillroom.concepts.steps import FEATURES, Work, feature_step, head_step, parse_step, ready_teacher
from stillroom.concepts.teacher import Teacher, given_config, with_digest
from stillroom.concepts.vocabulary import format_vocabulary, vocabulary_digest
from stillroom.concepts.wordnet import wordnet_digest
from stillroom.data.contents import contents, require_same_contents
from stillroom.data.reasons import ADVICE, FEATURES_NOT_FINITE
from stillroom.data.source import open_data
from stillroom.errors import ConfigError
from stillroom.filter.kept import load_kept
from stillroom.model.device import resolve_device
from stillroom.progress import track

log = logging.getLogger("stillroom")
FAULT_EXAMPLES = 20


def run(
    data: str,
    config: ConceptsConfig,
    out: Path,
    keep: Path | None = None,
    *,
    teacher: Teacher | None = None,
    reuse: Path | None = None,
) -> dict[str, Any]:
    """Write the pseudo-labels of all pairs of `data` whose picture can be read.

    Args:
        data: see `stillroom.data.open_data`.
        config: options.
        out: output folder; an unfinished one is completed, a complete one is left as it is.
        keep: output of `stillroom filter`; only the pairs it kept are used.
        teacher: a frozen encoder of your own instead of the config's. Its name and weights say which it is: give
            another name if only its transform or its forward is another. Its module is put into eval mode and moved to
            the config's device.
        reuse: an earlier output on the same pairs; its parse and its features are used if this run would make the
            same ones, each for itself. The result is that of a run without it.

    Returns:
        the summary that is also in `summary.json`.

    Raises:
        ConfigError: no concept is frequent enough, an unknown teacher or device, a teacher whose weights cannot be had.
        DataError: DATA cannot be read, or no picture of it.
        ArtifactError: `out` belongs to another run, `keep` is no finished output of the filter on the same data, or
            `reuse` no output of this stage.
    """
    device = resolve_device(config.device)
    config = dataclasses.replace(config, device=device, precision=resolve_precision(config.precision, device))
    if teacher is not None:
        config = given_config(config, teacher)
    shards = open_data(data, config.data)
    names = [shard.name for shard in shards]
    kept, found = None if keep is None else load_kept(keep, names), contents(shards)
    if kept is not None:
        require_same_contents(kept.output, found)
    digest = None if keep is None else _digest(keep / "manifest.json")
    inputs = {"data": data, "shards": names, "contents": found, "keep": digest}
    work = Work(shards=shards, kept=kept, config=config, inputs=inputs, teacher=with_digest(teacher))
    given: dict[str, Any] = {"vocabulary": _vocabulary_digests(config), **work.teacher_input}
    if config.fold_synonyms:
        given["wordnet"] = wordnet_digest()
    writer = StageWriter(
        out,
        stage="concepts",
        config=config.identity(),
        inputs={**inputs, **given},
        seed=config.seed,
        parts=("parsed", "features", *(f"{kind}.csv" for kind in KINDS)),
    )
    if writer.complete:
        return read_json(out / "summary.json")
    laps = _Laps()
    with writer.released_on_error():
        if reuse is not None:
            reuse_parts(reuse, work, out)
        parsed, vocabularies, features = _parts(work, out, laps)
        heads, reports = head_step(parsed, features, vocabularies, config, out)
        laps.end("heads")
    for name in track(names, "pseudo-labels", unit="shards"):
        if not writer.has_shard(name):
            table = features.shard(name)
            unlabelled = [fault.key for fault in read_faults(table, name) if fault.reason == FEATURES_NOT_FINITE]
            writer.write_shard(name, with_padding(label_shard(table, heads, config.top_k), unlabelled))
    laps.end("labels")
    summary = _summary(config, parsed, features, vocabularies, reports)
    if lost := summary["faults"].get(FEATURES_NOT_FINITE):
        log.warning("%s pictures get no labels, only padding: %s", f"{lost:,}", ADVICE[FEATURES_NOT_FINITE])
    writer.finish(summary, shards=names, timings=laps.seconds)
    log.info("concepts: %s", describe(summary))
    return summary


def _parts(work: Work, out: Path, laps: _Laps) -> tuple[StageOutput, Vocabularies, StageOutput]:
    """Parse, choose vocabularies and compute features; the teacher is made ready first, as it may not be there."""
    feature_writer = work.writer(out / "features", FEATURES)
    with feature_writer.released_on_error():
        teacher = None if feature_writer.complete else ready_teacher(work)
        laps.end("teacher")
        parsed = parse_step(work, out / "parsed")
        laps.end("parse")
        vocabularies = make_vocabularies(parsed, work.config)
        for kind in KINDS:
            write_bytes(out / f"{kind}.csv", format_vocabulary(vocabularies[kind]))
        laps.end("vocabulary")
        features = feature_step(work, feature_writer, teacher, total=parsed.summary["pairs"])
        laps.end("features")
    return parsed, vocabularies, features


def with_padding(labels: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return labels with rows of padding behind them: pairs that have no features but may be trained on all the same.

    Args:
        labels: of `label_shard`.
        keys: of these pairs.
    """
    if not keys:
        return labels
    columns = {"key": pa.array(keys, pa.string())}
    for field in labels.schema:
        if field.name != "key":
            size, kind = field.type.list_size, field.type.value_type.to_pandas_dtype()
            nothing = pa.array(np.zeros(len(keys) * size, kind))
            columns[field.name] = pa.FixedSizeListArray.from_arrays(nothing, size)
    return pa.concat_tables([labels, pa.table(columns)])


def _summary(
    config: ConceptsConfig,
    parsed: StageOutput,
    features: StageOutput,
    vocabularies: Vocabularies,
    reports: dict[str, Any],
) -> dict[str, Any]:
    faults = [fault for name in features.shards for fault in read_faults(features.shard(name, ["key"]), name)]
    vocabulary = {
        kind: {"size": len(vocabularies[kind]), "digest": vocabulary_digest(vocabularies[kind])} for kind in KINDS
    }
    return {
        "captions": parsed.summary["pairs"],
        "pairs": features.summary["pictures"],
        "teacher": {"name": config.teacher, "feature_dim": features.summary["feature_dim"]},
        "precision": config.precision,
        "top_k": config.top_k,
        "vocabulary": vocabulary,
        "heads": reports,
        "faults": dict(Counter(fault.reason for fault in faults)),
        "fault_examples": [dataclasses.asdict(fault) for fault in faults[:FAULT_EXAMPLES]],
    }


def describe(summary: dict[str, Any]) -> str:
    """Return a summary as one line."""
    parts = [f"{summary['pairs']:,} pairs labelled"]
    for kind in KINDS:
        size, report = summary["vocabulary"][kind]["size"], summary["heads"].get(kind)
        parts.append(f"{size:,} {kind}{_scored(kind, size, report, summary['top_k'])}")
    if summary["faults"]:
        parts.append(f"{sum(summary['faults'].values()):,} unusable")
    return ", ".join(parts)


def _scored(kind: str, size: int, report: dict[str, Any] | None, k: int) -> str:
    if report is None:
        return " (no head: no caption to train on names one)" if size else ""
    if report["recall_at_k"] is None:
        return f" (every picture has all {kind}, so no recall)" if size <= k else ""
    found, frequent = (100 * report[name] for name in ("recall_at_k", "recall_at_k_most_frequent"))
    return f" (recall@{k} {found:.1f} %, of the {k} most frequent {frequent:.1f} %)"


def _vocabulary_digests(config: ConceptsConfig) -> dict[str, str] | None:
    """Digest the files of a given vocabulary: an edited one makes another run."""
    if config.vocabulary is None:
        return None
    return {kind: _digest(Path(config.vocabulary) / f"{kind}.csv") for kind in KINDS}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


class _Laps:
    """Seconds by part of the stage; not part of what equal runs share."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
