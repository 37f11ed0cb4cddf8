"""The stage from model to result files: resumed, with missing data, with another model, and with open_clip's own."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from evaluate_miniatures import ColourModel, picture, write_dataset

import stillroom
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.evaluate import run as stage
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.tasks import find_tasks
from stillroom.model.device import resolve_device


@pytest.fixture
def load_colours(monkeypatch, colour_model):
    monkeypatch.setattr(stillroom, "load_model", lambda name: colour_model)
    return colour_model[0]


def _config(*paths, **options):
    return EvaluateConfig(tasks=tuple(str(path) for path in paths), **options)


def test_scores_of_a_model_that_sees_colours(load_colours, colour_classes, colour_captions, tmp_path):
    results = stage.run("fake", _config(colour_classes, colour_captions), tmp_path / "out")
    by_name = {result["dataset"]: result for result in results}
    assert by_name["colours"]["metrics"] == {"acc1": 1, "mean_per_class_recall": 1}
    assert by_name["colours"]["stillroom"]["chance"]["acc1"] == pytest.approx(1 / 3)
    names = by_name["colour_names"]
    assert names["metrics"]["image_retrieval_recall@1"] == 1
    assert names["metrics"]["text_retrieval_recall@1"] == 1
    assert (names["stillroom"]["n"], names["stillroom"]["texts"]) == (3, 4)
    assert names["stillroom"]["chance"]["text_retrieval_recall@1"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    for name, result in by_name.items():
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == result


def test_wrong_labels_are_seen(load_colours, colour_classes, tmp_path):
    (colour_classes / "classnames.txt").write_text("red\ngreen\nblue\n")  # another order than the labels'
    result = stage.run("fake", _config(colour_classes), tmp_path / "out")[0]
    assert result["metrics"]["acc1"] == pytest.approx(2 / 6)


def test_a_second_run_computes_nothing(load_colours, colour_classes, colour_captions, tmp_path, caplog):
    config = _config(colour_classes, colour_captions)
    first = stage.run("fake", config, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    calls = load_colours.calls
    with caplog.at_level(logging.INFO):
        assert stage.run("fake", config, tmp_path / "out") == first
    assert load_colours.calls == calls
    assert caplog.text.count("already evaluated") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    for name in ("colours", "colour_names"):
        (tmp_path / f"out/{name}.json").unlink()
    assert stage.run("fake", config, tmp_path / "out") == first  # from embeddings alone
    assert load_colours.calls == calls


def test_changed_data_is_evaluated_again(load_colours, colour_classes, tmp_path):
    stage.run("fake", _config(colour_classes), tmp_path / "out")
    (colour_classes / "classnames.txt").write_text("red\ngreen\nblue\n")
    again = stage.run("fake", _config(colour_classes), tmp_path / "out")[0]
    assert again["metrics"]["acc1"] == pytest.approx(2 / 6)


def test_another_transform_or_tokenizer_is_another_evaluation(monkeypatch, colour_model, colour_classes, tmp_path):
    model, transform, tokenizer = colour_model
    swapped = [
        (model, lambda image: transform(image).flip(0), tokenizer),  # red and blue change places
        (model, transform, lambda texts: tokenizer(texts).flip(1)),
    ]
    for loaded, expected in [(colour_model, 1), (swapped[0], 2 / 6), (swapped[1], 2 / 6)]:
        monkeypatch.setattr(stillroom, "load_model", lambda name, loaded=loaded: loaded)
        result = stage.run("fake", _config(colour_classes), tmp_path / "out")[0]
        assert result["metrics"]["acc1"] == pytest.approx(expected)


def test_files_that_may_not_be_read_cost_their_own_task_only(
    load_colours, colour_classes, colour_captions, tmp_path, monkeypatch, caplog
):
    def denied(task, *args):
        if task.name == "colours":
            raise PermissionError(13, "Permission denied", "0.tar")
        return opened(task, *args)

    opened = stage.open_task
    monkeypatch.setattr(stage, "open_task", denied)
    results = stage.run("fake", _config(colour_classes, colour_captions), tmp_path / "out")
    assert [result["dataset"] for result in results] == ["colour_names"]
    assert "colours: not evaluated: [Errno 13] Permission denied: '0.tar'" in caplog.text


def test_missing_and_damaged_data_costs_its_own_task_only(load_colours, colour_classes, tmp_path, caplog):
    damaged = shutil.copytree(colour_classes, tmp_path / "damaged")
    (damaged / "test/1.tar").write_bytes(b"")
    config = _config("openmoji_names", damaged, colour_classes, data_root=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        results = stage.run("fake", config, tmp_path / "out")
    assert [result["dataset"] for result in results] == ["colours"]
    assert "openmoji_names: not evaluated: task 'openmoji_names': no data at" in caplog.text
    assert "damaged: not evaluated" in caplog.text
    assert not (tmp_path / "out/damaged.json").exists()
    with pytest.raises(DataError, match="none of 1 tasks could be evaluated: .*1.tar"):
        stage.run("fake", _config(damaged), tmp_path / "out")


def test_skipped_pictures_are_listed(load_colours, tmp_path, caplog):
    members = [("a.png", picture("red")), ("a.cls", b"0"), ("b.png", b"broken"), ("b.cls", b"0")]
    root = write_dataset(tmp_path / "set", [members], classnames=["red"])
    for _ in range(2):  # the second time from the cached embeddings
        caplog.clear()
        result = stage.run("fake", _config(root), tmp_path / "out")[0]
        assert result["stillroom"]["skipped"] == [{"shard": "0", "key": "b", "reason": "image_unreadable"}]
        assert result["stillroom"]["n"] == 1
        assert "1 pictures skipped (image_unreadable 1)" in caplog.text
        (tmp_path / "out/set.json").unlink()


def test_a_folder_of_another_model_is_refused(load_colours, colour_classes, tmp_path):
    stage.run("fake", _config(colour_classes), tmp_path / "out")
    with torch.no_grad():
        load_colours.gain += 1
    with pytest.raises(ArtifactError, match="results of another model, 'fake'"):
        stage.run("other", _config(colour_classes), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("x")
    with pytest.raises(ArtifactError, match="not a stillroom output"):
        stage.run("fake", _config(colour_classes), tmp_path / "full")
    with pytest.raises(ArtifactError, match="is a file"):
        stage.run("fake", _config(colour_classes), tmp_path / "full/thesis.txt")


def test_a_shared_cache_serves_another_output(load_colours, colour_classes, tmp_path):
    config = _config(colour_classes, cache=str(tmp_path / "cache"))
    first = stage.run("fake", config, tmp_path / "one")
    calls = load_colours.calls
    assert stage.run("fake", config, tmp_path / "two") == first
    assert load_colours.calls == calls
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["colours.json", "run.json"]


def test_a_model_that_gives_nan_is_one_line(colour_model, colour_classes, tmp_path):
    model = ColourModel()
    with torch.no_grad():
        model.gain *= float("nan")
    config = _config(colour_classes)
    with pytest.raises(DataError, match="NaN or zero embeddings for 6 of 6"):
        stage.evaluate_model((model, *colour_model[1:]), "nan", find_tasks(config.tasks), config, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_template": "a photo"}, "needs {} for the caption"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
        ({"precision": "fp8"}, "fp8"),
    ],
)
def test_config_is_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**options)


def test_devices():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    for wrong in ("tpu9", "cuda:99"):
        with pytest.raises(ConfigError, match="allowed: auto, cpu") as error:
            resolve_device(wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_open_clip_model_scores_as_its_own_embeddings_do(colour_captions, colour_classes, tmp_path, precision):
    import open_clip
    from open_clip.transform import image_transform

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    )
    transform, tokenizer = image_transform(32, is_train=False), open_clip.SimpleTokenizer(context_length=12)
    config = _config(colour_captions, colour_classes, batch_size=2, precision=precision)
    loaded = (model, transform, tokenizer)
    results = stage.evaluate_model(loaded, "tiny", find_tasks(config.tasks), config, tmp_path / "out")
    assert [result["task"] for result in results] == ["zeroshot_retrieval", "zeroshot_classification"]

    from PIL import Image

    if precision == "fp32":
        pixels = [transform(Image.new("RGB", (12, 10), c)) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        texts = ["red", "a red thing", "green", "the blue one"]
        with torch.no_grad():
            images = model.encode_image(torch.stack(pixels), normalize=True)
            scores = (model.encode_text(tokenizer(texts), normalize=True) @ images.T).double().numpy()
        found = [int(np.argmax(row)) == owner for row, owner in zip(scores, [0, 0, 1, 2], strict=True)]
        back = [int(np.argmax(column)) in own for column, own in zip(scores.T, [(0, 1), (2,), (3,)], strict=True)]
        assert results[0]["metrics"]["image_retrieval_recall@1"] == pytest.approx(np.mean(found))
        assert results[0]["metrics"]["text_retrieval_recall@1"] == pytest.approx(np.mean(back))
