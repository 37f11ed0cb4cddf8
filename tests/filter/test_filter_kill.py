"""A filter killed with SIGKILL at any moment, again and again, ends with the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from filter_runs import command, complaints, contents, environment, filter_in_a_process, pair, refusal, write_members
from PIL import Image

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

SHARDS, PAIRS = 16, 100
# Text rules and a rule over the whole set; then two rules over the whole set, and the kept pairs as new shards.
TEXT = {"preset": "complexity-only", "decode_images": "false", "max_identical_captions": 3}
WHOLE_SET = {"preset": "off", "near_duplicate_distance": 2, "max_identical_captions": 3, "pairs_per_shard": 50}
SUBJECTS = ("dog", "old woman", "child in a red coat", "cat", "fisherman", "card", "white horse")
ACTS = ("chases a ball", "near the harbour", "is reading a long letter", "on a wooden chair", "", "sells apples")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of pairs of which many have a caption or a picture in common."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    pictures = [noise(rng) for _ in range(SHARDS * PAIRS // 2)]
    for shard in range(SHARDS):
        captions = [f"A {rng.choice(SUBJECTS)} {rng.choice(ACTS)} {n % 150 or ''}" for n in range(PAIRS)]
        members = [pair(f"{n:03d}", caption, rng.choice(pictures)) for n, caption in enumerate(captions)]
        write_members(root / f"{shard:05d}.tar", sum(members, []))
    return root


def noise(rng):
    sink = BytesIO()
    Image.frombytes("L", (32, 32), rng.randbytes(32 * 32)).save(sink, "PNG")
    return sink.getvalue()


def children(parent):
    """The living processes that `parent` started: their numbers and command lines."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, above = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z":
                found[int(place.name)] = (place / "cmdline").read_bytes().decode()
        except OSError:
            continue  # it has ended meanwhile
    return found


def workers_of(process):
    return [number for number, line in children(process.pid).items() if "spawn_main" in line]


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition, seconds=30.0):
    """Wait for a condition; whether it came."""
    end = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return reached


@dataclass
class Killer:
    """Starts one run after the other on one folder and kills each at a moment of its own."""

    data: Path
    out: Path
    settings: dict
    workers: int
    rng: random.Random
    whole: dict
    seconds: float
    codes: list = field(default_factory=list)

    def start(self):
        arguments = command(self.data, self.out, "--write-shards", workers=self.workers, **self.settings)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            arguments, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def tables(self):
        """How many whole tables stand anywhere in the folder: what the moments are counted by."""
        names = [name for _, _, names in os.walk(self.out) for name in names]  # folders may go while it walks
        return sum(name.endswith(".parquet") and not name.startswith(".") for name in names)

    def moment(self, process, more, seconds):
        """Wait until a run has written so many tables more, and then a random part of some seconds."""
        tables = self.tables() + more
        until(lambda: self.tables() >= tables or process.poll() is not None)
        time.sleep(self.rng.uniform(0, seconds))

    def ended(self, process):
        """After a kill: none of its processes lives on, and nothing stands in the folder that is not whole."""
        output, errors = process.communicate(timeout=30)
        self.codes.append(process.returncode)
        assert "Traceback" not in errors, errors
        found = contents(self.out) if self.out.exists() else {}
        for name, data in found.items():
            if not any(part.startswith(".") for part in Path(name).parts):
                assert data == self.whole[name], name
        return output, errors

    def kill_all(self, more, seconds):
        """SIGKILL to the whole group, as a machine's end or a scheduler does it."""
        process = self.start()
        self.moment(process, more, seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        self.ended(process)

    def kill_parent(self, more, seconds):
        """SIGKILL to the command alone, as for too much memory: its workers must not stay behind."""
        process = self.start()
        self.moment(process, more, seconds)
        below = list(children(process.pid))
        process.kill()
        assert until(lambda: not any(map(alive, below)), 10), f"left behind: {below}"
        self.ended(process)
        return len(below)

    def kill_worker(self, seconds):
        """SIGKILL to one worker: the command says so in a line, and ends the others."""
        process = self.start()
        until(lambda: len(workers_of(process)) == self.workers or process.poll() is not None)
        below = workers_of(process)
        assert len(below) == self.workers
        time.sleep(self.rng.uniform(0, seconds))
        os.kill(self.rng.choice(below), signal.SIGKILL)
        output, errors = self.ended(process)
        line = refusal(subprocess.CompletedProcess([], process.returncode, output, errors))
        assert "a worker process died (killed, or out of memory); run again to go on" in line
        assert until(lambda: not any(map(alive, below)), 10)

    def finish(self):
        """Let a run end, with what older ones may have left; the bytes must be those of an undisturbed run."""
        for folder in (self.out, self.out / "shards"):
            folder.mkdir(exist_ok=True, parents=True)
            (folder / ".left.part").write_bytes(b"half a file")
        process = self.start()
        self.ended(process)
        assert self.codes[-1] == 0
        ours = contents(self.out)
        assert ours.keys() == self.whole.keys()
        assert [name for name in ours if ours[name] != self.whole[name]] == []
        assert not [name for name in ours if any(part.startswith(".") for part in Path(name).parts)]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A function that gives what a run with some settings leaves, and how many seconds it takes."""
    root = tmp_path_factory.mktemp("undisturbed")

    @cache
    def alone(preset):
        begin, settings = time.monotonic(), TEXT if preset == TEXT["preset"] else WHOLE_SET
        done = filter_in_a_process(data, root / preset, "--write-shards", workers=1, **settings)
        assert (done.returncode, complaints(done)) == (0, [])
        return contents(root / preset), time.monotonic() - begin

    return alone


@pytest.fixture
def killer(data, undisturbed, tmp_path):
    seed = random.SystemRandom().randrange(2**32)  # other moments each time; shown where a test fails

    def make(settings, workers):
        sys.stdout.write(f"seed {seed}\n")
        whole, seconds = undisturbed(settings["preset"])
        rng = random.Random(seed)
        return Killer(data, tmp_path / "out", settings, workers, rng, whole, seconds)

    return make


def test_killed_at_random_moments(killer):
    runs = killer(TEXT, 2)
    assert runs.kill_parent(1, 0.02) >= 2
    runs.workers = 1  # how many there are is no part of a run
    for more in (1, SHARDS // 4):
        runs.kill_all(more, 0.02)
    runs.kill_all(0, 0.9 * runs.seconds)  # anywhere, most likely while it loads
    runs.finish()
    assert runs.codes.count(-signal.SIGKILL) >= 2


def test_killed_while_the_whole_set_is_gone_through_and_kept_pairs_are_written(killer):
    runs = killer(WHOLE_SET, 2)
    runs.kill_worker(0.2)
    runs.workers = 1
    for more in (SHARDS, SHARDS // 2, SHARDS, SHARDS):
        runs.kill_all(more, 0.02)
    assert list((runs.out / "kept").glob("*.tar"))
    runs.finish()
    assert runs.codes.count(-signal.SIGKILL) >= 2
