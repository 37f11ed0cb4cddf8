"""Scores on the way: the best model is the one that scored; neither a failed scoring nor a kill costs anything."""

import json

import pytest
import torch
from train_miniature import config, equal, weights, write_tar

from stillroom import load_model
from stillroom.errors import ArtifactError, DataError
from stillroom.train.logs import SCORES, RunLog
from stillroom.train.run import run
from stillroom.train.scores import best_mean

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = {"evaluation": {"tasks": ("x",), "every_samples": 24}, "checkpoint_samples": 24, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar"))


class Given:
    """A scorer whose answers are given; an exception among them is raised."""

    def __init__(self, *answers):
        self.answers, self.models = list(answers), []

    def check(self):
        pass

    def __call__(self, loaded):
        self.models.append({name: tensor.clone() for name, tensor in loaded[0].state_dict().items()})
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, dict) else {"a/acc1": answer}


class ByWeights(Given):
    """A scorer whose answer depends on the weights alone."""

    def __call__(self, loaded):
        total = sum(float(tensor.double().abs().sum()) for tensor in loaded[0].state_dict().values())
        return {"a/acc1": total * 1e4 % 1}


def rows(out):
    return [json.loads(line) for line in (out / SCORES).read_text().splitlines()]


def load(out, name):
    return torch.load(out / "checkpoints" / name, weights_only=True)


@pytest.mark.parametrize("export", [True, False])
def test_the_best_checkpoint_is_the_model_that_was_scored(data, tmp_path, export):
    scorer = Given(0.2, 0.6, 0.4, 0.5)
    run(data, config(**EVERY, ema={"decay": 0.5, "export": export}), tmp_path / "a", scorer=scorer)
    best, state = load(tmp_path / "a", "best.pt"), load(tmp_path / "a", "step-000000006.pt")
    assert equal(best["state_dict"], scorer.models[1])
    model, _, _ = load_model(str(tmp_path / "a" / "checkpoints" / "best.pt"))
    assert equal(model.state_dict(), scorer.models[1])
    average = {name.removeprefix("model."): tensor for name, tensor in state["average"].items()}
    assert equal(best["state_dict"], average if export else state["state_dict"])
    assert not equal(average, state["state_dict"])
    assert (best["step"], best["scores"]) == (6, {"a/acc1": 0.6})
    assert {"epoch", "name"} <= best.keys()
    assert "optimizer" not in best  # it is not gone on from


@pytest.mark.parametrize(
    "error", [DataError("the data\nis gone"), RuntimeError("out of memory"), OSError(5, "no disk")]
)
def test_a_scoring_that_fails_is_a_warning_and_training_goes_on(data, tmp_path, caplog, error):
    summary = run(data, config(**EVERY), tmp_path / "a", scorer=Given(0.2, error, 0.1, 0.3))
    assert summary["steps"] == 12
    run(data, config(**EVERY), tmp_path / "plain")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "plain"))
    assert [(row["step"], row["mean"]) for row in rows(tmp_path / "a")] == [(3, 0.2), (6, None), (9, 0.1), (12, 0.3)]
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("step 6: could not be scored, training goes on: ")
    assert "\n" not in told
    assert load(tmp_path / "a", "best.pt")["step"] == 12


def test_a_checkpoint_that_is_due_is_written_before_the_model_is_scored(data, tmp_path):
    seen = []

    class Looking(Given):
        def __call__(self, loaded):
            seen.append(sorted(path.name for path in (tmp_path / "a" / "checkpoints").glob("step-*")))
            return super().__call__(loaded)

    run(data, config(**EVERY), tmp_path / "a", scorer=Looking(0.1, 0.2, 0.3, 0.4))
    assert [names[-1] for names in seen] == [f"step-{step:09d}.pt" for step in (3, 6, 9, 12)]


