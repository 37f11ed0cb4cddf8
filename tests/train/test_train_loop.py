"""What the training loop does when a gradient is not finite, and when no picture of a step can be read."""

import json
from pathlib import Path

import pytest
import torch
from train_miniature import config, equal, weights, write_tar

from stillroom.errors import DataError, StillroomError
from stillroom.train import loop, sources
from stillroom.train.gradients import Gradients
from stillroom.train.run import run
from stillroom.train.stream import ShardStream

pytestmark = pytest.mark.usefixtures("one_thread")
# Eight pairs of one shard after the other: whole steps have none.
ONE_LANE = {"stream": {"lanes": 1, "shuffle": 16}, "samples": 96, "workers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar"))


@pytest.fixture(scope="module")
def half_broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    write_tar(folder / "00000.tar")
    write_tar(folder / "00001.tar", broken=range(48))
    return str(folder)


@pytest.fixture
def streamed(monkeypatch):
    """A config whose pictures are streamed, without the seconds that a worker process takes to start."""
    monkeypatch.setattr(sources, "ShardStream", lambda **given: ShardStream(**{**given, "workers": 0}))
    return {"pixel_cache_mb": 0}


def strict_rows(out, name="metrics.jsonl"):
    def refuse(constant):
        raise AssertionError(constant)

    return [json.loads(line, parse_constant=refuse) for line in (out / name).read_text().splitlines()]


def overflow(monkeypatch, *, first, last):
    """Let one entry of a gradient be infinite from the first-th step to the last-th, 1-based; losses stay finite."""
    backward, calls = Gradients.backward, []

    def overflowing(self, batch):
        terms = backward(self, batch)
        calls.append(terms)
        if first <= len(calls) <= last:
            next(p for p in self.student.parameters() if p.ndim > 1).grad[0, 0] = float("inf")
        return terms

    monkeypatch.setattr(Gradients, "backward", overflowing)
    return calls


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(data, tmp_path, monkeypatch):
    overflow(monkeypatch, first=6, last=6)
    with pytest.raises(
        StillroomError, match=r"the gradient is not finite at step 5 \(.*grad_norm inf\); the last check"
    ):
        run(data, config(checkpoint_samples=8), tmp_path / "a")
    (path,) = (tmp_path / "a" / "checkpoints").glob("step-*.pt")
    state = torch.load(path, weights_only=True)
    assert state["step"] == 5
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    assert json.loads((tmp_path / "a" / "not_finite.json").read_text())["step"] == 5


def test_a_scaler_leaves_out_a_step_beyond_float16_and_the_log_says_null(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    overflow(monkeypatch, first=12, last=12)
    run(data, config(precision="fp16", tensorboard=True), tmp_path / "a")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "a").values())
    (row,) = strict_rows(tmp_path / "a")
    assert (row["step"], row["grad_norm"]) == (12, None)


def test_gradients_that_no_factor_makes_finite_stop_a_run_in_float16(data, tmp_path, monkeypatch):
    calls = overflow(monkeypatch, first=1, last=999)
    with pytest.raises(StillroomError, match="the gradient is not finite at step 17 "):
        run(data, config(precision="fp16", samples=240), tmp_path / "a")
    assert len(calls) == 18  # 2^16 halved seventeen times is below 1


def test_steps_without_a_pair_are_left_out_counted_and_told(half_broken, tmp_path, caplog, streamed):
    changes = {**ONE_LANE, "ema": {"decay": 0.9}, "checkpoint_samples": 8, "keep_checkpoints": 99}
    with caplog.at_level("WARNING", logger="stillroom"):
        summary = run(half_broken, config(**changes), tmp_path / "memory")
    assert summary["steps"] == 12
    empty = summary["empty_steps"]
    assert 4 <= empty <= 6
    states = [torch.load(path, weights_only=True) for path in sorted(Path(tmp_path / "memory/checkpoints").iterdir())]
    assert [state["step"] for state in states] == list(range(1, 13))
    counted = [state["empty_steps"] for state in states]
    skipped = [place for place in range(1, 12) if counted[place] > counted[place - 1]]
    assert len(skipped) >= 3
    for place in skipped:
        before, after = states[place - 1], states[place]
        assert equal(before["state_dict"], after["state_dict"])
        assert not equal(before["average"], after["average"])
    assert "has no pair whose picture can be read" in caplog.text
    assert f"{empty} of 12 steps had no pair" in caplog.text
    run(half_broken, config(**changes, **streamed), tmp_path / "stream")
    assert equal(weights(tmp_path / "memory"), weights(tmp_path / "stream"))
    assert strict_rows(tmp_path / "memory") == strict_rows(tmp_path / "stream")
    assert json.loads((tmp_path / "stream/summary.json").read_text()) == summary


def test_empty_steps_are_counted_on_after_a_kill(half_broken, tmp_path, monkeypatch):
    summary = run(half_broken, config(**ONE_LANE), tmp_path / "whole")
    step = loop.Trainer.step

    def dying(self, number, *batch):
        if number == 10:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(half_broken, config(**ONE_LANE), tmp_path / "killed")
    monkeypatch.setattr(loop.Trainer, "step", step)
    assert run(half_broken, config(**ONE_LANE), tmp_path / "killed", resume=True) == summary
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_run_without_a_single_pair_ends_in_one_line(tmp_path, streamed):
    write_tar(tmp_path / "00000.tar", broken=range(48))
    for resume in (False, True):
        with pytest.raises(DataError, match="none of the 12 steps had a pair .*, so nothing was learned") as caught:
            run(str(tmp_path / "00000.tar"), config(**streamed), tmp_path / "out", resume=resume)
        assert "\n" not in str(caught.value)
    listed = [row["key"] for row in strict_rows(tmp_path / "out", "faults-rank0.jsonl")]
    assert set(listed) == {f"{index:05d}" for index in range(48)}
