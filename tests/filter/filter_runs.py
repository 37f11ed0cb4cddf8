"""Runs of `stillroom filter` as its users start them, in a process of their own, and what they leave behind."""

import os
import re
import subprocess
import sys
import tarfile
from io import BytesIO

import pyarrow.parquet as pq

PROGRESS = re.compile(r"(filter|write kept pairs)  [\d,]+")
DOG = "A brown dog chases a red ball"
FISH = "A man is holding a big fish"


def write_members(path, members, *, tar_format=tarfile.PAX_FORMAT):
    """Write a tar of (name or TarInfo, bytes) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, BytesIO(data))


def pair(key, caption, picture):
    return [(f"{key}.png", picture), (f"{key}.txt", caption.encode())]


def command(data, out, *options, **settings):
    """The command line; settings go to --set."""
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-B", "-m", "stillroom", "filter", str(data), "--out", str(out), *options, *chosen]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def filter_in_a_process(data, out, *options, preexec_fn=None, **settings):
    """Run to the end; the process with its output as text."""
    return subprocess.run(
        command(data, out, *options, **settings),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=preexec_fn,
        check=False,
    )


def complaints(process):
    """The lines on standard error, without those that tell how far a slow machine has come."""
    return [line for line in process.stderr.splitlines() if not PROGRESS.match(line)]


def refusal(process):
    """The one line of a run that ended with an error the user can mend."""
    assert process.returncode == 2, process.stderr
    (line,) = complaints(process)
    assert line.startswith("stillroom: ")
    assert not process.stdout
    return line


def contents(folder):
    """All files and folders that two equal runs share byte for byte: everything but environment.json."""
    found = [path for path in folder.rglob("*") if path.name != "environment.json"]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def rows(out, shard):
    """The verdicts on a shard in order."""
    return pq.read_table(out / "shards" / f"{shard}.parquet").to_pylist()
