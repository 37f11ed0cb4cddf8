"""Two processes never write into one folder, and a process that is gone holds nothing."""

import errno
import fcntl
import gc
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from stillroom.artifacts import StageWriter
from stillroom.errors import ArtifactError, ConfigError, StillroomError


def writer(out, **options):
    return StageWriter(out, stage="train", config={}, inputs={}, seed=0, **options)


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from stillroom.artifacts import StageWriter
    from stillroom.errors import ArtifactError
    try:
        writer = StageWriter(Path(sys.argv[1]), stage="train", config={}, inputs={}, seed=0)
    except ArtifactError as error:
        print(error, flush=True)
    else:
        print("complete" if writer.complete else "open", flush=True)
        sys.stdin.read()
    """
)


class Other:
    """A process that opens a writer of the same run, and holds it until it is ended."""

    def __init__(self, out, **environment):
        environment = {**{key: v for key, v in os.environ.items() if key != "WORLD_SIZE"}, **environment}
        command = [sys.executable, "-c", SCRIPT, str(out)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    out = tmp_path / "out"
    with Other(out) as first:
        assert first.said == "open"
        part = out / ".half.part"
        part.write_bytes(b"being written")
        with pytest.raises(
            ArtifactError, match=rf"^--out .*out is being written by process {first.process.pid} on .*$"
        ):
            writer(out)
        assert part.exists()
        with Other(out, SLURM_STEP_NUM_TASKS="8") as second:
            assert "is being written by process" in second.said
            assert "srun has started 8 processes; several train together under torchrun only" in second.said
    writer(out)
    assert not part.exists()


def test_one_process_may_open_a_folder_again_and_frees_it_when_it_is_finished(tmp_path):
    first = writer(tmp_path / "out")
    second = writer(tmp_path / "out")
    del first
    gc.collect()
    with Other(tmp_path / "out") as other:
        assert "is being written by" in other.said
    second.finish({}, shards=[], timings={})
    assert not (tmp_path / "out" / ".lock").exists()
    with Other(tmp_path / "out") as other:
        assert other.said == "complete"
        assert writer(tmp_path / "out").complete


def test_a_writer_that_is_dropped_or_ends_in_an_error_frees_its_folder(tmp_path):
    held = writer(tmp_path / "a")
    del held
    gc.collect()
    assert not (tmp_path / "a" / ".lock").exists()
    held = writer(tmp_path / "b")
    (tmp_path / "b" / "faults.json").write_text("[]")
    for error in (ConfigError("no"), KeyboardInterrupt()):
        held = writer(tmp_path / "b")
        with pytest.raises(type(error)), held.released_on_error():
            raise error
        with Other(tmp_path / "b") as other:
            assert other.said == "open"
    held = writer(tmp_path / "c")
    with pytest.raises(StillroomError), held.released_on_error():
        raise StillroomError("no")
    assert not (tmp_path / "c").exists()


def test_a_copy_for_another_rank_holds_nothing(tmp_path):
    held = writer(tmp_path / "out")
    copy = pickle.loads(pickle.dumps(held))
    assert copy.out == held.out
    del copy
    gc.collect()
    with Other(tmp_path / "out") as other:
        assert "is being written by" in other.said


def test_a_fork_that_ends_leaves_the_lock_with_its_parent(tmp_path):
    held = writer(tmp_path / "out")
    child = os.fork()
    if child == 0:
        held._release()
        os._exit(0)
    os.waitpid(child, 0)
    with Other(tmp_path / "out") as other:
        assert "is being written by" in other.said


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = writer(tmp_path / "out")
    assert "cannot be locked (No locks available)" in caplog.text
    held.finish({}, shards=[], timings={})
    assert not (tmp_path / "out" / ".lock").exists()
