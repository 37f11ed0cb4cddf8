"""A teacher of one's own: a module with a forward and its own transform; and one that gives no numbers."""

import dataclasses
import io
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.artifacts import open_stage
from stillroom.concepts import steps
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.features import fixed_lists
from stillroom.concepts.join import load_pseudo_labels
from stillroom.concepts.run import run
from stillroom.concepts.steps import FEATURES
from stillroom.concepts.teacher import Teacher, load_teacher, with_digest
from stillroom.data.reasons import ADVICE, FEATURES_NOT_FINITE
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.report.concepts_page import write_concepts_page

CONFIG = ConceptsConfig(
    min_count=3, top_k=2, heads=HeadConfig(epochs=2, held_out=0.2), precision="fp32", device="cpu", workers=1
)


class Means(torch.nn.Module):
    """The mean of each channel, turned by a matrix; features are wrong in training mode, and NaN for `spoilt` ones."""

    def __init__(self, spoilt=lambda means: means[:, 0] > 2):
        super().__init__()
        self.turn = torch.nn.Linear(3, 5)
        torch.nn.init.normal_(self.turn.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.turn.bias)
        self.register_buffer("steps", torch.tensor(7))
        self.spoilt = spoilt

    def forward(self, pictures):
        assert not self.training
        means = pictures.mean((2, 3))
        return self.turn(means).masked_fill(self.spoilt(means)[:, None], float("nan"))


