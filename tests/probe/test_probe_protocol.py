import json

import numpy as np
import pytest
import torch
from probe_problems import make_problem, unit
from sklearn.datasets import load_digits

from stillroom.errors import ConfigError, DataError
from stillroom.probe import few_shot_curve
from stillroom.probe.baselines import Shots, fit_method, fit_probe, probe_grid
from stillroom.probe.config import METHODS, ProbeConfig
from stillroom.probe.draws import draw_shots, split_half

SMALL = ProbeConfig(
    radii=(0.0, 0.1, 0.4),
    l2_from_scratch=(1e-3, 1e-1),
    l2_to_prompts=(1e-2, 1.0),
    mixes=(0.0, 0.5),
    cache_weights=(0.1,),
    cache_sharpness=(5.5, 20.0),
    shots=(1, 4),
    draws=2,
)


@pytest.fixture(scope="module")
def data():
    features, labels, prompts = make_problem(per_class=40)
    pool, test = split_half(labels, seed=0)
    return {
        "features": features[pool],
        "labels": labels[pool],
        "prompt_weights": prompts,
        "test_features": features[test],
        "test_labels": labels[test],
        "logit_scale": 20.0,
        "config": SMALL,
    }


def curve(data, **changes):
    given = {**data, **changes}
    return few_shot_curve(given.pop("features"), given.pop("labels"), given.pop("prompt_weights"), **given)


def test_records_start_at_zero_shot_and_hold_mean_spread_and_paired_difference(data):
    points = curve(data)
    json.dumps(points, allow_nan=False)
    zero = np.mean((data["test_features"] @ data["prompt_weights"]).argmax(1) == data["test_labels"])
    assert (points[0]["method"], points[0]["shots"], points[0]["accuracy"]) == ("zero_shot", 0, pytest.approx(zero))
    assert {(p["method"], p["shots"]) for p in points[1:]} == {
        (method, shots) for method in METHODS if method != "zero_shot" for shots in (1, 4)
    }
    for point in points[1:]:
        assert point["accuracy"] == pytest.approx(np.mean(point["accuracies"]))
        assert point["spread"] == pytest.approx(np.std(point["accuracies"], ddof=1))
        assert point["difference"] == pytest.approx(np.mean(point["accuracies"]) - zero)
        assert len(point["settings"]) == 2
        assert (point["pictures"], point["validation_pictures"]) == (5 * point["shots"],) * 2


def test_test_labels_cannot_influence_the_choice(data):
    shuffled = np.random.default_rng(0).permutation(data["test_labels"])
    honest, permuted = curve(data), curve(data, test_labels=shuffled)
    assert [p["settings"] for p in honest] == [p["settings"] for p in permuted]
    assert [p["accuracies"] for p in honest] != [p["accuracies"] for p in permuted]


def test_test_features_cannot_influence_the_choice(data):
    other = curve(data, test_features=data["test_features"][:3], test_labels=data["test_labels"][:3])
    assert [p["settings"] for p in curve(data)] == [p["settings"] for p in other]


def test_seeds_repeat_and_matter(data):
    assert curve(data) == curve(data)
    assert curve(data) != curve(data, seed=1)


def test_arguments_go_before_the_config(data):
    points = curve(data, shots=[2], draws=3, methods=["prompt_probe"])
    assert [(p["method"], p["shots"], len(p["accuracies"])) for p in points] == [
        ("zero_shot", 0, 3),
        ("prompt_probe", 2, 3),
    ]


def test_classes_with_few_pictures_are_named(data):
    few = np.concatenate([np.flatnonzero(data["labels"] == label)[: 3 if label == 1 else 40] for label in range(5)])
    points = curve(data, features=data["features"][few], labels=data["labels"][few])
    assert {p["shots"]: p["short_classes"] for p in points} == {0: (), 1: (), 4: (1,)}


