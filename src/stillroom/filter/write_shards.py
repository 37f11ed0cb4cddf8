"""The kept pairs as data of their own: shards in img2dataset's layout, which open_clip and webdataset read.

Per shard `00000.tar` (KEY.jpg|png|webp, KEY.json, KEY.txt), `00000.parquet` (the same without pictures) and, written
last, `00000_stats.json`: where it stands, the other two are whole. `sizes.json`, last of all, is what open_clip's
trainer reads the number of pairs from. Nothing in them depends on the clock or on the number of processes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.artifacts import StageOutput, read_json, whole_file, write_json
from stillroom.data.reasons import SHARD_TRUNCATED, SHARD_UNREADABLE
from stillroom.data.source import Shard
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.filter.kept import load_kept
from stillroom.filter.shard_entry import SCHEMA, Entry, make_entry
from stillroom.parallel import map_unordered
from stillroom.progress import progress
from stillroom.records import Fault, Sample

ROWS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Part:
    """`count` kept pairs of a shard of DATA, from the one that has `first` kept ones before it."""

    shard: Shard
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to be written: its name, the first digits of its keys, and where its pairs come from."""

    name: str
    digits: int
    parts: tuple[Part, ...]

    @property
    def pairs(self) -> int:
        """How many pairs it will hold."""
        return sum(part.count for part in self.parts)


def write_kept_shards(
    shards: Sequence[Shard], out: Path, folder: Path, *, pairs: int = 10_000, workers: int
) -> dict[str, int]:
    """Write the pairs that a finished filter output keeps as img2dataset shards; what is there already is left alone.

    A process reads the shards of DATA that its shard needs from their front, and holds one picture at a time.

    Args:
        shards: those of the DATA that was filtered, in order.
        out: the filter's output folder.
        folder: where the shards go.
        pairs: how many go into one shard.
        workers: processes.

    Returns:
        "shards", "pairs" and "bytes" (of the tars), as they now stand in `folder`.

    Raises:
        ArtifactError: `out` is no finished filter output of these shards, or `folder` holds other shards.
        DataError: a kept pair cannot be found or read any more.
    """
    if pairs < 1:
        raise ConfigError(f"{pairs} pairs to a shard; it must be at least 1")
    output = load_kept(out, [shard.name for shard in shards]).output
    jobs = plan(shards, output, pairs)
    _refuse_others(folder, jobs)
    work = partial(write_job, output=output.for_workers(), folder=folder)
    sizes, total = {}, 0
    with progress("write kept pairs", len(jobs), "shards") as shown:
        for name, count, size in map_unordered(work, jobs, workers):
            sizes[f"{name}.tar"], total = count, total + size
            shown.advance(1)
    write_json(folder / "sizes.json", sizes)
    return {"shards": len(sizes), "pairs": sum(sizes.values()), "bytes": total}


def plan(shards: Sequence[Shard], output: StageOutput, pairs: int) -> list[Job]:
    """Cut the kept pairs, in the order of the data, into runs of `pairs`; the last one may be shorter."""
    runs: list[list[Part]] = [[]]
    room = pairs
    for shard in shards:
        first, left = 0, len(_kept_keys(output, shard.name))
        while left:
            if not room:
                runs.append([])
                room = pairs
            count = min(left, room)
            runs[-1].append(Part(shard=shard, first=first, count=count))
            first, left, room = first + count, left - count, room - count
    # img2dataset's names: five digits for the shard, four for the pair, more where that is not enough.
    width, digits = max(5, len(str(len(runs) - 1))), max(4, len(str(pairs - 1)))
    return [Job(name=f"{i:0{width}d}", digits=digits, parts=tuple(parts)) for i, parts in enumerate(runs) if parts]


def _kept_keys(output: StageOutput, name: str) -> list[str]:
    table = output.shard(name, ["key", "kept"])
    keys: list[str] = table.filter(table["kept"])["key"].to_pylist()
    return keys


