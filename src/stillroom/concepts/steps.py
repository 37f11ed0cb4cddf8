"""The parts of the stage that take long, each stored when it is done and skipped when it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.artifacts import StageOutput, StageWriter, open_stage, read_json, write_bytes, write_json
from stillroom.concepts.captions import ParseJob, parse_shard
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import Vocabularies
from stillroom.concepts.features import compute_features, features_table
from stillroom.concepts.heads import LinearHead
from stillroom.concepts.labels import fit_heads, load_heads, save_heads
from stillroom.concepts.quality import format_quality
from stillroom.concepts.teacher import load_teacher
from stillroom.data.source import Shard
from stillroom.errors import DataError
from stillroom.filter.kept import Kept
from stillroom.filter.parser import require_parser
from stillroom.parallel import available_cores, mapper
from stillroom.progress import progress

if TYPE_CHECKING:
    from stillroom.concepts.features import Precision

PARSED, FEATURES = "concepts-parsed", "concepts-features"
TEACHER_FIELDS = ("teacher", "teacher_pretrained", "image_size", "fit", "precision", "feature_batch", "device")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every part needs to know."""

    shards: Sequence[Shard]
    kept: Kept | None
    config: ConceptsConfig
    inputs: dict[str, Any]

    @property
    def workers(self) -> int:
        """Processes or threads to use."""
        return self.config.workers or available_cores()

    def writer(self, out: Path, stage: str, fields: Sequence[str]) -> StageWriter:
        """Open a part's own output folder; its identity is the config fields it depends on."""
        identity = self.config.identity()
        config = {name: identity[name] for name in (*fields, "data")}
        return StageWriter(out, stage=stage, config=config, inputs=self.inputs, seed=self.config.seed)


def parse_step(work: Work, out: Path) -> StageOutput:
    """Parse the captions of all shards that are not parsed yet, on all cores."""
    writer = work.writer(out, PARSED, ["parser"])
    if not writer.complete:
        jobs = [
            ParseJob(shard=shard, kept=work.kept, parser=work.config.parser)
            for shard in work.shards
            if not writer.has_shard(shard.name)
        ]
        if jobs:
            require_parser(work.config.parser)  # one that is missing is said here, not by each worker
        with progress("parse captions", total=len(jobs), unit="shards") as shown:
            empty = []
            for name, table in mapper(work.config.backend, work.config.workers)(parse_shard, jobs):
                if table.num_rows:
                    writer.write_shard(name, table)
                else:
                    empty.append((name, table))
                shown.advance(1, f"{name}: {table.num_rows:,} pairs")
        names = [shard.name for shard in work.shards]
        if len(empty) == len(names):
            raise DataError("no pair could be read, or none is kept; run 'stillroom check' on the same DATA")
        # Written last, so that data of which nothing can be read leave no parts that look done.
        for name, table in empty:
            writer.write_shard(name, table)
        writer.finish({"pairs": _rows(writer, names)}, shards=names, timings={})
    return open_stage(out, PARSED)


def feature_step(work: Work, out: Path, *, total: int) -> StageOutput:
    """Compute the teacher's features of all shards that have none yet; `total` is the number of pairs, for progress.

    Raises:
        DataError: no picture could be read.
    """
    config = work.config
    writer = work.writer(out, FEATURES, TEACHER_FIELDS)
    if not writer.complete:
        teacher = load_teacher(
            config.teacher,
            image_size=config.image_size,
            fit=config.fit,
            pretrained=config.teacher_pretrained,
            seed=config.seed,
        )
        teacher.module.to(config.device)
        with progress("teacher features", total=total, unit="pictures") as shown:
            for shard in work.shards:
                if writer.has_shard(shard.name):
                    shown.advance(_rows(writer, [shard.name]))
                    continue
                computed = compute_features(
                    shard,
                    teacher,
                    keep=None if work.kept is None else work.kept.keys(shard.name),
                    batch_size=config.feature_batch,
                    precision=_resolved(config),
                    device=config.device,
                    threads=work.workers,
                    advance=shown.advance,
                )
                writer.write_shard(shard.name, features_table(computed))
        names = [shard.name for shard in work.shards]
        pictures = _rows(writer, names)
        if not pictures:
            raise DataError("no picture could be read; run 'stillroom check' on the same DATA")
        writer.finish({"feature_dim": teacher.feature_dim, "pictures": pictures}, shards=names, timings={})
    return open_stage(out, FEATURES)


def head_step(
    parsed: StageOutput, features: StageOutput, vocabularies: Vocabularies, config: ConceptsConfig, out: Path
) -> tuple[dict[str, LinearHead], dict[str, Any]]:
    """Train the heads, or read them where an earlier run has trained them; the report is written last."""
    weights, report = out / "heads.safetensors", out / "heads.json"
    if report.exists():
        return load_heads(weights), read_json(report)
    heads, reports, qualities = fit_heads(parsed, features, vocabularies, config, out / ".features.part")
    write_bytes(weights, save_heads(heads))
    for kind, quality in qualities.items():
        names = [concept.name for concept in vocabularies[kind]]
        write_bytes(out / f"{kind}_quality.csv", format_quality(names, quality))
    write_json(report, reports)
    return heads, reports


def _rows(writer: StageWriter, names: Sequence[str]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(writer.shard_path(name)).num_rows for name in names)


def _resolved(config: ConceptsConfig) -> Precision:
    assert config.precision != "auto"  # run resolves it
    return config.precision
