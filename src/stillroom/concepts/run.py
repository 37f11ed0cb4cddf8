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
from pathlib import Path
from typing import Any

from stillroom.artifacts import StageOutput, StageWriter, read_json, write_bytes
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import KINDS, Vocabularies, make_vocabularies
from stillroom.concepts.features import read_faults, resolve_precision
from stillroom.concepts.labels import label_shard
from stillroom.concepts.steps import Work, feature_step, head_step, parse_step
from stillroom.concepts.vocabulary import format_vocabulary, vocabulary_digest
from stillroom.concepts.wordnet import wordnet_digest
from stillroom.data.source import open_data
from stillroom.errors import ConfigError
from stillroom.filter.kept import load_kept
from stillroom.progress import track

log = logging.getLogger("stillroom")
FAULT_EXAMPLES = 20


def run(data: str, config: ConceptsConfig, out: Path, keep: Path | None = None) -> dict[str, Any]:
    """Write the pseudo-labels of all pairs of `data` whose picture can be read.

    Args:
        data: see `stillroom.data.open_data`.
        config: options.
        out: output folder; an unfinished one is completed, a complete one is left as it is.
        keep: output of `stillroom filter`; only the pairs it kept are used.

    Returns:
        the summary that is also in `summary.json`.

    Raises:
        ConfigError: no concept is frequent enough, an unknown teacher, one whose weights cannot be had.
        DataError: DATA cannot be read, or no picture of it.
        ArtifactError: `out` belongs to another run, or `keep` is no finished output of the filter on the same data.
    """
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, config.device))
    shards = open_data(data, config.data)
    names = [shard.name for shard in shards]
    kept = None if keep is None else load_kept(keep, names)
    inputs = {"data": data, "shards": names, "keep": None if keep is None else _digest(keep / "manifest.json")}
    given: dict[str, Any] = {"vocabulary": _vocabulary_digests(config)}
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
    work = Work(shards=shards, kept=kept, config=config, inputs=inputs)
    with writer.released_on_error():
        parsed = parse_step(work, out / "parsed")
        laps.end("parse")
        vocabularies = make_vocabularies(parsed, config)
        for kind in KINDS:
            write_bytes(out / f"{kind}.csv", format_vocabulary(vocabularies[kind]))
        laps.end("vocabulary")
        features = feature_step(work, out / "features", total=parsed.summary["pairs"])
        laps.end("features")
        heads, reports = head_step(parsed, features, vocabularies, config, out)
        laps.end("heads")
    for name in track(names, "pseudo-labels", unit="shards"):
        if not writer.has_shard(name):
            writer.write_shard(name, label_shard(features.shard(name), heads, config.top_k))
    laps.end("labels")
    summary = _summary(config, parsed, features, vocabularies, reports)
    writer.finish(summary, shards=names, timings=laps.seconds)
    log.info("concepts: %s", describe(summary))
    return summary


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
        report = summary["heads"].get(kind)
        recall = None if report is None else report["recall_at_k"]
        scored = "" if recall is None else f" (recall@{summary['top_k']} {100 * recall:.1f} %)"
        parts.append(f"{summary['vocabulary'][kind]['size']:,} {kind}{scored}")
    if summary["faults"]:
        parts.append(f"{sum(summary['faults'].values()):,} unusable")
    return ", ".join(parts)


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