def small(picture):
    """Turn a picture into (3, 4, 4) float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.resize((4, 4)), np.float32).transpose(2, 0, 1) / 255)


def own(**changes):
    return Teacher(**{"name": "means", "module": Means(), "transform": small, "feature_dim": 5, **changes})


@pytest.fixture(scope="module")
def finished(shapes_tar_twice, tmp_path_factory):
    out = tmp_path_factory.mktemp("given") / "out"
    return out, run(shapes_tar_twice, CONFIG, out, teacher=own())


@pytest.fixture(scope="module")
def shapes_tar_twice(tmp_path_factory, make_tar, shapes):
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(2):
        members = [
            (f"{shape.key}.{kind}", content)
            for shape in shapes
            for kind, content in (("png", shape.picture), ("txt", shape.caption.encode()))
        ]
        make_tar(folder / f"{number:05d}.tar", members)
    return str(folder)


def test_its_features_are_stored_and_labels_made_of_them(finished, shapes):
    out, summary = finished
    assert summary["teacher"] == {"name": "means", "feature_dim": 5}
    assert summary["pairs"] == 24
    described = json.loads((out / "run.json").read_text())
    assert described["config"]["teacher"] == "means"
    assert described["inputs"]["teacher"] == with_digest(own())[1]
    features = open_stage(out / "features", FEATURES)
    table = features.shard(features.shards[0])
    pictures = torch.stack([small(Image.open(io.BytesIO(shape.picture)).convert("RGB")) for shape in shapes])
    expected = Means().eval()(pictures).detach().numpy()
    assert table["key"].to_pylist() == [shape.key for shape in shapes]
    np.testing.assert_allclose(fixed_lists(table, "features").astype(np.float32), expected, atol=2e-3)
    assert load_pseudo_labels(out).sizes["objects"] > 0


def test_the_same_one_is_the_same_run_and_other_weights_another(finished, shapes_tar_twice, monkeypatch):
    out, summary = finished
    with monkeypatch.context() as patch:
        patch.setattr(steps, "compute_features", None)
        assert run(shapes_tar_twice, CONFIG, out, teacher=own()) == summary
    module = Means()
    module.turn.weight.data[0, 0] += 1
    for teacher, what in ((own(module=module), "inputs.teacher"), (own(name="others"), "config.teacher"), (None, "")):
        with pytest.raises(ArtifactError, match=f"belongs to another run .{what}"):
            run(shapes_tar_twice, CONFIG, out, teacher=teacher)


def test_it_reuses_the_parse_of_another_teacher_and_its_own_features(finished, shapes_tar_twice, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "parse_shard", None)
    monkeypatch.setattr(steps, "load_teacher", None)
    out, _ = finished
    run(shapes_tar_twice, CONFIG, tmp_path / "a", teacher=own(name="others"), reuse=out)
    monkeypatch.setattr(steps, "compute_features", None)
    run(shapes_tar_twice, dataclasses.replace(CONFIG, top_k=1), tmp_path / "b", teacher=own(), reuse=out)


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({"feature_dim": 6}, {}, "teacher 'means' gives 5 features, not feature_dim = 6"),
        ({"transform": lambda picture: picture}, {}, r"must turn a picture into a \(3, S, S\) float tensor"),
        (
            {"transform": lambda picture: 1 / 0},
            {},
            r"transform of teacher 'means' fails on a picture \(division by zero",
        ),
        ({"module": torch.nn.Linear(7, 5)}, {}, r"'means' fails on what its transform gives \(mat1 and mat2"),
        ({"module": torch.nn.Flatten(0)}, {}, r"it gives no single feature vector per picture"),
        ({}, {"image_size": 96}, "image_size is 96 but 'means' is given, with its own transform; leave image_size out"),
        ({}, {"teacher": "timm:x"}, "teacher is 'timm:x' but 'means' is given"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_parsed(
    shapes_tar_twice, tmp_path, monkeypatch, changes, options, match
):
    monkeypatch.setattr(steps, "parse_shard", None)
    with pytest.raises(ConfigError, match=match) as caught:
        run(shapes_tar_twice, dataclasses.replace(CONFIG, **options), tmp_path / "out", teacher=own(**changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "gpu"}, "device is 'gpu'; allowed: auto, cpu"),
        ({"teacher": "nope"}, "unknown teacher 'nope'"),
        ({"teacher": "timm:nope"}, "teacher 'timm:nope' cannot be loaded"),
    ],
)
def test_device_and_teacher_are_looked_at_before_anything_is_parsed(
    shapes_tar_twice, tmp_path, monkeypatch, options, match
):
    monkeypatch.setattr(steps, "parse_shard", None)
    with pytest.raises(ConfigError, match=match):
        run(shapes_tar_twice, dataclasses.replace(CONFIG, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_device_auto_is_resolved_and_stored(finished, shapes_tar_twice):
    if torch.cuda.is_available():
        pytest.skip("auto is the GPU here")
    out, summary = finished
    assert run(shapes_tar_twice, dataclasses.replace(CONFIG, device="auto"), out, teacher=own()) == summary
    assert ConceptsConfig().device == "auto"


def test_a_wrong_parser_or_teacher_leaves_nothing_that_the_right_one_would_trip_over(shapes_tar_twice, tmp_path):
    for options in ({"parser": "nowhere"}, {"teacher": "timm:nope"}):
        given = None if "teacher" in options else own()
        with pytest.raises(ValueError, match="nowhere|nope"):
            run(shapes_tar_twice, dataclasses.replace(CONFIG, **options), tmp_path / "out", teacher=given)
        assert not (tmp_path / "out").exists()


def test_pictures_without_finite_features_are_faults_with_padding_for_labels(shapes_tar_twice, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="stillroom")
    spoilt = own(module=Means(spoilt=lambda means: means[:, 0] > means[:, 1:].amax(1) + 0.01))  # the red ones
    out = tmp_path / "out"
    summary = run(shapes_tar_twice, CONFIG, out, teacher=spoilt)
    assert (summary["pairs"], summary["faults"]) == (18, {FEATURES_NOT_FINITE: 6})
    assert f"6 pictures get no labels, only padding: {ADVICE[FEATURES_NOT_FINITE]}" in caplog.messages
    assert all(np.isfinite(report["loss"][-1]) for report in summary["heads"].values() if "loss" in report)
    found = load_pseudo_labels(out)
    name = found.stage.shards[0]
    ids, probs = found.lookup([name] * 12, [f"{place:05d}" for place in range(12)])["objects"]
    assert (probs.sum(1) == 0).tolist() == [place % 4 == 0 for place in range(12)]
    assert (ids[probs == 0] == 0).all()
    assert open_stage(out / "features", FEATURES).summary["pictures"] == 18
    page = write_concepts_page(out).read_text(encoding="utf-8")  # it leaves those pictures out
    assert "a black circle" in page


def test_a_teacher_that_never_gives_numbers_is_one_line(shapes_tar_twice, tmp_path):
    spoilt = own(module=Means(spoilt=lambda means: means[:, 0] < 9))
    with pytest.raises(DataError, match="teacher 'means' gives no finite features for any picture; set precision=fp32"):
        run(shapes_tar_twice, CONFIG, tmp_path / "out", teacher=spoilt)
    run(shapes_tar_twice, CONFIG, tmp_path / "out", teacher=own())  # nothing stands in its way


def test_clip_of_hugging_face_is_its_image_tower(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=32).save_pretrained(tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}")
    assert teacher.feature_dim == 12
    assert (teacher.transform.size, teacher.transform.crop_fraction) == (32, 0.8)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output)
        torch.testing.assert_close(teacher.module(pictures), expected)


def test_a_classifier_of_hugging_face_has_no_random_pooler(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=32, patch_size=16)).eval()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}")
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.vit(pixel_values=pictures).last_hidden_state[:, 0]
        torch.testing.assert_close(teacher.module(pictures), expected)


def test_convnext_of_torchvision_is_pooled_and_its_own_words_are_told(monkeypatch):
    from torchvision.models import _api, convnext_tiny

    full = convnext_tiny().eval()
    monkeypatch.setattr(_api.WeightsEnum, "get_state_dict", lambda self, **options: full.state_dict())
    teacher = load_teacher("torchvision:convnext_tiny@IMAGENET1K_V1", image_size=64)
    assert teacher.feature_dim == 768
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(full.classifier[2](teacher.module(pictures)), full(pictures))


@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("resnet18", 512)])
def test_only_the_last_layer_of_a_classifier_goes(name, size):
    import torchvision

    from stillroom.concepts.encoders import without_last_layer

    model = torchvision.models.get_model(name, weights=None).eval()
    without_last_layer(model)
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, size)


@pytest.mark.parametrize("error", [TypeError("input_ids is missing"), AttributeError("no shape"), KeyError("x")])
def test_whatever_a_first_forward_raises_is_one_line_in_its_own_words(monkeypatch, error):
    from stillroom.concepts import teacher

    class Broken(torch.nn.Module):
        def forward(self, pictures):
            raise error

    facts = {"size": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bicubic", "crop_fraction": 1.0}
    monkeypatch.setattr(teacher, "from_timm", lambda name, **options: (Broken(), facts))
    with pytest.raises(ConfigError, match=rf"teacher 'timm:a' fails on 32 x 32 pixels.* \({error}\)") as caught:
        load_teacher("timm:a")
    assert "\n" not in str(caught.value)
