"""A run that is killed with SIGKILL at any moment, and resumed, ends with the bytes of one that was left alone."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from train_miniature import config, write_tar

from stillroom.artifacts import write_bytes
from stillroom.errors import ArtifactError
from stillroom.train.checkpoints import Checkpoints
from stillroom.train.run import run

CHANGES = {
    "samples": 400,
    "checkpoint_samples": 8,
    "keep_checkpoints": 2,
    "ema": {"decay": 0.9, "export": True},
    "loss": {"concept_weight": 0.0, "soft_labels": {"weight": 0.3}},
    "workers": 1,
}
# Timings and versions, and what is deleted at the end or of the last process only.
APART = ("environment.json", "speed.jsonl", "checkpoints")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar"))


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in APART)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _child(data, out):
    torch.set_num_threads(1)
    run(data, config(**CHANGES), out, resume=True)


def in_a_process(data, out, *, kill_after=None):
    """Run to the end, or to a SIGKILL after some seconds; return the exit code."""
    # Forked, so that a restart takes a tenth of a second; the parent has run nothing on torch's threads.
    process = multiprocessing.get_context("fork").Process(target=_child, args=(data, out))
    process.start()
    if kill_after is not None:
        process.join(kill_after)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join(120)
    return process.exitcode


def test_killed_at_random_moments_and_resumed(data, tmp_path):
    torch.set_num_threads(1)
    begin = time.monotonic()
    assert in_a_process(data, tmp_path / "alone") == 0
    seconds = time.monotonic() - begin
    seed = random.SystemRandom().randrange(2**32)  # another moment each time; printed where the test fails
    rng, codes = random.Random(seed), []
    for _ in range(5):
        codes.append(in_a_process(data, tmp_path / "killed", kill_after=rng.uniform(0.1, 0.7) * seconds))
    codes.append(in_a_process(data, tmp_path / "killed"))
    assert codes[-1] == 0
    assert -signal.SIGKILL in codes, (seed, codes)
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "alone")
    assert ours.keys() == theirs.keys(), (seed, codes)
    assert [name for name in ours if ours[name] != theirs[name]] == [], (seed, codes)
    names = [sorted(path.name for path in (tmp_path / out / "checkpoints").iterdir()) for out in ("killed", "alone")]
    assert names[0] == names[1] == ["step-000000049.pt", "step-000000050.pt"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest() is None
    for step in (3, 5, 12):
        checkpoints.save(step, {"step": step}, best=step == 5)
    assert checkpoints.steps() == [5, 12]
    assert checkpoints.newest() == {"step": 12}
    write_bytes(checkpoints.path(12), b"half a file")
    assert checkpoints.newest() == {"step": 5}
    assert "step-000000012.pt is not a checkpoint that can be loaded safely" in caplog.text
    write_bytes(checkpoints.path(5), b"")
    with pytest.raises(ArtifactError, match="step-000000005.pt"):
        checkpoints.newest()
    assert torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True) == {"step": 5}


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    checkpoints = Checkpoints(tmp_path, keep=1)
    torch.save({"state_dict": Evil()}, checkpoints.path(1))
    with pytest.raises(ArtifactError, match="cannot be loaded safely|loaded safely"):
        checkpoints.newest()
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_other_data_is_refused(data, tmp_path):
    short = config(**{**CHANGES, "samples": 16})
    run(data, short, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    write_tar(tmp_path / "more.tar", 60)
    os.replace(tmp_path / "more.tar", data)
    with pytest.raises(ArtifactError, match="had 47 usable pairs, DATA now has 59"):
        run(data, short, tmp_path / "out", resume=True)