def test_a_class_without_any_picture_is_refused(data):
    rows = data["labels"] != 3
    with pytest.raises(DataError, match="no shots for class 3"):
        curve(data, features=data["features"][rows], labels=data["labels"][rows])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shots": [4, 1]}, ConfigError, "ascending"),
        ({"shots": []}, ConfigError, "ascending"),
        ({"shots": [0]}, ConfigError, "from 1 on"),
        ({"draws": 0}, ConfigError, "draws is 0"),
        ({"methods": ["svm"]}, ConfigError, "unknown 'svm'"),
        ({"logit_scale": -1}, ConfigError, "logit_scale"),
        ({"test_labels": np.array([9] * 100)}, DataError, "test_labels"),
        ({"test_features": np.ones((100, 3))}, DataError, "test_features have 3 dimensions"),
    ],
)
def test_bad_input_is_one_clear_line(data, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        curve(data, **changes)
    assert "\n" not in str(caught.value)


def shots_of(features, labels, prompts, scale=20.0):
    return Shots(
        features=torch.as_tensor(features)[None],
        labels=torch.as_tensor(labels)[None],
        prompt_weights=torch.as_tensor(prompts),
        logit_scale=scale,
    )


def test_cache_model_by_hand():
    features, labels, prompts = make_problem(classes=3, per_class=2, dimensions=4)
    config = ProbeConfig(cache_weights=(0.5,), cache_sharpness=(3.0,))
    (candidate,) = fit_method("cache_model", shots_of(features, labels, prompts), config)
    query = unit(np.random.default_rng(3).normal(size=(5, 4)))
    expected = 20.0 * query @ prompts
    for row in range(5):
        for shot in range(6):
            expected[row, labels[shot]] += 0.5 * 20.0 * np.exp(-3.0 * (1 - query[row] @ features[shot]))
    np.testing.assert_allclose(candidate.logits(torch.as_tensor(query)[None])[0], expected, rtol=1e-12)


def test_ends_of_the_interpolation_are_zero_shot_and_the_widest_probe():
    features, labels, prompts = make_problem()
    config = ProbeConfig(radii=(0.0, 0.3, 0.1), mixes=(0.0, 1.0))
    shots = shots_of(features, labels, prompts)
    query = shots.features
    zero, widest = (c.logits(query) for c in fit_method("interpolation", shots, config))
    torch.testing.assert_close(zero, config.scale_share * fit_method("zero_shot", shots, config)[0].logits(query))
    place = probe_grid(config).index((0.3, 4.0))
    torch.testing.assert_close(widest, fit_method("prompt_probe", shots, config)[place].logits(query))


def test_the_grid_of_the_probe_begins_at_zero_shot_and_its_radii_are_shares_of_the_prompts():
    features, labels, prompts = make_problem()
    shots, config = shots_of(features, labels, 3 * prompts), ProbeConfig(radii=(0.0, 0.05), bias_radii=(0.0, 0.5))
    fit = fit_probe(shots, config)
    torch.testing.assert_close(fit.offsets[0, 0], torch.zeros_like(fit.offsets[0, 0]), atol=0, rtol=0)
    norms = torch.linalg.matrix_norm(fit.offsets[0].double()) / np.linalg.norm(3 * prompts)
    np.testing.assert_allclose(norms, [0, 0, 0.05, 0.05], atol=1e-6)
    assert (norms <= torch.tensor([0, 0, 0.05, 0.05], dtype=torch.float64) + 1e-9).all()
    assert (torch.linalg.vector_norm(fit.bias[0], dim=-1) <= torch.tensor([0, 0.5, 0, 0.5]) + 1e-6).all()
    first = fit_method("prompt_probe", shots, config, probe=fit)[0].logits(shots.features)
    zero = fit_method("zero_shot", shots, config)[0].logits(shots.features)
    torch.testing.assert_close(first, config.scale_share * zero)


def test_a_heavy_penalty_stays_at_the_prompts_and_from_scratch_ignores_them():
    features, labels, prompts = make_problem()
    config = ProbeConfig(l2_to_prompts=(1e9,), l2_from_scratch=(1e-2,))
    shots = shots_of(features, labels, prompts)
    penalised = fit_method("prompt_penalty", shots, config)[0].logits(shots.features)
    gap = penalised - config.scale_share * fit_method("zero_shot", shots, config)[0].logits(shots.features)
    assert (gap - gap.mean(1, keepdim=True)).abs().max() < 1e-4, "only the bias, free in this baseline, may differ"
    other = shots_of(features, labels, -prompts, scale=3.0)
    scratch, same = (fit_method("logistic_regression", s, config)[0].logits(s.features) for s in (shots, other))
    torch.testing.assert_close(scratch, same)


def test_on_digits_the_probe_climbs_from_zero_shot_and_beats_scratch_at_few_shots():
    pixels, labels = load_digits(return_X_y=True)
    features = unit(pixels)
    rng = np.random.default_rng(0)
    means = np.stack([features[labels == c][:5].mean(0) for c in range(10)])
    prompts = unit(means + 0.06 * rng.normal(size=means.shape)).T
    pool, test = split_half(labels, seed=0)
    points = few_shot_curve(
        features[pool],
        labels[pool],
        prompts,
        test_features=features[test],
        test_labels=labels[test],
        shots=(1, 4, 16),
        methods=("prompt_probe", "logistic_regression"),
        logit_scale=20.0,
    )
    score = {(p["method"], p["shots"]): p for p in points}
    probe = [score["prompt_probe", shots] for shots in (1, 4, 16)]
    assert all(point["difference"] >= -point["spread"] for point in probe)
    assert probe[0]["accuracy"] < probe[1]["accuracy"] < probe[2]["accuracy"]
    assert probe[0]["accuracy"] > score["logistic_regression", 1]["accuracy"]


def test_short_classes_do_not_depend_on_the_draw():
    labels = np.repeat([0, 1, 2], [2, 9, 40])
    draws = [draw_shots(labels, 3, 8, seed=0, draw=draw) for draw in range(4)]
    assert {draw.short_classes for draw in draws} == {(0, 1)}
    assert len({len(draw.shots) for draw in draws}) == 1
