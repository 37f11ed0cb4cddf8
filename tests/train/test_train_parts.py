"""The pure parts of training: schedule, order, augmentation, parameter groups, stored size."""

import io
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from stillroom.config_io import build
from stillroom.errors import ConfigError, WriteError
from stillroom.model.load import eval_transform
from stillroom.records import Fault
from stillroom.train.augment import apply, draw, random_boxes
from stillroom.train.config import AugmentConfig, EmaConfig, ModelConfig, OptimizerConfig, TrainConfig
from stillroom.train.faults import FaultList, collect_faults
from stillroom.train.logs import cut_log
from stillroom.train.optimizer import build_optimizer, set_learning_rate
from stillroom.train.resize import PictureReader
from stillroom.train.schedule import learning_rate, rate_factor
from stillroom.train.student import MovingAverage, Student, build_heads


def test_schedule_rises_to_one_and_falls_to_almost_zero():
    rates = [rate_factor(step, steps=110, warmup=10) for step in range(110)]
    assert rates[:3] == [0.1, 0.2, pytest.approx(0.3)]
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5 * (1 + math.cos(math.pi * 50 / 100)))
    assert 0 < rates[-1] < 0.001
    assert rate_factor(0, steps=5, warmup=0) == 1.0


def test_warm_up_takes_half_of_a_short_run_at_most_and_a_constant_rate_stays():
    config = OptimizerConfig(lr=2.0, warmup_samples=80)
    assert learning_rate(0, 100, 8, config) == pytest.approx(0.2)
    assert learning_rate(1, 4, 8, config) == 2.0
    assert learning_rate(99, 100, 8, OptimizerConfig(lr=2.0, warmup_samples=0, schedule="constant")) == 2.0


def test_a_warm_up_may_be_given_in_steps():
    in_steps = OptimizerConfig(lr=2.0, warmup_samples=80, warmup_steps=20)
    in_pairs = OptimizerConfig(lr=2.0, warmup_samples=160)
    for step in (0, 7, 19, 60):
        assert learning_rate(step, 100, 8, in_steps) == learning_rate(step, 100, 8, in_pairs)
    assert learning_rate(0, 100, 8, OptimizerConfig(lr=2.0, warmup_steps=0)) == 2.0


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_crop_of_everything_is_a_plain_resize():
    images = torch.rand(2, 3, 8, 8, generator=_generator())
    config = AugmentConfig(min_crop=1.0, max_aspect=1.0)
    assert not config.changes
    assert torch.allclose(apply(images, draw(2, config, _generator()), 8), images, atol=1e-6)


def test_crops_lie_inside_and_keep_their_area():
    # A picture whose channels are its own coordinates shows which box was cut.
    line = torch.linspace(0, 1, 101)
    y, x = torch.meshgrid(line, line, indexing="ij")
    images = torch.stack([x, y, x]).repeat(200, 1, 1, 1)
    crop = apply(images, draw(200, AugmentConfig(min_crop=0.5, max_aspect=4 / 3), _generator(1)), 50)
    width = (crop[:, 0, 0, -1] - crop[:, 0, 0, 0]) * 50 / 49
    height = (crop[:, 1, -1, 0] - crop[:, 1, 0, 0]) * 50 / 49
    assert crop.min() >= -1e-6
    assert crop.max() <= 1 + 1e-6
    area, aspect = width * height, width / height
    assert area.min() > 0.47
    assert area.max() <= 1.03
    assert area.std() > 0.05
    assert aspect.min() > 0.7
    assert aspect.max() < 1.4


@pytest.mark.parametrize("min_crop", [0.9, 0.5, 0.08])
@pytest.mark.parametrize("max_aspect", [1.0, 4 / 3, 2.0])
def test_crops_have_the_area_that_was_asked_for(min_crop, max_aspect):
    boxes = random_boxes(20_000, AugmentConfig(min_crop=min_crop, max_aspect=max_aspect), _generator())
    (width, _, x), (_, height, y) = boxes.permute(1, 2, 0)
    area, aspect = width * height, width / height
    assert float(area.min()) >= min_crop - 1e-6
    assert float(area.max()) <= 1.0
    # Uniform in between, whatever the aspect.
    assert float(area.mean()) == pytest.approx((1 + min_crop) / 2, abs=0.01 * (1 - min_crop))
    assert float(area.std()) == pytest.approx((1 - min_crop) / math.sqrt(12), rel=0.02)
    assert float((width + x.abs()).max()) <= 1 + 1e-6
    assert float((height + y.abs()).max()) <= 1 + 1e-6
    # A box of area a goes into the picture up to an aspect of 1 / a; both shapes are as likely.
    reach = torch.minimum(torch.tensor(math.log(max_aspect)), -area.log())
    assert float((aspect.log().abs() - reach).max()) <= 1e-5
    if max_aspect > 1:
        share = aspect.log() / reach
        assert float(share.mean()) == pytest.approx(0.0, abs=0.02)
        assert float(share.std()) == pytest.approx(1 / math.sqrt(3), rel=0.03)


