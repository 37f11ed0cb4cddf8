"""The one reader and writer of stage outputs.

A stage output is a folder: `run.json` (stage, config, inputs, seed) written first, one Parquet file per input shard
under `shards/`, `summary.json`, and `manifest.json` written last. "The manifest exists" means "the stage is complete";
a shard file exists only when it is whole, because every file is written beside its place and renamed into it. So a
stage can be killed at any instant and started again. Library versions and timings go to `environment.json`, apart from
the files that two equal runs must share byte for byte.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.errors import ArtifactError, StillroomError, WriteError
from stillroom.folder_lock import LOCK_FILE, FolderLock, lock_folder

FORMAT = 1
# A file name takes 255 bytes on most systems; room is left for the ending and for the name of its temporary file.
LONGEST_NAME = 200
VERSIONED = (
    "stillroom",
    "torch",
    "open_clip_torch",
    "timm",
    "transformers",
    "spacy",
    "rapidocr",
    "pyarrow",
    "pillow",
    "numpy",
    "imagehash",
    "py3langid",
    "ray",
    "nltk",
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a write that fails what was to be written and what to do, as a `WriteError`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        # numpy says of a write cut short how much of it was done, and no more.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
        mend = "make room there and run the same command again" if full else "make the folder writable, or take another"
        failed = WriteError(f"cannot write {path}: {error.strerror or error}; {mend}")
        failed.strerror = error.strerror or str(error)
        raise failed from None


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written whole or not at all: into a temporary file beside it, renamed at the end.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    with writing(path), _temporary_file(path) as file:
        yield file


@contextmanager
def _temporary_file(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(data)


def write_json(path: Path, obj: Any) -> None:
    """Write JSON (UTF-8, sorted keys, two spaces) atomically."""
    text = json.dumps(obj, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair (a file name that is no UTF-8) becomes \udc80, which is how JSON spells it.
    write_bytes(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file; an absent or broken one is an `ArtifactError` in one line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}") from None


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a file that stillroom wrote: it holds no JSON object")
    return value


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", store_schema=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_NOTHING = object()


def difference(old: Any, new: Any, where: str = "") -> str:
    """Name the first place at which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            there, asked = old.get(key, _NOTHING), new.get(key, _NOTHING)
            if there != asked:
                return difference(there, asked, f"{where}.{key}" if where else str(key))
    return f"{where}: {_short(old)} there, {_short(new)} asked for"