def _refuse_others(folder: Path, jobs: Sequence[Job]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; the kept pairs need a folder")
    names = {job.name for job in jobs}
    for path in sorted(folder.glob("*.tar")):
        if path.stem not in names:
            raise ArtifactError(
                f"{folder} holds {path.name}, which is none of the {len(jobs)} shards; delete the folder"
            )
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_job(job: Job, output: StageOutput, folder: Path) -> tuple[str, int, int]:
    """Write one shard unless it is there; return its name, its pairs and the bytes of its tar."""
    tar_path, table_path = folder / f"{job.name}.tar", folder / f"{job.name}.parquet"
    stats_path = folder / f"{job.name}_stats.json"
    if stats_path.exists():
        _check_same(job, output, folder)
    else:
        with (
            whole_file(tar_path) as tar_file,
            whole_file(table_path) as table_file,
            tarfile.open(fileobj=tar_file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            pq.ParquetWriter(table_file, SCHEMA, compression="zstd") as table,
        ):
            _write_entries(tar, table, entries(job, output))
        write_json(stats_path, _stats(job.pairs))
    return job.name, job.pairs, tar_path.stat().st_size


def _check_same(job: Job, output: StageOutput, folder: Path) -> None:
    """Raise `ArtifactError` unless the shard that is there holds the job's pairs."""
    wanted = [(part.shard.name, key) for part in job.parts for key in _keys_of(part, output)]
    try:
        table = pq.read_table(folder / f"{job.name}.parquet", columns=["original_shard", "original_key"])
        there = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        counted = read_json(folder / f"{job.name}_stats.json").get("successes")
    except (pa.ArrowException, OSError, ArtifactError, AttributeError):
        there, counted = [], 0
    if there != wanted or counted != len(wanted) or not (folder / f"{job.name}.tar").exists():
        raise ArtifactError(f"{folder} holds a shard {job.name} of another run, or a damaged one; delete the folder")


def _keys_of(part: Part, output: StageOutput) -> list[str]:
    return _kept_keys(output, part.shard.name)[part.first : part.first + part.count]


def entries(job: Job, output: StageOutput) -> Iterator[Entry]:
    """Yield what goes into a shard, pair by pair."""
    number = 0
    for part in job.parts:
        for sample in find_pairs(part.shard, _keys_of(part, output), output.path):
            yield make_entry(sample, f"{job.name}{number:0{job.digits}d}")
            number += 1


def find_pairs(shard: Shard, keys: Sequence[str], out: Path) -> Iterator[Sample]:
    """Yield a shard's samples with these keys, which stand in its order, and stop reading behind the last.

    Raises:
        DataError: one is not there, or cannot be read.
    """
    left, why = iter(keys), "it is not there"
    wanted = next(left, None)
    for item in shard.samples():
        if isinstance(item, Sample) and item.key == wanted:
            yield item
            if (wanted := next(left, None)) is None:
                return
        elif isinstance(item, Fault) and (item.key == wanted or item.reason in (SHARD_TRUNCATED, SHARD_UNREADABLE)):
            why = f"{item.reason}: {item.detail}" if item.detail else item.reason
    if wanted is not None:
        raise DataError(
            f"shard '{shard.name}' has lost the pair '{wanted}', which {out} keeps ({why}); restore it, or filter "
            "DATA again into a new folder"
        )


def _write_entries(tar: tarfile.TarFile, table: pq.ParquetWriter, made: Iterator[Entry]) -> None:
    rows: list[dict[str, Any]] = []
    for entry in made:
        for extension, data in entry.members:
            # TarInfo's own defaults: mode 644, no owner, the year 1970.
            member = tarfile.TarInfo(f"{entry.key}.{extension}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it wrote
        rows.append(entry.row)
        if len(rows) == ROWS_AT_ONCE:
            table.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            rows.clear()
    if rows:
        table.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def _stats(pairs: int) -> dict[str, Any]:
    """Return what img2dataset says of a shard; nothing was downloaded, and equal runs are to write equal files."""
    return {
        "count": pairs,
        "successes": pairs,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": pairs},
    }
