"""What a recipe can ask for beyond the plain run: locked towers, scores, logs, checkpoints by the clock, estimates."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_miniature import MODEL, config, equal, weights, write_tar

from stillroom import load_model
from stillroom.cli import main
from stillroom.errors import ConfigError, DataError, StillroomError
from stillroom.evaluate.during_training import make_scorer
from stillroom.train import assemble as assemble_module
from stillroom.train import estimate, loop, sources
from stillroom.train.config import EvaluationConfig
from stillroom.train.estimate import estimate_lines, try_pairs
from stillroom.train.run import run
from stillroom.train.setup import build_model

pytestmark = pytest.mark.usefixtures("one_thread")


STILL = {"min_crop": 1.0, "max_aspect": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar"))


def rows(out, name="metrics.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def started_from(changes):
    torch.manual_seed(0)
    return build_model(config(**changes).model)[1].state_dict()


def moved(out, before):
    after = weights(out)
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_a_locked_image_tower_runs_once_a_picture_where_nothing_is_random(data, tmp_path, monkeypatch):
    changes = {"model": {"open_clip": MODEL, "lock_image": True}, "optimizer": {"name": "sgd", "lr": 0.05}}
    run(data, config(**changes, augment=STILL), tmp_path / "stored")
    assert {n for n in moved(tmp_path / "stored", started_from(changes)) if n.startswith("visual.")} == {"visual.proj"}
    with monkeypatch.context() as patch:
        patch.setattr(assemble_module, "stores_images", lambda *arguments: False)
        run(data, config(**changes, augment=STILL), tmp_path / "computed")
    stored, computed = weights(tmp_path / "stored"), weights(tmp_path / "computed")
    # float16 keeps three digits of a feature
    assert all(torch.allclose(stored[name], computed[name], atol=2e-4) for name in stored)
    kept = {"cache": str(tmp_path / "cache")}
    run(data, config(**changes, **kept, augment=STILL), tmp_path / "first")
    assert len(list((tmp_path / "cache").glob("train-pictures-*.npz"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sources, "image_trunk", None)  # nothing is encoded again, whatever the rest of the recipe
        run(data, config(**changes, **kept, augment=STILL), tmp_path / "second")
    assert equal(weights(tmp_path / "stored"), weights(tmp_path / "first"))
    assert equal(weights(tmp_path / "stored"), weights(tmp_path / "second"))
    run(data, config(**changes), tmp_path / "random")  # with crops the tower has to run, and stands still all the same
    assert {n for n in moved(tmp_path / "random", started_from(changes)) if n.startswith("visual.")} == {"visual.proj"}


def test_unlocked_layers_learn_and_the_others_do_not(data, tmp_path):
    towers = {**MODEL["model_cfg"], "text_cfg": {**MODEL["model_cfg"]["text_cfg"], "layers": 2}}
    model = {"open_clip": {**MODEL, "model_cfg": towers}, "lock_text": True, "unlocked_text_layers": 1}
    run(data, config(model=model), tmp_path / "a")
    found = {name for name in moved(tmp_path / "a", started_from({"model": model})) if not name.startswith("visual.")}
    assert any(name.startswith("transformer.resblocks.1.") for name in found)
    assert not any(name.startswith(("transformer.resblocks.0.", "token_embedding", "positional")) for name in found)
    with pytest.raises(ConfigError, match="unlocked_text_layers is 9; this text tower has 3 groups"):
        run(data, config(model={**model, "unlocked_text_layers": 9}), tmp_path / "b")


def test_gradient_checkpointing_changes_memory_not_weights(data, tmp_path):
    sgd = {"name": "sgd", "lr": 0.05}
    run(data, config(optimizer=sgd), tmp_path / "plain")
    run(data, config(optimizer=sgd, model={"open_clip": MODEL, "gradient_checkpointing": True}), tmp_path / "less")
    plain, less = weights(tmp_path / "plain"), weights(tmp_path / "less")
    assert all(torch.allclose(plain[name], less[name], atol=1e-5) for name in plain)
    # What a graph keeps of four layers in each tower: all of them, or where each begins.
    kept, begun = (held_at_once(data, deep(4, gradient_checkpointing=less)) for less in (False, True))
    assert begun < kept / 4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_and_resumes(data, tmp_path, precision, monkeypatch):
    long = {"samples": 800, "optimizer": {"lr": 3e-3, "warmup_samples": 80}, "precision": precision, "micro_batch": 4}
    run(data, config(**long), tmp_path / "a")
    step = loop.Trainer.step

    def dying(self, number, *batch):
        if number == 55:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data, config(**long), tmp_path / "b")
    monkeypatch.setattr(loop.Trainer, "step", step)
    run(data, config(**long), tmp_path / "b", resume=True)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    logged = rows(tmp_path / "a")
    assert logged[-1]["contrastive"] < 0.8 * logged[0]["contrastive"]
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "a").values() if tensor.ndim > 1)


def test_the_average_is_what_is_kept_where_asked_for(data, tmp_path):
    run(data, config(ema={"decay": 0.9}), tmp_path / "last")
    run(data, config(ema={"decay": 0.9, "export": True}), tmp_path / "average")
    state = torch.load(next((tmp_path / "average" / "checkpoints").glob("step-*.pt")), weights_only=True)
    kept = weights(tmp_path / "average")
    assert all(torch.equal(kept[name], state["average"][f"model.{name}"]) for name in kept)
    assert equal(weights(tmp_path / "last"), state["state_dict"])
    assert not equal(kept, state["state_dict"])


def test_soft_labels_have_a_scale_of_their_own(data, tmp_path):
    soft = {"weight": 0.5, "initial_scale": 30.0}
    run(data, config(loss={"concept_weight": 0.0, "soft_labels": soft}, ema={"decay": 0.99}), tmp_path / "a")
    last = rows(tmp_path / "a")[-1]
    assert last["loss"] == pytest.approx(last["contrastive"] + 0.5 * last["soft_labels"], rel=1e-5)
    assert 29 < last["soft_scale"] < 31
    assert last["soft_scale"] != pytest.approx(last["scale"], rel=0.1)


def test_epochs_mean_what_they_say(data, tmp_path):
    summary = run(data, config(samples=0, epochs=2), tmp_path / "a")
    assert (summary["pairs"], summary["steps"]) == (47, 11)  # 94 samples are 11 batches of 8


def test_checkpoints_by_the_clock_and_the_newest_ones_kept(data, tmp_path):
    run(data, config(checkpoint_samples=1_000_000, checkpoint_minutes=1e-6, keep_checkpoints=3), tmp_path / "a")
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == ["step-000000010.pt", "step-000000011.pt", "step-000000012.pt"]


def test_scores_during_training_keep_the_best_and_leave_the_weights_alone(data, tmp_path):
    given = iter([0.2, 0.6, 0.4, 0.5])
    modes = []

    def scorer(loaded):
        model, preprocess, tokenizer = loaded
        modes.append((model.training, preprocess is not None, tokenizer(["a"]).shape))
        return {"shapes/acc1": next(given), "names/recall": 0.5}

    scorer.check = lambda: None
    every = {"tasks": ("x",), "every_samples": 24}
    run(data, config(evaluation=every, keep_checkpoints=9), tmp_path / "scored", scorer=scorer)
    run(data, config(evaluation=every), tmp_path / "plain")
    assert equal(weights(tmp_path / "scored"), weights(tmp_path / "plain"))
    scores = rows(tmp_path / "scored", "scores.jsonl")
    assert [(row["step"], row["shapes/acc1"]) for row in scores] == [(3, 0.2), (6, 0.6), (9, 0.4), (12, 0.5)]
    assert scores[1]["mean"] == pytest.approx(0.55)
    best = torch.load(tmp_path / "scored" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 6
    assert set(modes) == {(False, True, (1, 8))}
    model, _, _ = load_model(str(tmp_path / "scored" / "checkpoints" / "best.pt"))
    assert equal(model.state_dict(), best["state_dict"])


def test_a_real_task_scores_the_model(data, tmp_path, dataset):
    scorer = make_scorer(EvaluationConfig(tasks=(str(dataset),)))
    assert make_scorer(EvaluationConfig()) is None
    run(data, config(evaluation={"tasks": (str(dataset),), "every_samples": 48}), tmp_path / "a", scorer=scorer)
    scores = rows(tmp_path / "a", "scores.jsonl")
    assert [row["step"] for row in scores] == [6, 12]
    assert all(0 <= row["shapes/acc1"] <= 1 for row in scores)
    with pytest.raises(ConfigError, match="no task 'nothing'"):
        make_scorer(EvaluationConfig(tasks=("nothing",)))


@pytest.fixture
def dataset(tmp_path):
    from PIL import Image

    for name in ("red", "blue"):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (20, 20 + index), name).save(tmp_path / "shapes" / name / f"{index}.png")
    return tmp_path / "shapes"


def test_tensorboard_gets_the_same_numbers(data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(data, config(tensorboard=True), tmp_path / "a")
    board = accumulator.EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    board.Reload()
    last = rows(tmp_path / "a")[-1]
    (event,) = board.Scalars("metrics/contrastive")
    assert (event.step, event.value) == (12, pytest.approx(last["contrastive"], rel=1e-6))
    assert "speed/samples_per_second" in board.Tags()["scalars"]


def test_the_speed_log_says_rate_wait_and_memory(data, tmp_path):
    run(data, config(samples=400), tmp_path / "a")
    speed = rows(tmp_path / "a", "speed.jsonl")
    assert [row["step"] for row in speed] == [20, 40, 50]
    assert all(row["samples_per_second"] > 0 and 0 <= row["data_wait"] <= 1 for row in speed)
    assert all(0.05 < row["memory_gb"] < 50 for row in speed)


def test_a_dry_run_counts_and_writes_nothing(data, tmp_path, capsys):
    lines = estimate_lines(data, config())
    described = json.loads(lines[0])
    assert described["recipe"]["batch_size"] == 8
    assert lines[1] == "pairs: 47; 12 steps of 8, 2.04 epochs"
    model = load_or_build()
    total = sum(p.numel() for p in model.parameters())
    assert f"parameters: {total / 1e6:,.1f} M" in lines[2]
    assert "8 pairs held at once" in lines[3]
    assert " more for their exchange" in lines[3]
    assert lines[4].endswith("losses, optimiser, exchange between ranks and waiting for data come on top")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('samples = 96\nbatch_size = 8\n[model]\nname = "no"\n[loss]\nconcept_weight = 0.0\n')
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(recipe), data, "--dry-run"])
    assert stopped.value.code == 2
    assert "model.name is 'no'" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_would_and_holds_no_more_than_a_batch(data):
    with pytest.raises(DataError, match="batch_size is 64 but only 47 pairs are left to train on"):
        estimate_lines(data, config(batch_size=64))
    assert " 8 pairs held at once" in estimate_lines(data, config(micro_batch=2048))[3]
    assert " 4 pairs held at once" in estimate_lines(data, config(micro_batch=4))[3]


def test_a_dry_run_counts_with_as_many_processes_as_the_run(tmp_path, monkeypatch):
    for number in range(16):
        write_tar(tmp_path / f"{number:05d}.tar", 8, broken=())
    asked = []
    count = estimate.count_slots
    monkeypatch.setattr(estimate, "count_slots", lambda *given, **how: asked.append(how["workers"]) or count(*given))
    assert estimate_lines(str(tmp_path / "{00000..00015}.tar"), config())[1].startswith("pairs: 112; ")
    assert asked == [2]


def test_weights_cast_to_bf16_are_not_counted_for_each_pair(data):
    wide = {**MODEL["model_cfg"], "vision_cfg": {**MODEL["model_cfg"]["vision_cfg"], "width": 256}}
    recipe = config(model={"open_clip": {**MODEL, "model_cfg": wide}})
    _, model, tokenizer = build_model(recipe.model)
    full, half = (
        try_pairs(model, tokenizer, replace(recipe, precision=name), torch.device("cpu"), most=8, stored_pictures=False)
        for name in ("fp32", "bf16")
    )
    assert half.held < full.held
    # The cast weights of the image tower's layer: 12 x 256 x 256 numbers of 2 bytes; full precision casts none.
    assert half.fixed > 12 * 256 * 256 * 2
    assert full.fixed < half.fixed / 10


def test_a_teacher_takes_a_third_more_time_as_do_small_parts(data, monkeypatch):
    trial = estimate.Trial(seconds=3.0, held=0.0, fixed=0.0, tower=0.0)
    monkeypatch.setattr(estimate, "try_pairs", lambda *given, **options: trial)

    def rate(**changes):
        return clock_of(estimate_lines(data, config(**changes))[4])

    soft = {"loss": {"concept_weight": 0.0, "soft_labels": {"weight": 0.5}}, "ema": {"decay": 0.9}}
    assert [rate(), rate(micro_batch=4), rate(**soft), rate(**soft, micro_batch=4)] == [288, 384, 384, 480]


def clock_of(line):
    """Return the seconds in a dry run's line "time: 4:48 on ..."."""
    minutes, seconds = line.removeprefix("time: ").split()[0].split(":")
    return 60 * int(minutes) + int(seconds)


