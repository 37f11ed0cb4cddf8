"""`stillroom filter`: a verdict with its reasons for every pair, and the list of those that are kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from stillroom.artifacts import StageWriter, read_json, write_table
from stillroom.data.contents import contents
from stillroom.data.source import Shard, open_data
from stillroom.errors import ConfigError
from stillroom.filter.config import FilterConfig
from stillroom.filter.identical import cap_captions
from stillroom.filter.kept import read_tables, write_kept
from stillroom.filter.measure import check_tools, fault_error, filter_shard
from stillroom.filter.near_duplicates import mark_near_duplicates
from stillroom.filter.reuse import Earlier
from stillroom.filter.rules import CAPTION_FREQUENCY, NEAR_DUPLICATE
from stillroom.filter.summary import summarise
from stillroom.parallel import mapper
from stillroom.progress import progress

# A rule over the whole set: from tables (first) to tables (final), with a folder for temporary files; it returns how
# many pairs it would drop alone.
Pass = Callable[[Sequence[Path], Sequence[Path], Path], int]


def run(data: str, config: FilterConfig, out: Path, *, reuse: Earlier | None = None) -> dict[str, Any]:
    """Filter DATA into the folder `out`; shards that an earlier, interrupted run finished are not done again.

    Args:
        data: what to filter.
        config: the thresholds.
        out: the output folder.
        reuse: an earlier output on the same DATA; only what it did not measure is measured.

    Returns:
        the summary, see `stillroom.filter.summary.summarise`.

    Raises:
        StillroomError: DATA cannot be opened, `out` belongs to another run, a needed package is missing.
    """
    started = time.monotonic()
    if reuse is not None and reuse.data != data:
        raise ConfigError(f"{reuse.output.path} filtered {reuse.data}, not {data}; leave DATA out, or --reuse")
    shards = open_data(data, config.data) if reuse is None else reuse.shards(config)
    names = [shard.name for shard in shards]
    inputs: dict[str, Any] = {"data": data, "shards": names}
    if reuse is None:
        inputs["contents"] = contents(shards)
    else:
        inputs |= {"contents": reuse.contents, "reused": str(reuse.output.path)}
    writer = StageWriter(out, stage="filter", config=config.identity(), inputs=inputs, seed=None)
    # Rules over the whole set need all other verdicts first: those wait in hidden folders.
    final, waiting, alone = [writer.shard_path(name) for name in names], out / ".waiting", {}
    if not writer.complete:
        passes = whole_set_passes(config, names)
        stages = [[waiting / str(step) / path.name for path in final] for step in range(len(passes))] + [final]
        with writer.released_on_error():
            measure(shards, config, stages[0], reuse)
        for step, (reason, apply) in enumerate(passes.items()):
            alone[reason] = apply(stages[step], stages[step + 1], waiting / reason)
        write_kept(out / "kept.parquet", zip(names, read_tables(final, ["key", "kept"]), strict=True))
        found = summarise(zip(names, read_tables(final), strict=True), config, whole_set_alone=alone)
        writer.finish(found, shards=names, timings={"seconds": round(time.monotonic() - started, 1)})
    shutil.rmtree(waiting, ignore_errors=True)
    summary: dict[str, Any] = read_json(out / "summary.json")
    if config.strict and (listed := summary["faults"]["listed"]):
        raise fault_error(**listed[0])  # counted by an earlier run that was not strict
    return summary


def whole_set_passes(config: FilterConfig, names: Sequence[str]) -> dict[str, Pass]:
    """Return the rules over the whole set that are on, by their reason, in the order of the rules."""
    passes: dict[str, Pass] = {}
    if config.near_duplicate_distance is not None:
        passes[NEAR_DUPLICATE] = partial(mark_near_duplicates, names=names, distance=config.near_duplicate_distance)
    if config.max_identical_captions is not None:
        passes[CAPTION_FREQUENCY] = partial(cap_captions, cap=config.max_identical_captions)
    return passes


def measure(shards: Sequence[Shard], config: FilterConfig, paths: Sequence[Path], reuse: Earlier | None = None) -> None:
    """Write the verdicts of every shard that has none yet, on as many processes as configured."""
    todo = [(shard, path) for shard, path in zip(shards, paths, strict=True) if not path.exists()]
    if not todo:
        return
    check_tools(config)
    work = partial(_verdicts, config=config, reuse=None if reuse is None else reuse.for_workers())
    pairs = 0
    with progress("filter", len(todo), "shards") as shown:
        for path, table in mapper(config.backend, config.workers)(work, todo):
            write_table(path, table)
            pairs += table.num_rows
            shown.advance(1, f"{pairs:,} pairs")


def _verdicts(item: tuple[Shard, Path], config: FilterConfig, reuse: Earlier | None) -> tuple[Path, pa.Table]:
    shard, path = item
    if reuse is None:
        return path, filter_shard(shard, config)
    return path, filter_shard(shard, config, known=lambda: reuse.rows(shard.name, config))
