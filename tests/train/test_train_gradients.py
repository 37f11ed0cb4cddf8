"""Loss and gradients of a batch: gradient caching against the whole batch, whatever is minimised."""

import copy

import pytest
import torch

from stillroom.config_io import build
from stillroom.train.config import EmaConfig
from stillroom.train.config_loss import LossConfig
from stillroom.train.gradients import Gradients
from stillroom.train.prepare import Part, Prepared
from stillroom.train.ranks import Ranks
from stillroom.train.student import MovingAverage, Student, build_heads

PAIRS = 11
CPU = torch.device("cpu")
LOSSES = {
    "InfoNCE, smoothed": {"contrastive": "info_nce", "label_smoothing": 0.1, "concept_weight": 0.0},
    "HN-NCE": {"concept_weight": 0.0},
    "HN-NCE, concepts": {"concept_weight": 0.7},
    "concepts alone": {"contrastive_weight": 0.0},
    "soft labels": {"contrastive_weight": 0.5, "soft_labels": {"weight": 0.5}},
    "soft labels alone": {"contrastive_weight": 0.0, "concept_weight": 0.0, "soft_labels": {"weight": 1.0}},
    "transport": {"soft_labels": {"weight": 0.3, "targets": "transport", "diagonal": False, "image_image": 1.0}},
}


class Towers(torch.nn.Module):
    """Two small towers with open_clip's interface."""

    def __init__(self, middle=None):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(6, 8), middle or torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.text = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pictures):
        return self.visual(pictures)

    def encode_text(self, tokens):
        return self.text(tokens)


def batch():
    generator = torch.Generator().manual_seed(1)
    pictures, texts = torch.randn(PAIRS, 6, generator=generator), torch.randn(PAIRS, 5, generator=generator)
    ids = torch.randint(0, 7, (PAIRS, 2), generator=generator)
    probs = torch.rand(PAIRS, 2, generator=generator)
    probs = probs / probs.sum(1, keepdim=True)
    captions = torch.tensor([0, 1, 2, 3, 0, 4, 5, 6, 2, 7, 8])
    return Prepared(
        caption_ids=captions,
        part=lambda rows: Part(
            pictures=pictures[rows], texts=texts[rows], targets={"objects": (ids[rows], probs[rows])}
        ),
    )


def gradients(loss, micro_batch, *, middle=None, precision="fp32"):
    torch.manual_seed(0)
    config = build(LossConfig, loss, source="test")
    sizes = {"objects": 7} if config.concept_weight > 0 else {}
    soft = 20.0 if config.soft_labels.weight > 0 else None
    student = Student(Towers(copy.deepcopy(middle)), build_heads(4, sizes), soft_scale=soft)
    average = MovingAverage(student, EmaConfig(decay=0.9))
    with torch.no_grad():  # a teacher that differs
        for parameter in average.module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    ranks = Ranks(rank=0, world=1, node_size=1, device=CPU, group=None)
    return Gradients(
        student=student.train(),
        wrapped=student,
        average=average,
        loss=config,
        ranks=ranks,
        precision=precision,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        micro_batch=micro_batch,
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 4, 10])
def test_gradient_caching_gives_the_whole_batchs_loss_and_gradient(name, micro_batch):
    whole, cached = gradients(LOSSES[name], None), gradients(LOSSES[name], micro_batch)
    terms, parts = whole.backward(batch()), cached.backward(batch())
    assert terms.keys() == parts.keys()
    for key, value in terms.items():
        assert torch.allclose(value, parts[key], rtol=1e-5), key
    reached = 0
    for (key, first), second in zip(whole.student.named_parameters(), cached.student.parameters(), strict=True):
        if first.grad is None:
            assert second.grad is None or not second.grad.any(), key
            continue
        reached += 1
        assert torch.allclose(first.grad, second.grad, rtol=1e-4, atol=1e-5 * float(first.grad.abs().max())), key
    assert reached >= 4


@pytest.mark.parametrize("name", LOSSES)
def test_the_sum_is_weighted_and_concepts_are_their_own_mean(name):
    config = LOSSES[name]
    terms = gradients(config, None).backward(batch())
    soft = config.get("soft_labels", {}).get("weight", 0.0)
    weights = {
        "contrastive": config.get("contrastive_weight", 1.0),
        "soft_labels": soft,
        "objects": config.get("concept_weight", 1.0),
    }
    assert {key for key, weight in weights.items() if weight > 0} == terms.keys() - {"loss"}
    total = sum(weights[key] * float(value) for key, value in terms.items() if key != "loss")
    assert float(terms["loss"]) == pytest.approx(total, rel=1e-6)


def test_the_teacher_gets_no_gradient_and_never_trains():
    made = gradients(LOSSES["soft labels"], 4)
    before = copy.deepcopy(made.average.module.state_dict())
    made.backward(batch())
    after = made.average.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in made.average.module.parameters())


def test_dropout_is_the_same_in_both_passes(monkeypatch):
    made = gradients(LOSSES["HN-NCE"], 4, middle=torch.nn.Dropout(0.5))
    seen = []
    forward = made.student.forward
    made.student.forward = lambda *tensors: seen.append(forward(*tensors)) or seen[-1]
    made.backward(batch())
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first.image, second.image)
    assert not torch.equal(seen[0].image[:1], made.student.eval()(*_first_part()).image[:1])


def _first_part():
    part = batch().part(slice(0, 4))
    return part.pictures, part.texts


def test_batch_norm_moves_its_averages_once_a_part():
    made = gradients(LOSSES["HN-NCE"], 4, middle=torch.nn.BatchNorm1d(8))
    norm = made.student.model.visual[1]
    expected = copy.deepcopy(made.student.model)
    with torch.no_grad():
        for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):
            expected.encode_image(batch().part(rows).pictures)
    made.backward(batch())
    assert torch.allclose(norm.running_mean, expected.visual[1].running_mean)
    assert int(norm.num_batches_tracked) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_stay_in_float32_in_lower_precision(precision):
    low, full = (
        gradients(LOSSES["HN-NCE, concepts"], 4, precision=precision),
        gradients(LOSSES["HN-NCE, concepts"], None),
    )
    terms, exact = low.backward(batch()), full.backward(batch())
    assert all(value.dtype == torch.float32 for value in terms.values())
    assert float(terms["loss"]) == pytest.approx(float(exact["loss"]), rel=0.03)
    assert float(terms["loss"]) != float(exact["loss"])