def test_a_dry_run_without_memory_names_the_key(data, monkeypatch):
    def full(*given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 is full.")

    monkeypatch.setattr(estimate, "image_head", full)
    monkeypatch.setattr(estimate, "encode_text", full)
    with pytest.raises(StillroomError, match="no memory for 20.00 MiB more; lower micro_batch"):
        estimate_lines(data, config())


def test_a_dry_run_counts_a_stored_tower_once_for_each_picture(data):
    locked = config(model={"open_clip": MODEL, "lock_image": True}, augment={"min_crop": 1.0, "max_aspect": 1.0})
    lines = estimate_lines(data, locked)
    assert lines[-1].startswith("before: ")
    assert lines[-1].endswith(" for the locked image tower, once for each picture")
    # What the projection alone keeps for the backward pass is far less than the tower's activations.
    held, open_held = (
        float(found[3].rpartition("at once, ")[2].split()[0]) for found in (lines, estimate_lines(data, config()))
    )
    assert held < open_held
    assert not estimate_lines(data, config())[-1].startswith("before: ")


def load_or_build():
    return build_model(config().model)[1]


def deep(layers, **model):
    """Return a recipe whose towers have so many layers each."""
    cfg = MODEL["model_cfg"]
    towers = {key: {**cfg[key], "layers": layers} for key in ("vision_cfg", "text_cfg")}
    return config(model={"open_clip": {**MODEL, "model_cfg": {**cfg, **towers}}, **model})


def held_at_once(data, recipe):
    """Return the MB a pair that a dry run tells."""
    return float(estimate_lines(data, recipe)[3].split(" held at once, ")[1].split(" MB")[0])


def test_activation_memory_is_that_of_the_graph(data):
    # Twice the layers of both towers hold about twice as much between forward and backward.
    assert 1.7 < held_at_once(data, deep(8)) / held_at_once(data, deep(4)) < 2.1


def test_fewer_lanes_than_ranks_is_told_with_the_key(data, tmp_path, monkeypatch):
    from stillroom.train.lanes import rank_lanes

    with pytest.raises(ConfigError, match="4 lanes of data cannot serve 8 ranks; set .*lanes to 8"):
        rank_lanes(4, 0, 8)
    assert np.concatenate([rank_lanes(7, rank, 3) for rank in range(3)]).tolist() == list(range(7))