def test_colours_stay_in_range_and_draws_repeat():
    images = torch.rand(64, 3, 4, 4, generator=_generator())
    config = AugmentConfig(min_crop=1.0, max_aspect=1.0, grayscale=0.3, recolor=0.5)
    changed = apply(images, draw(64, config, _generator(7)), 4)
    assert torch.equal(changed, apply(images, draw(64, config, _generator(7)), 4))
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6
    same = torch.isclose(changed, images, atol=1e-6).flatten(1).all(dim=1)
    gray = torch.isclose(changed[:, 0], changed[:, 1]).flatten(1).all(dim=1)
    assert 0 < int(same.sum()) < 64
    assert int(gray.sum()) > 5


def test_draws_belong_to_places_of_the_batch_not_to_who_holds_them():
    images = torch.rand(6, 3, 8, 8, generator=_generator())
    config = AugmentConfig(min_crop=0.3, recolor=0.5)
    whole = apply(images, draw(6, config, _generator(3)), 8)
    places = torch.tensor([1, 4, 5])
    assert torch.equal(apply(images[places], draw(6, config, _generator(3)).at(places), 8), whole[places])


class Towers(torch.nn.Module):
    """The parts of open_clip's models that groups and averages go by."""

    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        self.text = torch.nn.Linear(4, 3)
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))


def test_groups_decay_matrices_only_and_parts_have_rates_of_their_own():
    model = Towers()
    model.visual[0].bias.requires_grad_(False)
    student = Student(model, build_heads(3, {"objects": 5}), soft_scale=50.0)
    config = OptimizerConfig(weight_decay=0.3, image_lr_multiplier=0.1, text_lr_multiplier=2.0)
    optimizer = build_optimizer(student, config)
    rates = set_learning_rate(optimizer, 0.5)
    found = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert id(model.visual[0].bias) not in found
    assert found[id(model.visual[0].weight)] == (0.3, 0.05)
    assert found[id(model.visual[1].weight)] == (0.0, 0.05)
    assert found[id(model.text.weight)] == (0.3, 1.0)
    assert found[id(model.text.bias)] == (0.0, 1.0)
    assert found[id(model.logit_scale)] == found[id(student.log_soft_scale)] == (0.0, 0.5)
    assert found[id(student.heads["objects"].weight)] == (0.01, 5.0)
    assert found[id(student.heads["objects"].bias)] == (0.0, 5.0)
    assert rates == {"lr_image": 0.05, "lr_text": 1.0, "lr_heads": 5.0}


def test_sgd_takes_beta1_as_momentum():
    optimizer = build_optimizer(Student(Towers(), build_heads(3, {})), OptimizerConfig(name="sgd", beta1=0.7))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.7}


def test_the_average_follows_parameters_and_buffers_by_hand_computed_values():
    student = Student(Towers(), build_heads(3, {}))
    student.model.text.requires_grad_(False)
    average = MovingAverage(student, EmaConfig(decay=0.5))
    assert average.decay(0) == pytest.approx(0.1)  # (1 + 0) / (10 + 0)
    assert average.decay(1) == pytest.approx(2 / 11)
    assert average.decay(1000) == 0.5
    assert MovingAverage(student, EmaConfig(decay=0.5, warm_up=False)).decay(0) == 0.5
    before = student.model.visual[0].weight.detach().clone()
    with torch.no_grad():
        student.model.visual[0].weight += 1.0
        student.model.visual[1].running_mean += 2.0
        student.model.visual[1].num_batches_tracked += 3
        student.model.text.weight += 1.0
    average.update(student, 0)
    kept = average.module.model
    assert torch.allclose(kept.visual[0].weight, before + 0.9)
    assert torch.allclose(kept.visual[1].running_mean, torch.full((3,), 1.8))
    assert int(kept.visual[1].num_batches_tracked) == 3
    assert kept.text.weight is student.model.text.weight  # frozen: shared
    assert not kept.visual[1].training
    assert not any(p.requires_grad for p in (kept.visual[0].weight, kept.logit_scale))


