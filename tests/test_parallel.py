"""Many shards in several processes: every result once, errors as they were raised."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillroom.errors import MissingDependencyError, StillroomError
from stillroom.parallel import available_cores, map_unordered


def work(item):
    if item == "missing":
        raise MissingDependencyError("rapidocr", "ocr", "text spotting")
    if item == "dies":
        os._exit(1)
    return item, os.getpid()


def test_one_worker_stays_in_the_process_and_in_order():
    for items, workers in ((range(5), 1), (range(5), 0), (["only"], 8), ([], 8)):
        found = list(map_unordered(work, items, workers))
        assert found == [(item, os.getpid()) for item in items]


def test_several_workers_give_every_result_once():
    found = list(map_unordered(work, list(range(20)), 2))
    assert sorted(item for item, _ in found) == list(range(20))
    assert os.getpid() not in {process for _, process in found}


def test_a_users_error_in_a_worker_arrives_as_it_is():
    with pytest.raises(MissingDependencyError, match=r"text spotting needs the package 'rapidocr': pip install"):
        list(map_unordered(work, ["missing", "x"], 2))


def test_a_worker_that_dies_is_said():
    with pytest.raises(StillroomError, match="a worker process died"):
        list(map_unordered(work, ["dies", "x"], 2))


SLEEPER = """
import os, sys, time
from pathlib import Path
from stillroom.parallel import map_unordered

def work(seconds):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(seconds)

if __name__ == "__main__":
    list(map_unordered(work, [99, 0, 0], 2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_busy_or_idle_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "workers").mkdir()

    def living(number):
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def until(condition):
        end = time.monotonic() + 20
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        return condition()

    arguments = [sys.executable, tmp_path / "sleeper.py", tmp_path / "workers"]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        begun = until(lambda: len(list((tmp_path / "workers").iterdir())) == 2)
        workers = [int(path.name) for path in (tmp_path / "workers").iterdir()]
        before = [living(number) for number in workers]
        process.kill()
    assert begun
    assert before == [True, True]
    assert until(lambda: not any(map(living, workers)))


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(MissingDependencyError("a", "b", "c")))
    assert str(error) == str(MissingDependencyError("a", "b", "c"))


def test_available_cores():
    assert 1 <= available_cores() <= os.cpu_count()