def _short(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _shard_path(out: Path, name: str) -> Path:
    """Return the Parquet file of an input shard; the name is quoted, so it is never a path, and never too long."""
    quoted = quote(name, safe="", errors="surrogateescape")
    if len(quoted) > LONGEST_NAME:
        quoted = quoted[: LONGEST_NAME - 17] + "-" + hashlib.sha256(quoted.encode()).hexdigest()[:16]
    return out / "shards" / f"{quoted}.parquet"


class StageWriter:
    """Writes one stage's output folder; opening it again resumes what is there.

    Raises `ArtifactError` if the folder holds another run's output, or files that are not a stage output at all, or if
    another process is writing it: an unfinished folder is locked until it is finished, or the last writer of this
    process is gone. `parts` names sub-folders that are outputs of their own and may stand there already.
    """

    def __init__(
        self,
        out: Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        seed: int | None,
        parts: tuple[str, ...] = (),
    ) -> None:
        self.out, self.parts = out, parts
        described = {"format": FORMAT, "stage": stage, "config": config, "inputs": inputs, "seed": seed}
        self.run = json.loads(json.dumps(described))
        self._lock: FolderLock | None = None
        self._is_claimed()  # what is refused is left alone
        with writing(out / "run.json"):
            out.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = lock_folder(out)
            except (ArtifactError, OSError):
                if self.complete:  # nothing to write, so no matter who else is there, or that the place is read-only
                    return
                raise
        # Until then another process may have had it.
        if not self._is_claimed():
            write_json(out / "run.json", self.run)
        for part in (*out.glob(".*.part"), *out.glob("*/.*.part")):
            part.unlink(missing_ok=True)
        if self.complete:
            self._release()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock with this process."""
        return {**self.__dict__, "_lock": None}

    def _is_claimed(self) -> bool:
        """Whether the folder is this run's already, and not just free."""
        out = self.out
        if out.exists() and not out.is_dir():
            raise ArtifactError(f"--out {out} is a file; give a folder")
        existing = out / "run.json"
        if existing.exists():
            old = _read_object(existing)
            if old != self.run:
                raise ArtifactError(
                    f"--out {out} belongs to another run ({difference(old, self.run)}); choose another folder"
                )
            return True
        if out.exists() and any(e.name not in self.parts and not e.name.startswith(".") for e in out.iterdir()):
            raise ArtifactError(f"--out {out} holds files that are not a stillroom output; choose an empty folder")
        return False

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """After an error of the user's, give the folder up if nothing but `parts` was written.

        So the next run may have other options, and a wrong one leaves nothing behind.
        """
        try:
            yield
        except StillroomError:
            given_up = {entry.name for entry in self.out.iterdir()} <= {"run.json", LOCK_FILE, *self.parts}
            if given_up:
                (self.out / "run.json").unlink(missing_ok=True)
            self._release()
            if given_up:
                with suppress(OSError):
                    self.out.rmdir()
            raise
        except BaseException:
            self._release()
            raise

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished this output."""
        return (self.out / "manifest.json").exists()

    def shard_path(self, name: str) -> Path:
        """Return the Parquet file of an input shard; the name is quoted, so it is never a path."""
        return _shard_path(self.out, name)

    def has_shard(self, name: str) -> bool:
        """Whether this shard's output is already whole."""
        return self.shard_path(name).exists()

    def write_shard(self, name: str, table: pa.Table) -> None:
        """Write one shard's rows."""
        write_table(self.shard_path(name), table)

    def finish(self, summary: Mapping[str, Any], *, shards: list[str], timings: Mapping[str, Any]) -> None:
        """Write summary, environment and, last, the manifest with the digest of every shard file."""
        listed = {}
        for name in shards:
            path = self.shard_path(name)
            listed[name] = {
                "rows": pq.read_metadata(path).num_rows,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        write_json(self.out / "summary.json", summary)
        write_json(self.out / "environment.json", {"versions": versions(), "timings": timings})
        write_json(self.out / "manifest.json", {"format": FORMAT, "stage": self.run["stage"], "shards": listed})
        self._release()


@dataclass(frozen=True, kw_only=True)
class StageOutput:
    """A finished stage output, opened for reading by `open_stage`."""

    path: Path
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    shards: tuple[str, ...]

    def shard(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one shard's rows, all columns or the named ones."""
        path = _shard_path(self.path, name)
        try:
            return pq.read_table(path, columns=columns)
        except (pa.ArrowException, OSError) as error:
            again = f"delete {self.path} and run 'stillroom {self.run['stage']}' again"
            raise ArtifactError(f"{path} cannot be read ({' '.join(str(error).split())[:160]}); {again}") from None

    def for_workers(self) -> StageOutput:
        """Return a copy that can read shards, without what grows with their number: it is sent with every job."""
        return replace(self, run={"stage": self.run["stage"]}, summary={}, shards=())

    def tables(self, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Yield (shard name, rows) in the order of the names, one shard in memory at a time."""
        for name in self.shards:
            yield name, self.shard(name, columns)


def open_stage(path: Path, stage: str) -> StageOutput:
    """Open a finished output of `stage`; one that is absent, unfinished or of another stage is an `ArtifactError`."""
    if not (path / "run.json").exists():
        raise ArtifactError(f"{path} is not the output of 'stillroom {stage}': it has no run.json")
    run = _read_object(path / "run.json")
    if run.get("stage") != stage:
        raise ArtifactError(f"{path} is the output of 'stillroom {run.get('stage')}', not of 'stillroom {stage}'")
    if not (path / "manifest.json").exists():
        raise ArtifactError(f"{path} is unfinished: run 'stillroom {stage}' again to complete it")
    manifest, summary = _read_object(path / "manifest.json"), _read_object(path / "summary.json")
    if not isinstance(manifest.get("shards"), dict):
        raise ArtifactError(f"{path / 'manifest.json'} lists no shards; it is not a manifest that stillroom wrote")
    return StageOutput(path=path, run=run, summary=summary, shards=tuple(sorted(manifest["shards"])))
