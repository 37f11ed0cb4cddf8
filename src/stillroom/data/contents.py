"""What the shards of DATA hold, told without reading pictures, so that outputs are not joined with changed data.

Keys of a table are row numbers unless a column of ids is named: after a row is taken out, every later key would mean
another pair, and a join by (shard, key) would not fail.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from stillroom.artifacts import StageOutput
from stillroom.data.folders import FolderShard
from stillroom.data.source import Shard, ShardHead
from stillroom.data.tables import TEXT_TABLES, TableShard
from stillroom.data.tars import TarShard
from stillroom.errors import ArtifactError, DataError

Contents = Mapping[str, str]
PIECE = 2**20
PARQUET_TAIL = 8  # the footer's length, and a magic number


def contents(shards: Sequence[Shard]) -> dict[str, str]:
    """Describe each shard by name: a local tar by its size, a table's rows by a digest, a folder by names and sizes.

    Tars over a network are left out, since asking for 40,000 sizes takes minutes. The pictures that a table names are
    not looked at, so one that is replaced under its name goes unnoticed.

    Raises:
        DataError: a file that was there is gone, or cannot be read.
    """
    found = {}
    for shard in shards:
        try:
            described = _describe(shard.shard if isinstance(shard, ShardHead) else shard)
        except OSError as error:
            raise DataError(f"cannot read {error.filename or shard.name}: {error.strerror}") from None
        if described is not None:
            found[shard.name] = described
    return found


def require_same_contents(output: StageOutput, now: Contents) -> None:
    """Refuse an earlier stage's output if a shard of DATA has changed since.

    Args:
        output: of a stage that stored `contents` among its inputs.
        now: `contents` of DATA, all shards that `output` knows or some.

    Raises:
        ArtifactError: a shard differs.
    """
    before = output.run["inputs"].get("contents", {})
    for name in now.keys() & before.keys():
        if now[name] != before[name]:
            raise ArtifactError(
                f"DATA has changed since {output.path} was made ({name}: {before[name]} then, {now[name]} now), and "
                f"keys may mean other pairs; run 'stillroom {output.run['stage']}' again into another folder"
            )


def _describe(shard: Shard) -> str | None:
    match shard:
        case TarShard(url=url):
            return f"{os.path.getsize(url):,} bytes" if os.path.exists(url) else None
        case TableShard(path=path) if Path(path).suffix.lower() in TEXT_TABLES:
            with open(path, "rb") as file:
                file.seek(shard.start)
                return _digest(file, shard.stop - shard.start)
        case TableShard(path=path):
            # The footer has where each column of each group of rows begins, how long it is, and its bounds.
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(-PARQUET_TAIL, os.SEEK_END)
                footer = int.from_bytes(file.read(4), "little") + PARQUET_TAIL
                file.seek(-min(footer, size), os.SEEK_END)
                return f"{size:,} bytes, {_digest(file, footer)}"
        case FolderShard():
            sizes = [f"{name}\0{_sizes(Path(shard.folder) / name)}" for name in shard.pictures]
            listed = hashlib.sha256(os.fsencode("\n".join(sizes)))
            return f"{len(sizes):,} pictures, sha256 {_short(listed)}"
        case _:
            return None


def _sizes(picture: Path) -> str:
    """Return the sizes of a picture and its caption; a file that cannot be asked is a fault of its pair."""
    found = []
    for path in (picture, picture.with_suffix(".txt")):
        try:
            found.append(str(path.stat().st_size))
        except OSError:
            found.append("-")
    return " ".join(found)


def _digest(file: IO[bytes], count: int) -> str:
    digest, left = hashlib.sha256(), count
    while left > 0 and (piece := file.read(min(left, PIECE))):
        digest.update(piece)
        left -= len(piece)
    return f"{count:,} bytes, sha256 {_short(digest)}"


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]
