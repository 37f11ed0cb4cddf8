"""DATA on the command line to a list of shards: tars, tables and folders behind one small interface."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol

from stillroom.data.config import DataConfig
from stillroom.data.folders import FolderShard, list_pictures
from stillroom.data.tables import TABLE_EXTENSIONS, table_shards
from stillroom.data.tars import TarShard
from stillroom.errors import DataError
from stillroom.records import Fault, Sample

URL = re.compile(r"[a-z][a-z0-9+.-]*://")


class Shard(Protocol):
    """What a stage sees of the data: a name, unique in the data set and stable, and its samples in a fixed order."""

    @property
    def name(self) -> str:
        """The shard's name: readable, and free of path separators."""
        ...

    def samples(self, *, images: bool = True) -> Iterator[Sample | Fault]:
        """Yield the shard's pairs, and a fault for each that cannot be used."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardHead:
    """The first `limit` samples and faults of a shard, under its name."""

    shard: Shard
    limit: int

    @property
    def name(self) -> str:
        """The whole shard's name."""
        return self.shard.name

    def samples(self, *, images: bool = True) -> Iterator[Sample | Fault]:
        """Yield from the shard until the limit."""
        yield from islice(self.shard.samples(images=images), self.limit)


def open_data(data: str, config: DataConfig | None = None) -> list[Shard]:
    """Resolve DATA to shards.

    Args:
        data: a tar, a brace pattern or glob of tars, a folder of tars, a `.csv`, `.tsv` or `.parquet` table, a folder
            of pictures with `.txt` sidecars, any of them as an fsspec URL (tars), or several joined by `::`.
        config: column names and block size; defaults otherwise.

    Raises:
        DataError: nothing there, or nothing in a known format.
    """
    config = config or DataConfig()
    tars: list[str] = []
    others: list[Path] = []
    for part in data.split("::"):
        if not part:
            raise DataError(f"DATA '{data}' has an empty part; write a::b")
        found_tars, found_others = _find(part)
        tars += found_tars
        others += found_others
    _refuse_repeats(data, [*tars, *map(str, others)])
    shards: list[Shard] = [TarShard(name=name, url=url) for name, url in zip(unique_names(tars), tars, strict=True)]
    for path, name in zip(others, _other_names(others), strict=True):
        shards += _folder_shards(path, name, config) if path.is_dir() else table_shards(path, name, config)
    taken: set[str] = set()
    for shard in shards:
        if shard.name in taken:
            raise DataError(f"DATA '{data}' holds two shards named '{shard.name}'; rename a file or folder")
        taken.add(shard.name)
    if config.max_per_shard is None:
        return shards
    return [ShardHead(shard=shard, limit=config.max_per_shard) for shard in shards]


def _refuse_repeats(data: str, places: Sequence[str]) -> None:
    seen: set[str] = set()
    for place in places:
        same = place if URL.match(place) else os.path.abspath(place)
        if same in seen:
            raise DataError(f"DATA '{data}' names '{place}' twice")
        seen.add(same)


def _expand(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern)) if "{" in pattern else [pattern]
    except ValueError:
        raise DataError(f"unbalanced braces in '{pattern}'; write e.g. shards/{{00000..00012}}.tar") from None


def _find(part: str) -> tuple[list[str], list[Path]]:
    """Return the tars (paths or URLs), and the tables and picture folders, that one part of DATA names."""
    if URL.match(part):
        return _remote_tars(part), []
    paths: list[str] = []
    for pattern in [part] if os.path.exists(part) else _expand(part):
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not matches:
            raise DataError(
                f"nothing at '{pattern}'; DATA is tars (a path, glob or brace pattern), a table or a folder"
            )
        paths.extend(matches)
    # Among other shards a folder named like one, or a link to nothing, is a shard that cannot be opened, and is said.
    if all(path.endswith(".tar") for path in paths) and not all(map(os.path.isdir, paths)):
        return paths, []
    if len(paths) > 1:
        raise DataError(f"'{part}' names {len(paths)} files that are not all tars; join tables and folders by '::'")
    path = Path(paths[0])
    if path.is_dir():
        tars = sorted(str(entry) for entry in path.glob("*.tar") if not entry.name.startswith("."))
        return ([], [path]) if all(map(os.path.isdir, tars)) else (tars, [])
    if path.suffix.lower() in TABLE_EXTENSIONS:
        return [], [path]
    raise DataError(f"'{path}' is none of .tar, .csv, .tsv, .parquet or a folder")


def _folder_shards(path: Path, name: str, config: DataConfig) -> list[FolderShard]:
    pictures = list_pictures(path)
    if not pictures:
        raise DataError(f"folder {path} holds neither .tar shards nor pictures")
    size = config.block_rows
    return [
        FolderShard(name=f"{name}-{index:05d}", folder=str(path), pictures=tuple(pictures[start : start + size]))
        for index, start in enumerate(range(0, len(pictures), size))
    ]


def _remote_tars(part: str) -> list[str]:
    import fsspec

    urls: list[str] = []
    for pattern in _expand(part):
        # In http a question mark begins the query.
        marks = "*[" if pattern.startswith("http") else "*?["
        try:
            filesystem, path = fsspec.core.url_to_fs(pattern)
            if any(mark in pattern for mark in marks):
                found = [filesystem.unstrip_protocol(name) for name in sorted(filesystem.glob(path))]
            else:
                # One file is looked for at once; of many, a missing one is found when its turn comes.
                found = [pattern] if "{" in part or filesystem.exists(path) else []
        except Exception as error:  # noqa: BLE001 - every kind of store fails in its own way
            raise DataError(f"cannot open '{pattern}': {error}") from None
        if not found:
            raise DataError(f"nothing at '{pattern}'")
        urls.extend(found)
    for url in urls:
        if not _without_query(url).endswith(".tar"):
            raise DataError(f"'{url}' is not a .tar; over a network only tars are read")
    return urls


def _without_query(url: str) -> str:
    return url.partition("?")[0] if url.startswith("http") else url


def unique_names(urls: Sequence[str]) -> list[str]:
    """Name each tar by its folder and stem, and by more folders where that is not enough to tell them apart."""
    return _distinct([PurePosixPath(Path(_without_query(url)).as_posix()).with_suffix("").parts for url in urls], 2)


def _other_names(paths: Sequence[Path]) -> list[str]:
    """Name each table by its stem and each folder by its name, and by more folders where that is not enough."""
    full = [path.resolve() for path in paths]
    return _distinct([(path if path.is_dir() else path.with_suffix("")).parts for path in full], 1)


def _distinct(paths: Sequence[tuple[str, ...]], depth: int) -> list[str]:
    """Join the last `depth` parts of each path, or more, until the names differ; number what stays the same."""
    while True:
        names = [_clean("-".join(path[-depth:])) for path in paths]
        if len(set(names)) == len(names):
            return names
        if depth > max(map(len, paths)):
            break
        depth += 1
    count: Counter[str] = Counter()
    for index, name in enumerate(names):
        count[name] += 1
        names[index] = f"{name}-{count[name]}" if count[name] > 1 else name
    return names


def _clean(name: str) -> str:
    """Keep letters, digits, dot, dash and underscore, so that a name is never a path."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_-.") or "data"