def test_scales_are_clamped():
    student = Student(Towers(), build_heads(3, {}), soft_scale=500.0)
    student.model.logit_scale.data.fill_(-2.0)
    student.clamp_scales(100.0)
    assert student.model.logit_scale.item() == 0.0
    assert student.log_soft_scale.exp().item() == pytest.approx(100.0, rel=1e-5)


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_pictures_are_stored_as_they_are_evaluated():
    wide = png(Image.new("RGB", (64, 32), (255, 0, 0)))
    base = {"size": 28, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "mode": "RGB"}
    reader = PictureReader(preprocess={**base, "resize_mode": "longest", "fill_color": 255})
    assert (reader.side, reader.model_side) == (32, 28)
    padded = pickle.loads(pickle.dumps(reader))(wide)
    assert padded.shape == (32, 32, 3)
    assert tuple(padded[0, 0]) == (255, 255, 255)
    assert tuple(padded[16, 16]) == (255, 0, 0)
    cut = PictureReader(preprocess={**base, "resize_mode": "shortest", "fill_color": 0}, margin=1.0)(wide)
    assert cut.shape == (28, 28, 3)
    assert (cut == [255, 0, 0]).all()


PREPROCESS = {"size": 28, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "mode": "RGB"}


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000), (700, 2)])
def test_a_thin_picture_takes_little_memory_and_time(mode, shape):
    reader = PictureReader(preprocess={**PREPROCESS, "resize_mode": mode, "fill_color": 255})
    largest = 0
    enlarge = Image.Image.resize

    def watched(image, size, *options, **more):
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return enlarge(image, size, *options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        assert reader(png(Image.new("L", shape, 7))).shape == (32, 32, 3)
    assert 0 < largest <= 100 * 32 * 32


def test_of_a_long_picture_the_middle_is_what_is_seen():
    picture = Image.new("RGB", (300, 1), "red")
    picture.paste("blue", (149, 0, 151, 1))
    seen = PictureReader(preprocess={**PREPROCESS, "resize_mode": "shortest", "fill_color": 0}, margin=1.0)(
        png(picture)
    )
    assert seen[14, 14].tolist() == [0, 0, 255]


def test_pictures_of_usual_shapes_are_resized_as_open_clip_does():
    picture = Image.effect_noise((200, 2), 80).convert("RGB")
    for mode in ("shortest", "longest"):
        preprocess = {**PREPROCESS, "resize_mode": mode, "fill_color": 255}
        steps = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
        model = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=preprocess))
        # The longer side is at most 100 times the other, or the shorter one stays at least half a pixel.
        shown = picture if mode == "shortest" else picture.crop((0, 0, 110, 2))
        assert torch.equal(eval_transform(model)(shown), steps(shown))


