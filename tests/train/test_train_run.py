"""`stillroom train` end to end on a miniature: a real open_clip model, resumed, repeated, loaded back."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from train_miniature import MODEL, config, equal, weights, write_tar

from stillroom import load_model
from stillroom.artifacts import StageWriter
from stillroom.concepts import features, steps, teacher
from stillroom.concepts.vocabulary import Concept, format_vocabulary, vocabulary_digest
from stillroom.config_io import build
from stillroom.data import open_data
from stillroom.errors import ArtifactError, ConfigError, DataError, StillroomError
from stillroom.train import loop
from stillroom.train.config_loss import LossConfig
from stillroom.train.objective import PairTensors, pair_losses
from stillroom.train.run import run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar"))


def checkpoint(folder):
    (path,) = (folder / "checkpoints").glob("step-*.pt")
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "a"
    return out, run(data, config(), out)


def test_a_run_counts_what_it_left_out_and_logs(trained):
    out, summary = trained
    assert summary["pairs"] == 47
    assert summary["steps"] == 12
    assert summary["faults"] == {"caption_empty": 1, "image_unreadable": 1}
    assert {fault["key"] for fault in summary["listed_faults"]} == {"00005", "00006"}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["samples"] == 96
    assert {"loss", "contrastive", "scale", "grad_norm", "lr"} <= rows[-1].keys()


def test_the_model_folder_loads_in_open_clip_and_in_load_model(trained):
    import open_clip

    out, _ = trained
    ours, preprocess, tokenizer = load_model(str(out))
    theirs = open_clip.create_model(f"local-dir:{out}").eval()
    picture = preprocess(Image.new("RGB", (40, 30), "red")).unsqueeze(0)
    assert picture.shape == (1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(ours.encode_image(picture), theirs.encode_image(picture))
        tokens = tokenizer(["a red square"])
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))


def test_the_checkpoint_has_open_clips_keys_and_loads(trained):
    from open_clip.factory import load_checkpoint

    out, _ = trained
    path = checkpoint(out)
    state = torch.load(path, weights_only=True)
    assert {"epoch", "name", "state_dict", "optimizer"} <= state.keys()
    model, _, _ = load_model(str(path))
    fresh, _, _ = load_model(str(out))
    torch.nn.init.zeros_(fresh.visual.conv1.weight)
    load_checkpoint(fresh, str(path))
    assert equal(model.state_dict(), fresh.state_dict())


def test_one_seed_one_result_and_another_seed_another(data, trained, tmp_path):
    run(data, config(workers=1), tmp_path / "same")
    run(data, config(seed=1), tmp_path / "other")
    assert equal(weights(trained[0]), weights(tmp_path / "same"))
    assert not equal(weights(trained[0]), weights(tmp_path / "other"))


def test_a_stream_of_pictures_gives_the_same_weights_and_faults_as_memory(data, trained, tmp_path):
    run(data, config(pixel_cache_mb=0), tmp_path / "b")
    assert equal(weights(trained[0]), weights(tmp_path / "b"))
    for name in ("metrics.jsonl", "faults.json", "summary.json"):
        assert (trained[0] / name).read_text() == (tmp_path / "b" / name).read_text()


@pytest.mark.parametrize("killed_at", [5, 9])
def test_a_killed_run_resumes_to_the_same_weights_and_log(data, trained, tmp_path, monkeypatch, killed_at):
    out = tmp_path / "killed"
    step = loop.Trainer.step

    def dying(self, number, *batch):
        if number == killed_at:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data, config(), out)
    monkeypatch.setattr(loop.Trainer, "step", step)
    with pytest.raises(ArtifactError, match="--resume"):
        run(data, config(), out)
    run(data, config(), out, resume=True)
    assert equal(weights(trained[0]), weights(out))
    assert (out / "metrics.jsonl").read_text() == (trained[0] / "metrics.jsonl").read_text()


def test_dropout_goes_on_as_in_the_run_that_was_not_killed(data, tmp_path, monkeypatch):
    vision = {**MODEL["model_cfg"]["vision_cfg"], "patch_dropout": 0.5}
    model = {"open_clip": {**MODEL, "model_cfg": {**MODEL["model_cfg"], "vision_cfg": vision}}}
    run(data, config(model=model), tmp_path / "whole")
    step = loop.Trainer.step

    def dying(self, number, *batch):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data, config(model=model), tmp_path / "killed")
    monkeypatch.setattr(loop.Trainer, "step", step)
    run(data, config(model=model), tmp_path / "killed", resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_finished_run_is_not_run_again(data, trained, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "step", None)
    assert run(data, config(), trained[0]) == trained[1]


def test_another_config_in_the_same_folder_is_refused(data, trained):
    with pytest.raises(ArtifactError, match="another run .config.samples: 96 there, 88 asked for"):
        run(data, config(samples=88), trained[0])


def test_training_lowers_the_loss(data, tmp_path):
    run(data, config(samples=1600, optimizer={"lr": 3e-3, "warmup_samples": 80}), tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["contrastive"] < 0.6 * rows[0]["contrastive"]


def test_a_locked_text_tower_is_stored_once_and_stays(data, tmp_path):
    locked = {"open_clip": MODEL, "lock_text": True}
    run(data, config(model=locked), tmp_path / "a")
    torch.manual_seed(0)
    from stillroom.train.setup import build_model

    _, fresh, _ = build_model(config(model=locked).model)
    after = weights(tmp_path / "a")
    moved = {name for name, tensor in fresh.state_dict().items() if not torch.equal(tensor, after[name])}
    assert "visual.conv1.weight" in moved
    assert all(name.startswith("visual.") or name in ("logit_scale", "text_projection") for name in moved)


def test_stored_text_features_change_no_weight_and_serve_the_next_run(data, tmp_path, monkeypatch):
    locked = {"open_clip": MODEL, "lock_text": True}
    run(data, config(model=locked), tmp_path / "plain")
    run(data, config(model=locked, cache=str(tmp_path / "kept")), tmp_path / "first")
    assert len(list((tmp_path / "kept").glob("train-texts-*.npz"))) == 1
    from stillroom.train import texts

    monkeypatch.setattr(texts, "trunk_features", None)
    run(data, config(model=locked, cache=str(tmp_path / "kept")), tmp_path / "second")
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "first"))
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "second"))


def test_stored_text_features_are_found_by_caption_and_added_to(tmp_path, monkeypatch):
    from stillroom.train import stored, texts

    class Tower(torch.nn.Linear):
        def encode_text(self, tokens):
            return tokens.float()

    def tokenizer(length):
        return lambda captions: torch.tensor([[len(caption)] * length for caption in captions])

    def features(captions, length=1):
        place = torch.device("cpu")
        return texts.text_features(Tower(1, 1), tokenizer(length), captions, device=place, cache=tmp_path)

    state = Tower(1, 1).state_dict()
    monkeypatch.setattr(stored, "trunk_state", lambda model, tower: state)
    asked = []
    compute = texts.trunk_features
    monkeypatch.setattr(texts, "trunk_features", lambda m, t, c, d: asked.append(c) or compute(m, t, c, d))
    features(["a", "bcd"])
    both = features(["bcd", "ef"])
    assert asked == [["a", "bcd"], ["ef"]]
    assert both.rows(texts.caption_ids(["ef", "a", "bcd", "ef"])).tolist() == [[2.0], [1.0], [3.0], [2.0]]
    assert both.has(texts.caption_ids(["a", "zz"])).tolist() == [True, False]
    assert features(["a"], length=2).rows(texts.caption_ids(["a"])).tolist() == [[1.0, 1.0]]
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="cannot be read .* delete it"):
        features(["a"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_samples(data, tmp_path, monkeypatch):
    from stillroom.train import gradients

    monkeypatch.setattr(gradients, "weighted_sum", lambda terms, config: terms["contrastive"] * float("nan"))
    with pytest.raises(StillroomError, match=r"not finite at step 0 .*00000/0"):
        run(data, config(), tmp_path / "a")
    listed = json.loads((tmp_path / "a" / "not_finite.json").read_text())
    assert len(listed["batch"]) in (7, 8)


def labels(folder, shard, keys):
    """Write an output of `stillroom concepts` with 4 objects and 4 attributes."""
    names = [Concept(name=name, count=1, examples=()) for name in "abcd"]
    writer = StageWriter(folder, stage="concepts", config={}, inputs={}, seed=0)
    rng = np.random.default_rng(0)
    columns = {"key": pa.array(keys)}
    for kind in ("object", "attribute"):
        ids = pa.array(np.argsort(rng.random((len(keys), 4)))[:, :2].ravel().astype(np.uint32))
        columns[f"{kind}_ids"] = pa.FixedSizeListArray.from_arrays(ids, 2)
        probs = pa.array(np.full(2 * len(keys), 0.5, np.float16))
        columns[f"{kind}_probs"] = pa.FixedSizeListArray.from_arrays(probs, 2)
    writer.write_shard(shard, pa.table(columns))
    for kind in ("objects", "attributes"):
        (folder / f"{kind}.csv").write_bytes(format_vocabulary(names))
    sizes = {kind: {"digest": vocabulary_digest(names), "size": 4} for kind in ("objects", "attributes")}
    writer.finish({"vocabulary": sizes, "faults": {"image_unreadable": 1}}, shards=[shard], timings={})
    return folder


@pytest.fixture
def no_teacher(monkeypatch):
    """Make everything raise that builds or runs the frozen encoder."""

    def called(*arguments, **options):
        raise AssertionError("the teacher was called in training")

    for module in (teacher, features, steps):
        for name in ("Teacher", "load_teacher", "ready_teacher", "compute_features", "check_given"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, called)
    with pytest.raises(AssertionError, match="the teacher was called"):
        steps.load_teacher("efficientnet-lite0")


@pytest.mark.usefixtures("no_teacher")
def test_concept_labels_teach_the_heads_and_leave_with_them(data, tmp_path):
    (shard,) = open_data(data)
    folder = labels(tmp_path / "concepts", shard.name, [f"{index:05d}" for index in range(48) if index != 5])
    summary = run(data, config(loss={"concept_weight": 0.5}), tmp_path / "a", concepts=folder)
    assert summary["concepts"] == {"objects": 4, "attributes": 4}
    last = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    total = last["contrastive"] + 0.5 * (last["objects"] + last["attributes"])
    assert last["loss"] == pytest.approx(total, rel=1e-5)
    state = torch.load(checkpoint(tmp_path / "a"), weights_only=True)
    assert state["concept_heads"]["objects.weight"].shape == (4, 16)
    assert not any("objects" in name for name in weights(tmp_path / "a"))
    run(data, config(loss={"concept_weight": 0.5}, pixel_cache_mb=0), tmp_path / "b", concepts=folder)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_labels_that_miss_pairs_or_shards_are_refused(data, tmp_path):
    (shard,) = open_data(data)
    few = labels(tmp_path / "few", shard.name, ["00000", "00001"])
    with pytest.raises(DataError, match=r"44 of 46 pairs have no pseudo-labels, e\.g\. .*00000/00002"):
        run(data, config(loss={"concept_weight": 1.0}), tmp_path / "a", concepts=few)
    other = labels(tmp_path / "other", "elsewhere", ["00000"])
    with pytest.raises(DataError, match="1 of 1 shards have no pseudo-labels"):
        run(data, config(loss={"concept_weight": 1.0}), tmp_path / "b", concepts=other)


def test_labels_that_miss_streamed_pairs_are_refused_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "step", None)
    (shard,) = open_data(data)
    few = labels(tmp_path / "few", shard.name, ["00000", "00001"])
    with pytest.raises(DataError, match=r"44 of 47 pairs have no pseudo-labels, e\.g\. .*00000/00002: run") as caught:
        run(data, config(loss={"concept_weight": 1.0}, pixel_cache_mb=0), tmp_path / "a", concepts=few)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_bad_input_is_one_clear_line(data, tmp_path):
    with pytest.raises(ConfigError, match="no pseudo-labels"):
        run(data, config(loss={"concept_weight": 1.0}), tmp_path / "a")
    with pytest.raises(DataError, match="batch_size is 47 but only 46 pairs"):
        run(data, config(batch_size=47), tmp_path / "b")
    with pytest.raises(DataError, match="batch_size is 64 but only 47 pairs"):
        run(data, config(batch_size=64), tmp_path / "b")
    with pytest.raises(ArtifactError, match="is not the output of 'stillroom filter'"):
        run(data, config(), tmp_path / "c", keep=tmp_path)
    with pytest.raises(ConfigError, match="model.name is 'ViT-Q'"):
        run(data, config(model={"name": "ViT-Q"}), tmp_path / "d")
    bad = {"model_cfg": {**MODEL["model_cfg"], "vision_cfg": {"timm_model_name": "no_such_net"}}}
    with pytest.raises(ConfigError, match="model cannot be built"):
        run(data, config(model={"open_clip": bad}), tmp_path / "e")
    with pytest.raises(DataError, match="no model 'nothing'"):
        run(data, config(model={"start_from": "nothing"}), tmp_path / "f")
    with pytest.raises(ConfigError, match="device is 'gpu9'"):
        run(data, config(device="gpu9"), tmp_path / "g")
    with pytest.raises(ConfigError, match="no DATA"):
        run(None, config(), tmp_path / "h")
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_starts_from_a_run(data, trained, tmp_path):
    tiny = replace(config(model={"start_from": str(trained[0])}), samples=8)
    run(data, replace(tiny, optimizer=replace(tiny.optimizer, lr=1e-9, weight_decay=0.0)), tmp_path / "a")
    before, after = weights(trained[0]), weights(tmp_path / "a")
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_no_memory_is_one_line_that_says_what_to_lower(data, tmp_path, monkeypatch):
    def full(*given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(loop.Trainer, "step", full)
    with pytest.raises(StillroomError, match=r"^the GPU has no memory for 2.00 GiB more; lower micro_batch$"):
        run(data, config(), tmp_path / "out")


@pytest.mark.parametrize("loss", [{"contrastive": "info_nce"}, {"contrastive": "hard_negative_nce"}])
def test_products_in_bf16_reach_the_loss(loss):
    pairs = {name: torch.nn.functional.normalize(torch.randn(16, 32), dim=1) for name in ("image", "text")}
    scales = {"scale": torch.tensor(14.3), "soft_scale": None}

    def value(pairs, **options):
        given = build(LossConfig, {**loss, **options}, source="test")
        ids = torch.arange(16)
        return pair_losses(PairTensors(**pairs, **scales), None, given, ids, None)["contrastive"]

    rounded = {name: one.bfloat16().float() for name, one in pairs.items()}
    assert value(pairs, bf16_products=True) == pytest.approx(float(value(rounded)), rel=1e-6)
    assert value(pairs) != value(rounded)
