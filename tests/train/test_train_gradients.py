"""Loss and gradients of a batch: gradient caching against the whole batch, whatever is minimised."""

import copy
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gradients_miniature import CPU, LOSSES, batch, close, filled, gradients

from stillroom.train.batch import Batch
from stillroom.train.config import AugmentConfig
from stillroom.train.objective import concept_losses
from stillroom.train.prepare import Preparer
from stillroom.train.stored import StoredFeatures


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("micro_batch", [1, 4, 10])
def test_gradient_caching_gives_the_whole_batchs_loss_and_gradient(name, micro_batch):
    whole, cached = gradients(LOSSES[name], None), gradients(LOSSES[name], micro_batch)
    terms, parts = whole.backward(batch()), cached.backward(batch())
    assert terms.keys() == parts.keys()
    for key, value in terms.items():
        assert torch.allclose(value, parts[key], rtol=1e-5), key
    assert len(filled(whole)) >= 4
    assert close(filled(whole), filled(cached))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_all_that_learns_gets_a_gradient_and_nothing_else_does(name, micro_batch):
    made = gradients(LOSSES[name], micro_batch)
    made.backward(batch())
    for key, parameter in made.student.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    frozen = {key for key, parameter in made.student.named_parameters() if not parameter.requires_grad}
    assert ("model.logit_scale" in frozen) == name.endswith("alone")
    assert ("model.text.0.weight" in frozen) == (name == "concepts alone")


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_caching_with_a_frozen_tower_and_a_scaler_at_work(name):
    settings = {"scaled": True, "frozen_text": True}
    plain = gradients(LOSSES[name], None, frozen_text=True)
    whole, cached = gradients(LOSSES[name], None, **settings), gradients(LOSSES[name], 4, **settings)
    for made in (plain, whole, cached):
        made.backward(batch())
    assert not any(key.startswith("model.text") for key in filled(cached))
    assert close(filled(plain), filled(whole))
    assert close(filled(plain), filled(cached))


def test_gradient_caching_holds_the_logits_of_one_part():
    made = gradients(LOSSES["soft labels"], 1)
    made.average.module.heads = made.student.heads
    seen, alive = [], []
    for head in made.student.heads.values():
        head.register_forward_hook(lambda head, given, logits: seen.append(weakref.ref(logits)))
    forward = made.student.forward
    made.student.forward = lambda *tensors, **options: (
        alive.append(sum(logits() is not None for logits in seen)) or forward(*tensors, **options)
    )
    made.backward(batch())
    assert len(seen) == 11  # teacher and first pass, which have no use for them, make none
    assert max(alive) <= 1


def test_a_batch_of_no_pairs_has_no_terms_and_leaves_no_gradient():
    for micro_batch in (None, 4):
        made = gradients(LOSSES["HN-NCE, concepts"], micro_batch)
        assert made.backward(batch(3, 3)) == {}
        assert all(gradient is None for gradient in filled(made).values())


@pytest.mark.parametrize("stored", [False, True])
def test_filler_has_the_shapes_of_pairs_and_labels_of_none(stored):
    labels = SimpleNamespace(names={"objects": ("a", "b"), "attributes": ("c",)})
    preparer = Preparer(
        preprocess={"mean": [0.5] * 3, "std": [0.5] * 3},
        side=16,
        augment=AugmentConfig(),
        tokenizer=lambda captions: torch.ones(len(captions), 8, dtype=torch.int32),
        texts=StoredFeatures(np.arange(4), np.ones((4, 5), np.float16)) if stored else None,
        labels=labels,
        batch_size=8,
        seed=0,
        device=CPU,
    )
    pictures = np.zeros((0, 7), np.float16) if stored else np.zeros((0, 0, 0, 3), np.uint8)
    none = Batch(shards=[], keys=[], captions=[], pictures=pictures, positions=np.zeros(0, np.int64))
    prepared = preparer.prepare(none, 3)
    part = prepared.part(slice(0, 0))
    assert len(prepared) == 0
    assert tuple(part.pictures.shape) == ((2, 7) if stored else (2, 3, 16, 16))
    assert tuple(part.texts.shape) == ((2, 5) if stored else (2, 8))
    assert part.texts.dtype == (torch.float32 if stored else torch.int64)
    assert part.targets.keys() == labels.names.keys()
    for ids, probs in part.targets.values():
        assert ids.shape == probs.shape == (0, 1)
    logits = {kind: torch.zeros(0, len(names)) for kind, names in labels.names.items()}
    assert all(float(term) == 0 for term in concept_losses(logits, part.targets, 0.0).values())


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
    made.student.forward = lambda *tensors, **options: seen.append(forward(*tensors, **options)) or seen[-1]
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
