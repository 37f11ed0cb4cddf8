"""A run that is killed with SIGKILL at any moment, and resumed, ends with the bytes of one that was left alone."""

import multiprocessing
import os
import random
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
from train_miniature import config, write_tar

from stillroom.artifacts import write_bytes
from stillroom.errors import ArtifactError
from stillroom.train import checkpoints as checkpoints_module
from stillroom.train import loop
from stillroom.train.checkpoints import Checkpoints, order_digest
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
        checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [5, 12]
    newest = checkpoints.newest()
    assert (newest.step, newest.damaged) == (12, ())
    assert checkpoints.load(newest) == {"step": 12}
    write_bytes(checkpoints.path(12), b"half a file")
    with pytest.raises(ArtifactError, match="step-000000012.pt is not what the first rank reads there"):
        checkpoints.load(newest)
    newest = checkpoints.newest()
    assert (newest.step, newest.damaged) == (5, (12,))
    assert "step-000000012.pt is not a checkpoint that can be loaded safely" in caplog.text
    write_bytes(checkpoints.path(5), b"")
    with pytest.raises(ArtifactError, match="step-000000005.pt"):
        checkpoints.newest()


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_take_no_place_of_whole_ones(tmp_path, keep):
    before = Checkpoints(tmp_path, keep=9)
    for step in (3, 6, 9, 12):
        before.save(step, {"step": step})
    for step in (9, 12):
        write_bytes(before.path(step), b"half a file")
    newest = before.newest()
    resumed = Checkpoints(tmp_path, keep=keep, damaged=newest.damaged)
    assert resumed.steps() == [3, 6, 9, 12]  # nothing goes before there is something newer
    resumed.save(7, {"step": 7})
    assert resumed.steps() == [6, 7][-keep:]
    resumed.save(12, {"step": 12})
    assert resumed.steps() == [7, 12][-keep:]
    assert resumed.load(resumed.newest()) == {"step": 12}


def test_a_damaged_checkpoint_is_written_again_under_its_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, damaged=(4,))
    checkpoints.save(4, {"step": 4})
    assert checkpoints.load(checkpoints.newest()) == {"step": 4}


def test_the_order_is_that_of_names_and_counts():
    digests = [order_digest(*given) for given in ((["a", "b"], (1, 2)), (["b", "a"], (1, 2)), (["a", "b"], (2, 1)))]
    assert len(set(digests)) == 3
    assert order_digest(["a", "b"], [1, 2]) == digests[0]


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    checkpoints = Checkpoints(tmp_path, keep=1)
    torch.save({"state_dict": Evil()}, checkpoints.path(1))
    with pytest.raises(ArtifactError, match="cannot be loaded safely|loaded safely"):
        checkpoints.newest()
    assert not (tmp_path / "owned").exists()


def unfinished(out):
    """Make a finished run one that was killed before its last file."""
    (out / "manifest.json").unlink()
    (out / "slots.json").unlink(missing_ok=True)


def test_other_data_is_refused_by_its_size_before_any_checkpoint_is_read(data, tmp_path, monkeypatch):
    pairs = tmp_path / "pairs.tar"
    pairs.write_bytes(Path(data).read_bytes())
    short = config(**{**CHANGES, "samples": 16})
    run(str(pairs), short, tmp_path / "out")
    unfinished(tmp_path / "out")
    write_tar(pairs, 60)
    monkeypatch.setattr(Checkpoints, "newest", None)
    with pytest.raises(ArtifactError, match=r'another run .inputs\.contents\..* bytes" there, .* bytes" asked for'):
        run(str(pairs), short, tmp_path / "out", resume=True)


def test_a_checkpoint_of_other_data_is_refused_where_its_size_is_not_known(data, tmp_path):
    pairs = tmp_path / "pairs.tar"
    pairs.write_bytes(Path(data).read_bytes())
    short = config(**{**CHANGES, "samples": 16})
    run(f"file://{pairs}", short, tmp_path / "out")
    unfinished(tmp_path / "out")
    write_tar(pairs, 60)
    with pytest.raises(ArtifactError, match="had 47 usable pairs, DATA now has 59"):
        run(f"file://{pairs}", short, tmp_path / "out", resume=True)


def test_a_checkpoint_of_as_many_pairs_in_another_order_is_refused(tmp_path):
    first, second = (write_tar(tmp_path / name, count) for name, count in (("0.tar", 30), ("1.tar", 40)))
    places = f"file://{first}::file://{second}"
    short = config(**{**CHANGES, "samples": 16})
    run(places, short, tmp_path / "out")
    unfinished(tmp_path / "out")
    first.rename(tmp_path / "kept.tar")
    second.rename(first)
    (tmp_path / "kept.tar").rename(second)
    with pytest.raises(ArtifactError, match="had other shards, or the same in another order"):
        run(places, short, tmp_path / "out", resume=True)


def test_a_checkpoint_is_not_held_while_training_goes_on(data, tmp_path, monkeypatch):
    short = config(**{**CHANGES, "samples": 32, "checkpoint_samples": 16, "keep_checkpoints": 9})
    run(data, short, tmp_path / "out")
    unfinished(tmp_path / "out")
    (tmp_path / "out" / "checkpoints" / "step-000000004.pt").unlink()
    load, loaded, held = checkpoints_module.load_checkpoint, [], []

    def noted(path):
        state = load(path)
        loaded.extend(weakref.ref(tensor) for tensor in state["state_dict"].values())
        return state

    step = loop.Trainer.step

    def checked(self, *given):
        held.append(sum(tensor() is not None for tensor in loaded))
        return step(self, *given)

    monkeypatch.setattr(checkpoints_module, "load_checkpoint", noted)
    monkeypatch.setattr(loop.Trainer, "step", checked)
    run(data, short, tmp_path / "out", resume=True)
    assert len(loaded) > 10
    assert held == [0, 0]
