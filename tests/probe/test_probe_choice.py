import numpy as np
import pytest
import torch
from probe_problems import mean_loss
from scipy.optimize import minimize_scalar

from stillroom.probe.baselines import Candidate
from stillroom.probe.choice import choose, tempered_loss


def constant(logits):
    return Candidate(setting={}, logits=lambda x: logits)


def some_logits(seed=0, *, draws=3, pictures=20, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (draws, pictures))
    logits = rng.normal(size=(draws, pictures, classes)) + 1.0 * np.eye(classes)[labels]
    return torch.as_tensor(logits), torch.as_tensor(labels)


def test_the_loss_is_the_lowest_over_temperatures():
    logits, labels = some_logits()
    for draw, loss in enumerate(tempered_loss(logits, labels).tolist()):
        rows, y = logits[draw].numpy(), labels[draw].numpy()
        best = minimize_scalar(
            lambda t, rows=rows, y=y: mean_loss(rows, y, np.eye(4), 0.0, np.exp(t)), bounds=(-6, 6), method="bounded"
        )
        assert loss == pytest.approx(best.fun, abs=1e-5)


def test_size_and_offset_of_the_logits_do_not_matter():
    logits, labels = some_logits()
    same = tempered_loss(1e3 * logits + 7.0 * torch.randn(3, 20, 1, dtype=torch.float64), labels)
    torch.testing.assert_close(same, tempered_loss(logits, labels))


def test_worse_than_guessing_is_no_better_than_guessing():
    logits, labels = some_logits()
    assert (tempered_loss(-5 * logits, labels) >= np.log(4) - 1e-2).all()
    torch.testing.assert_close(tempered_loss(0 * logits, labels), torch.full((3,), np.log(4.0), dtype=torch.float64))


def test_each_draw_gets_its_best_and_ties_go_to_the_first():
    good, labels = some_logits()
    bad = -good
    mixed = torch.stack([good[0], bad[1], good[2]])
    features = torch.zeros(3, 20, 2)
    assert choose([constant(bad), constant(mixed), constant(good)], features, labels) == [1, 2, 1]


def test_without_validation_pictures_the_first_is_chosen():
    logits, labels = some_logits()
    assert choose([constant(logits[:, :0])] * 2, torch.zeros(3, 0, 2), labels[:, :0]) == [0, 0, 0]


def test_a_near_miss_counts_less_than_a_wide_one():
    labels = torch.tensor([[0, 0, 1]])
    right, near, wide = [2.0, 0.0], [0.9, 1.0], [0.0, 2.0]
    near_miss = torch.tensor([[right, near, [0.0, 2.0]]], dtype=torch.float64)
    wide_miss = torch.tensor([[right, wide, [0.0, 2.0]]], dtype=torch.float64)
    assert choose([constant(wide_miss), constant(near_miss)], torch.zeros(1, 3, 2), labels) == [1]
