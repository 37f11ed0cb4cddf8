"""The filter on a real Ray of this machine: equal files, errors as they were raised, nothing left running."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stillroom import ray_backend
from stillroom.errors import ConfigError, MissingDependencyError, StillroomError
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run
from stillroom.ray_backend import map_unordered_ray

ray = pytest.importorskip("ray")

CAPTIONS = ("A brown dog chases a red ball", "a green wooden chair", "Two children are playing in the garden", "  ")


def work(item):
    if item == "missing":
        raise MissingDependencyError("rapidocr", "ocr", "text spotting")
    if item == "bug":
        return {}["no such key"]
    if item == "dies":
        os._exit(1)
    return item, os.getpid(), [os.environ[name] for name in ray_backend.THREAD_VARIABLES]


@pytest.fixture(scope="module")
def local_ray():
    """A Ray that the module starts and ends, as it does for every call; its folder, of a short path."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="sr", dir="/tmp") as short:
        folder = Path(short) / "ray"
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ray_backend.tempfile, "mkdtemp", lambda **_: folder.mkdir() or str(folder))
        with ray_backend._connected(2):
            yield folder
        assert not ray.is_initialized()
        assert not folder.exists()
        assert not processes(folder)


def files(out):
    found = [path for path in out.rglob("*") if path.is_file() and path.name != "environment.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def processes(folder):
    """Command lines of Ray's processes for a folder; they all name it."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [command for command in commands if os.fsencode(folder) in command]


def test_the_filter_writes_the_files_that_it_writes_without_ray(tmp_path, shapes, make_tar, local_ray):
    for shard in range(3):
        members = [
            (f"{number:03d}.{extension}", data)
            for number, caption in enumerate(CAPTIONS * (shard + 1))
            for extension, data in (("png", shapes[number % 12].picture), ("txt", caption.encode()))
        ]
        make_tar(tmp_path / "data" / f"{shard:05d}.tar", members)
    (tmp_path / "data" / "00003.tar").write_bytes(b"no tar")
    config = {"preset": "off", "min_caption_chars": 25, "max_identical_captions": 3, "workers": 1}
    run(str(tmp_path / "data"), FilterConfig(**config), tmp_path / "local")
    summary = run(str(tmp_path / "data"), FilterConfig(**config, backend="ray"), tmp_path / "ray")
    assert (summary["pairs"], summary["kept"]) == (24, 6)
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_every_result_comes_once_from_processes_of_one_thread(local_ray):
    found = list(map_unordered_ray(work, list(range(20)), 2))
    assert sorted(item for item, _, _ in found) == list(range(20))
    assert os.getpid() not in {process for _, process, _ in found}
    assert all(threads == ["1", "1", "1"] for _, _, threads in found)


def test_errors_arrive_as_they_were_raised(local_ray):
    with pytest.raises(MissingDependencyError, match=r"text spotting needs the package 'rapidocr': pip install"):
        list(map_unordered_ray(work, ["x", "missing"], 2))
    with pytest.raises(KeyError, match="no such key") as caught:
        list(map_unordered_ray(work, ["bug", "x"], 2))
    assert "in work" in caught.value.__notes__[0]


def test_a_worker_that_dies_is_tried_again_and_then_said(local_ray, monkeypatch):
    monkeypatch.setattr(ray_backend, "RETRIES", 1)
    with pytest.raises(StillroomError, match=r"^a Ray worker died 2 times on one shard \(.*\); run again to go on"):
        list(map_unordered_ray(work, ["dies", "x"], 2))


def test_a_cluster_is_joined_and_goes_on_running(local_ray):
    script = "from stillroom.ray_backend import *; print(sorted(map_unordered_ray(abs, [-3, 2], 0)))"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[2, 3]"], done.stderr
    assert done.stderr == ""
    assert processes(local_ray)


def test_nothing_is_started_for_no_items(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert list(map_unordered_ray(work, [], 2)) == []
    with pytest.raises(MissingDependencyError, match=r"--backend ray needs the package 'ray'.*stillroom\[ray\]"):
        list(map_unordered_ray(work, [1], 2))


def test_an_address_where_no_cluster_is():
    with pytest.raises(ConfigError, match=r"^no Ray cluster at RAY_ADDRESS=127.0.0.1:1 \(.*refused\); unset it for a"):
        ray_backend._join("127.0.0.1:1")


def test_a_ray_that_does_not_start_is_tried_again_and_then_said(monkeypatch):
    failures = [OSError("timed out\nwith a page of talk"), RuntimeError("the GCS is overloaded")]
    tried = []

    def init(**options):
        tried.append(options["num_cpus"])
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    ray_backend._start(2, "folder")
    assert tried == [2, 2, 2]
    failures += [OSError("timed out\nwith a page of talk")] * ray_backend.START_ATTEMPTS
    with pytest.raises(StillroomError, match=r"^Ray does not start on this machine \(timed out\); [^\n]*$"):
        ray_backend._start(2, "folder")
