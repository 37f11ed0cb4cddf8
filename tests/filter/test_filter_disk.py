"""Output folders that cannot be written to: a disk that fills up, a folder without permission, a file in its place."""

import ctypes
import functools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from io import BytesIO

import pytest
from filter_runs import (
    DOG,
    command,
    complaints,
    contents,
    environment,
    filter_in_a_process,
    pair,
    refusal,
    write_members,
)
from PIL import Image

from stillroom.filter.identical import ENTRY

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def picture():
    sink = BytesIO()
    Image.new("RGB", (14, 12), "navy").save(sink, "PNG")
    return sink.getvalue()


def _without_privileges():
    """Before a program starts: give up root's right to open what permissions forbid."""
    if os.getuid() == 0:
        for capability in (1, 2):  # DAC_OVERRIDE and DAC_READ_SEARCH
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0


@needs_linux
def test_a_shard_or_an_output_folder_without_permission(tmp_path, picture):
    data = tmp_path / "data"
    for number in range(2):
        write_members(data / f"{number}.tar", pair("a", DOG, picture))
    (data / "0.tar").chmod(0)
    done = filter_in_a_process(data, tmp_path / "out", preexec_fn=_without_privileges, preset="off", workers=1)
    assert (done.returncode, complaints(done)) == (0, [])
    (fault,) = json.loads((tmp_path / "out" / "summary.json").read_text())["faults"]["listed"]
    assert (fault["shard"], fault["key"], fault["reason"]) == ("data-0", "", "shard_unreadable")
    assert "Permission denied" in fault["detail"]
    (tmp_path / "locked").mkdir(mode=0o555)
    for out in (tmp_path / "locked", tmp_path / "locked" / "out"):
        done = filter_in_a_process(data, out, preexec_fn=_without_privileges, preset="off", workers=1)
        assert f"cannot write {out}/run.json: Permission denied; make the folder writable" in refusal(done)
    assert not list((tmp_path / "locked").iterdir())


def test_an_output_folder_that_cannot_be_one(tmp_path, picture):
    write_members(tmp_path / "x.tar", pair("a", DOG, picture))
    before = contents(tmp_path)
    for out, said in (
        (tmp_path / "x.tar", "is a file; give a folder"),
        (tmp_path / "x.tar" / "out", "Not a directory"),
    ):
        assert said in refusal(filter_in_a_process(tmp_path / "x.tar", out, preset="off", workers=1))
    assert contents(tmp_path) == before


ENTRIES = ENTRY.itemsize * 600  # bytes that the cap on identical captions writes for 600 pairs with one caption


@pytest.fixture(scope="module")
def thousands(tmp_path_factory, picture):
    """Thirty shards of 100 pairs, 600 of all with one caption, and what a run that nothing disturbs makes of them.

    The verdicts on a shard take less room than the list of captions, and this less than the list of kept pairs.
    """
    root = tmp_path_factory.mktemp("thousands")
    for shard in range(30):
        names = [f"{shard}-{n * 7919 % 9973:04d}" for n in range(100)]
        members = [pair(name, DOG if n < 20 else f"a dog {name}", picture) for n, name in enumerate(names)]
        write_members(root / "data" / f"{shard:05d}.tar", sum(members, []))
    settings = {"preset": "off", "decode_images": "false", "max_identical_captions": 10_000, "workers": 1}
    done = filter_in_a_process(root / "data", root / "whole", **settings)
    assert done.returncode == 0, done.stderr
    return root / "data", settings, contents(root / "whole")


def no_half_file(out, whole):
    """Nothing stands under a final name but what a whole run writes there, and no temporary file is left."""
    found = contents(out) if out.exists() else {}
    shown = {name: data for name, data in found.items() if not name.startswith(".") and data is not None}
    assert shown.items() <= whole.items()
    assert not [name for name in found if name.endswith(".part")]


def _limit(size):
    """Before a program starts: no file may grow beyond these bytes, as on a disk that is nearly full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@needs_linux
def test_a_full_disk_is_said_and_a_rerun_goes_on_to_the_same_bytes(thousands, tmp_path):
    data, settings, whole = thousands
    out = tmp_path / "out"
    shard = max(len(content) for name, content in whole.items() if name.startswith("shards/"))
    kept = len(whole["kept.parquet"])
    assert shard < ENTRIES < kept
    places = {
        1_000: r"run\.json",
        shard // 2: r"data-\d+\.parquet",
        ENTRIES - 1: r"caption_frequency",
        kept - 1: r"kept\.parquet",
    }
    for size, place in places.items():
        done = filter_in_a_process(data, out, preexec_fn=functools.partial(_limit, size), **settings)
        said = rf"stillroom: cannot write {re.escape(str(out))}/(\S+/)?{place}: .+; make room there and run the same"
        assert re.match(said, refusal(done)), (size, done.stderr)
        no_half_file(out, whole)
    assert filter_in_a_process(data, out, **settings).returncode == 0
    assert contents(out) == whole


IN_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=160k none "$1"
shift
set +e
"$@"
test $? = 2 || exit 3
mount -o remount,size=16m none "$OUT" || exit 4
cp -r "$OUT" "$COPY/half" || exit 5
"$@" || exit 6
cp -r "$OUT" "$COPY/finished"
"""


@needs_linux
def test_a_disk_that_is_full(thousands, tmp_path):
    """The real thing, where a user may mount one."""
    data, settings, whole = thousands
    out = tmp_path / "disk"
    out.mkdir()
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", out], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    script = ["unshare", "-rm", "sh", "-c", IN_A_SMALL_DISK, "sh", out, *command(data, out, **settings)]
    places = {**environment(), "OUT": str(out), "COPY": str(tmp_path)}
    done = subprocess.run(script, env=places, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    (line,) = complaints(done)
    assert re.match(rf"stillroom: cannot write {out}/\S+: No space left on device; make room there and run", line)
    no_half_file(tmp_path / "half", whole)
    assert contents(tmp_path / "finished") == whole
