"""The parts of the stage that take long, each stored when it is done and skipped when it is there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
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
from stillroom.concepts.teacher import Teacher, check_given, load_teacher
from stillroom.data.reasons import FEATURES_NOT_FINITE
from stillroom.data.source import Shard
from stillroom.errors import DataError
from stillroom.filter.kept import Kept
from stillroom.filter.parser import require_parser
from stillroom.parallel import available_cores, mapper
from stillroom.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from stillroom.concepts.features import Precision

PARSED, FEATURES = "concepts-parsed", "concepts-features"
MEND_TEACHER = "set precision=fp32, or take another teacher"
# The fields that a part depends on.
FIELDS = {
    PARSED: ("parser", "data"),
    FEATURES: ("teacher", "teacher_pretrained", "image_size", "fit", "precision", "feature_batch", "device", "data"),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every part needs to know.

    Attributes:
        shards: of DATA.
        kept: which pairs are used; None for all.
        config: its device and precision are resolved.
        inputs: what identifies the pairs.
        teacher: one that was given, with its digest; None loads the config's.
    """

    shards: Sequence[Shard]
    kept: Kept | None
    config: ConceptsConfig
    inputs: dict[str, Any]
    teacher: tuple[Teacher, str] | None = None

    @property
    def workers(self) -> int:
        """Processes or threads to use."""
        return self.config.workers or available_cores()

    @property
    def teacher_seed(self) -> int | None:
        """The seed of the teacher's weights; None if none are random."""
        return None if self.teacher is not None or self.config.teacher_pretrained else self.config.seed

    def identity(self, stage: str) -> dict[str, Any]:
        """Return what decides the bytes of a part, as its `run.json` says it: config fields, inputs and seed."""
        values = self.config.identity()
        inputs, seed = self.inputs, None
        if stage == FEATURES:
            inputs, seed = {**inputs, **self.teacher_input}, self.teacher_seed
        described = {"config": {name: values[name] for name in FIELDS[stage]}, "inputs": inputs, "seed": seed}
        return dict(json.loads(json.dumps(described)))

    @property
    def teacher_input(self) -> dict[str, str]:
        """What identifies a given teacher beside its name; empty for one that its name describes."""
        return {} if self.teacher is None else {"teacher": self.teacher[1]}

    def writer(self, out: Path, stage: str) -> StageWriter:
        """Open a part's own output folder."""
        return StageWriter(out, stage=stage, **self.identity(stage))


def parse_step(work: Work, out: Path) -> StageOutput:
    """Parse the captions of all shards that are not parsed yet, on all cores."""
    writer = work.writer(out, PARSED)
    if not writer.complete:
        with writer.released_on_error():
            _parse(work, writer)
    return open_stage(out, PARSED)


def _parse(work: Work, writer: StageWriter) -> None:
    jobs = [
        ParseJob(shard=shard, kept=work.kept, parser=work.config.parser)
        for shard in work.shards
        if not writer.has_shard(shard.name)
    ]
    if jobs:
        require_parser(work.config.parser)  # one that is missing is said here, not by each worker
    empty = []
    with progress("parse captions", total=len(jobs), unit="shards") as shown:
        for name, table in mapper(work.config.backend, work.config.workers)(parse_shard, jobs):
            if table.num_rows:
                writer.write_shard(name, table)
            else:
                empty.append((name, table))
            shown.advance(1, f"{name}: {table.num_rows:,} pairs")
    if len(empty) == len(work.shards):
        raise DataError("no pair could be read, or none is kept; run 'stillroom check' on the same DATA")
    _finish(work, writer, empty, lambda rows: {"pairs": rows})


def ready_teacher(work: Work) -> Teacher:
    """Return the frozen encoder on its device, before anything that takes long.

    Raises:
        ConfigError: an unknown one, or weights that cannot be had.
    """
    config = work.config
    if work.teacher is not None:
        check_given(work.teacher[0], config.device)
        return work.teacher[0]
    teacher = load_teacher(
        config.teacher,
        image_size=config.image_size,
        fit=config.fit,
        pretrained=config.teacher_pretrained,
        seed=work.teacher_seed or 0,
    )
    teacher.module.to(config.device)
    return teacher


def feature_step(work: Work, writer: StageWriter, teacher: Teacher | None, *, total: int) -> StageOutput:
    """Compute the teacher's features of all shards that have none yet.

    Args:
        work: of the run.
        writer: of the folder of features.
        teacher: on its device; None if the features are complete.
        total: number of pairs, for progress.

    Raises:
        DataError: no picture could be read, or the teacher gives no numbers.
    """
    if not writer.complete:
        assert teacher is not None
        _compute_features(work, writer, teacher, total)
    return open_stage(writer.out, FEATURES)


def _compute_features(work: Work, writer: StageWriter, teacher: Teacher, total: int) -> None:
    config = work.config
    empty, reasons = [], Counter[str]()
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
            reasons.update(fault.reason for fault in computed.faults)
            if computed.keys:
                writer.write_shard(shard.name, features_table(computed))
            else:
                empty.append((shard.name, features_table(computed)))
    if len(empty) == len(work.shards):
        if reasons[FEATURES_NOT_FINITE]:
            raise DataError(f"teacher '{teacher.name}' gives no finite features for any picture; {MEND_TEACHER}")
        raise DataError("no picture could be read; run 'stillroom check' on the same DATA")
    _finish(work, writer, empty, lambda rows: {"feature_dim": teacher.feature_dim, "pictures": rows})


def _finish(
    work: Work, writer: StageWriter, empty: Sequence[tuple[str, pa.Table]], summary: Callable[[int], dict[str, Any]]
) -> None:
    """Write the shards of no rows last, so that data of which nothing can be used leave no part that looks done."""
    for name, table in empty:
        writer.write_shard(name, table)
    names = [shard.name for shard in work.shards]
    writer.finish(summary(_rows(writer, names)), shards=names, timings={})


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