def test_means_of_other_tasks_do_not_compare(data, tmp_path):
    both, first = {"a/acc1": 0.2, "b/acc1": 0.4}, {"a/acc1": 0.9, "b/acc1": None}
    not_finite, later = {"a/acc1": 0.9, "b/acc1": float("nan")}, {"a/acc1": 0.3, "b/acc1": 0.4}
    run(data, config(**EVERY), tmp_path / "a", scorer=Given(both, first, not_finite, later))
    assert [row["mean"] for row in rows(tmp_path / "a")] == [pytest.approx(0.3), None, None, pytest.approx(0.35)]
    assert rows(tmp_path / "a")[2]["b/acc1"] is None
    assert load(tmp_path / "a", "best.pt")["step"] == 12
    found = [
        {"step": 1, "mean": 0.9, "a": 0.9},
        {"step": 2, "mean": 0.5, "a": 0.4, "b": 0.6},
        {"step": 3, "mean": None},
    ]
    assert best_mean(found, {"a": 0, "b": 0}.keys()) == 0.5
    assert best_mean(found, {"a": 0}.keys()) == 0.9
    assert best_mean(found, {"c": 0}.keys()) == best_mean(found, ()) == float("-inf")


@pytest.mark.parametrize("when", ["before the scores", "between the best model and its row", "after the row"])
@pytest.mark.parametrize("step", [3, 12])
def test_a_kill_around_a_scoring_changes_nothing(data, tmp_path, monkeypatch, when, step):
    run(data, config(**EVERY), tmp_path / "alone", scorer=ByWeights())
    best = load(tmp_path / "alone", "best.pt")
    write, call = RunLog.write, ByWeights.__call__

    def dying_write(self, name, row):
        if name == SCORES and row["step"] == step:
            if when == "after the row":
                write(self, name, row)
            raise KeyboardInterrupt
        write(self, name, row)

    calls = []

    def dying_call(self, loaded):
        calls.append(loaded)
        if len(calls) == -(-step // 3):
            raise KeyboardInterrupt
        return call(self, loaded)

    with monkeypatch.context() as patched:
        if when == "before the scores":
            patched.setattr(ByWeights, "__call__", dying_call)
        else:
            patched.setattr(RunLog, "write", dying_write)
        with pytest.raises(KeyboardInterrupt):
            run(data, config(**EVERY), tmp_path / "killed", scorer=ByWeights())
    run(data, config(**EVERY), tmp_path / "killed", resume=True, scorer=ByWeights())
    assert (tmp_path / "killed" / SCORES).read_bytes() == (tmp_path / "alone" / SCORES).read_bytes()
    again = load(tmp_path / "killed", "best.pt")
    assert equal(again["state_dict"], best["state_dict"])
    assert again["step"] == best["step"]
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "alone"))


def test_what_is_scored_may_change_on_the_way(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(data, config(**EVERY), tmp_path / "a", scorer=Given(0.9, KeyboardInterrupt()))
    other = {**EVERY, "evaluation": {"tasks": ("y",), "every_samples": 24}}
    run(
        data,
        config(**other),
        tmp_path / "a",
        resume=True,
        scorer=Given({"b/acc1": 0.2}, {"b/acc1": 0.1}, {"b/acc1": 0.0}),
    )
    assert [row["mean"] for row in rows(tmp_path / "a")] == [0.9, 0.2, 0.1, 0.0]
    assert load(tmp_path / "a", "best.pt")["step"] == 6


def test_what_cannot_be_scored_is_told_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr("stillroom.train.run._train", None)
    scorer = Given()
    scorer.check = lambda: (_ for _ in ()).throw(DataError("no data"))
    with pytest.raises(DataError, match="no data"):
        run(data, config(**EVERY), tmp_path / "a", scorer=scorer)
    assert not (tmp_path / "a").exists()


def test_a_finished_run_needs_no_tasks(data, tmp_path):
    summary = run(data, config(), tmp_path / "a")
    scorer = Given()
    scorer.check = None
    assert run(data, config(), tmp_path / "a", scorer=scorer) == summary
    with pytest.raises(ArtifactError, match="another run"):
        run(data, config(seed=1), tmp_path / "a", scorer=scorer)
