"""Which pairs a filter output keeps: `kept.parquet` for others, `load_kept` for the stages that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.artifacts import StageOutput, open_stage, whole_file
from stillroom.errors import ArtifactError

SCHEMA = pa.schema([("shard", pa.dictionary(pa.int32(), pa.string())), ("key", pa.string())])


def write_kept(path: Path, tables: Iterable[tuple[str, pa.Table]]) -> None:
    """Write the kept pairs' (shard, key) in the order of the data, whole or not at all, one shard at a time."""
    with whole_file(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for shard, table in tables:
            keys = table.filter(table["kept"])["key"].combine_chunks()
            shards = pa.DictionaryArray.from_arrays(pa.array([0] * len(keys), pa.int32()), [shard])
            writer.write_table(pa.table([shards, keys], schema=SCHEMA))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The kept pairs of a finished filter output; made by `load_kept`."""

    output: StageOutput

    def keys(self, shard: str) -> frozenset[str]:
        """Return the keys that are kept of a shard."""
        table = self.output.shard(shard, ["key", "kept"])
        return frozenset(table.filter(table["kept"])["key"].to_pylist())


def load_kept(folder: Path, shards: Sequence[str]) -> Kept:
    """Open what `stillroom filter` wrote, to be used on data with these shards, all that it filtered or some.

    Args:
        folder: the filter's output folder.
        shards: names of the shards of DATA.

    Raises:
        ArtifactError: no finished filter output, or one without some of these shards.
    """
    output = open_stage(folder, "filter")
    data = output.run["inputs"]["data"]
    missing = set(shards) - set(output.shards)
    if missing:
        raise ArtifactError(
            f"{folder} has no verdicts on shard '{min(missing)}': it filtered {data}; filter the same DATA"
        )
    return Kept(output=output)


def read_tables(paths: Sequence[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read shard tables one after the other.

    Raises:
        ArtifactError: a file is damaged.
    """
    for path in paths:
        try:
            table = pq.read_table(path, columns=columns)
        except (pa.ArrowException, OSError) as error:
            why = " ".join(str(error).split())[:160]
            raise ArtifactError(f"{path} cannot be read ({why}); delete it and run the same command again") from None
        yield table