def test_a_log_is_cut_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    rows = [f'{{"step": {step}}}\n' for step in (20, 40, 60)]
    path.write_text("".join(rows))

    def full(self, *given, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(WriteError, match="No space left on device"):
            cut_log(path, 40)
    assert path.read_text() == "".join(rows)
    cut_log(path, 40)
    assert path.read_text() == "".join(rows[:2])
    for damaged in ('{"step": 60', "\0\0\0\n", "{}\n"):
        path.write_text("".join(rows[:2]) + damaged)
        cut_log(path, 100)
        assert path.read_text() == "".join(rows[:2])


def test_a_pair_that_fails_in_every_epoch_and_after_a_restart_is_one_fault(tmp_path):
    def fault(key, reason="image_unreadable"):
        return Fault(shard="s", key=key, reason=reason)

    first = FaultList(tmp_path, 0)
    first.add([fault("a"), fault("b")])
    first.add([fault("a")])
    with first.path.open("a") as file:
        file.write('{"shard": "s", "ke')  # killed here
    other = FaultList(tmp_path, 1)
    other.add([fault("c", "caption_empty"), fault("b")])
    summary = collect_faults(tmp_path)
    assert summary["faults"] == {"caption_empty": 1, "image_unreadable": 2}
    assert [row["key"] for row in summary["listed_faults"]] == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["faults.json"]
    # A run that was killed before it wrote its summary resumes behind its last step, and finds no fault again.
    assert collect_faults(tmp_path) == summary


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {}}, "exactly one of name, open_clip, start_from"),
        ({"model": {"name": "a", "start_from": "b"}}, "exactly one"),
        ({"model": {"open_clip": {"x": 1}}}, "no model_cfg"),
        ({"model": {"name": "a"}, "loss": {"alpha": 2.0}}, r"loss.alpha is 2.0; it must be in \[0, 1\]"),
        ({"model": {"name": "a"}, "loss": {"contrastive": "clip"}}, "allowed: 'info_nce', 'hard_negative_nce'"),
        ({"model": {"name": "a"}, "batch_size": 1}, "at least 2"),
        ({"model": {"name": "a"}, "optimiser": {}}, "did you mean 'optimizer'"),
        ({"model": {"name": "a"}, "augment": {"min_crop": 0.0}}, r"\(0, 1\]"),
        ({"model": {"name": "a"}, "samples": 0}, "samples is 0 and epochs is 0.0; one must be above 0"),
        ({"model": {"name": "a"}, "epochs": 2}, "samples is 9 and epochs is 2.0; one must be above 0"),
        ({"model": {"name": "a", "unlocked_text_layers": 2}}, "unlocked_text_layers is 2, but lock_text is not set"),
        ({"model": {"name": "a"}, "loss": {"soft_labels": {"weight": 0.5}}}, "but ema.decay is 0"),
        ({"model": {"name": "a"}, "loss": {"label_smoothing": 0.1}}, "for loss.contrastive = 'info_nce' only"),
        ({"model": {"name": "a"}, "loss": {"contrastive_weight": 0, "concept_weight": 0}}, "nothing to learn"),
        ({"model": {"name": "a"}, "ema": {"export": True}}, "ema.decay is 0: there is no average"),
        ({"model": {"name": "a"}, "micro_batch": 0}, "micro_batch is 0"),
        ({"model": {"name": "a"}, "stream": {"lanes": 0}}, "stream.lanes is 0"),
        ({"model": {"name": "a"}, "seed": -1}, r"seed is -1; it must be in \[0, 2147483647\]"),
        ({"model": {"name": "a"}, "seed": 2**31}, r"seed is 2147483648; it must be in \[0, 2147483647\]"),
        ({"model": {"name": "a"}, "optimizer": {"beta1": -0.1}}, "optimizer.beta1 is -0.1; it must be 0 or more and"),
        (
            {"model": {"name": "a"}, "optimizer": {"beta2": 1.0}},
            "optimizer.beta2 is 1.0; it must be 0 or more and below",
        ),
        ({"model": {"name": "a"}, "optimizer": {"eps": -1.0}}, "optimizer.eps is -1.0; it must be above 0"),
        ({"model": {"name": "a"}, "optimizer": {"max_grad_norm": -1.0}}, "max_grad_norm is -1.0; it must be 0 or more"),
        ({"model": {"name": "a"}, "optimizer": {"max_logit_scale": 1.0}}, "max_logit_scale is 1.0; it must be above 1"),
        ({"model": {"name": "a"}, "optimizer": {"warmup_steps": -1}}, "optimizer.warmup_steps is -1; it must be 0 or"),
        ({"model": {"name": "a"}, "augment": {"grayscale": 1.5}}, r"augment.grayscale is 1.5; it must be in \[0, 1\]"),
        ({"model": {"name": "a"}, "augment": {"recolor": -0.5}}, r"augment.recolor is -0.5; it must be in \[0, 1\]"),
        (
            {"model": {"name": "a"}, "augment": {"grayscale": 0.6, "recolor": 0.6}},
            "grayscale and recolor add up to 1.2",
        ),
        (
            {"model": {"name": "a"}, "loss": {"soft_labels": {"text_text": -1.0}}},
            "soft_labels.text_text is -1.0; it must",
        ),
    ],
)
def test_a_bad_recipe_is_one_clear_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(TrainConfig, {"samples": 9, "batch_size": 4, **values}, source="recipe.toml")
    assert str(caught.value).startswith("recipe.toml: ")
    assert "\n" not in str(caught.value)


def test_model_config_names_what_was_given():
    with pytest.raises(ConfigError, match="none"):
        ModelConfig()
