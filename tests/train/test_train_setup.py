"""Models as a run gets them: what learns, where probes run, which shapes of pictures are possible."""

import copy

import pytest
import torch
from train_miniature import MODEL, config

from stillroom.errors import ConfigError
from stillroom.train.config import AugmentConfig
from stillroom.train.setup import build_model, stores_images

STILL = AugmentConfig(min_crop=1.0, max_aspect=1.0)
TOWERS = MODEL["model_cfg"]
COCA = {
    "model_cfg": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {
            **TOWERS["vision_cfg"],
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TOWERS["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TOWERS["text_cfg"], "attn_pooler_heads": 2},
    },
    "preprocess_cfg": {},
}


def built(**model):
    torch.manual_seed(0)
    chosen = config(model={"open_clip": MODEL, **model}).model
    return chosen, *build_model(chosen)


def test_whether_pictures_are_stored_is_found_out_on_the_model_s_own_device():
    # "meta" stands in for a GPU: it too refuses a picture on the CPU.
    chosen, _, model, _ = built(lock_image=True)
    assert stores_images(model.to("meta"), chosen, STILL)
    assert not stores_images(model, chosen, AugmentConfig())


def without_gradient(model, tokenizer):
    """Return the names of parameters that say they learn, and get no gradient from either embedding or the scale."""
    pictures = torch.rand(2, 3, 16, 16)
    both = model.encode_image(pictures).sum() + model.encode_text(tokenizer(["a b", "c"])).sum()
    (both * model.logit_scale.exp()).backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_what_no_embedding_depends_on_does_not_learn():
    # DDP would wait for its gradients, and it would count as learning.
    _, _, model, tokenizer = built(open_clip=copy.deepcopy(COCA))
    frozen = {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert "text_decoder" in frozen
    assert model.logit_scale.requires_grad
    assert model.training
    assert without_gradient(model, tokenizer) == []


def test_of_plain_towers_all_learns_and_no_random_number_is_drawn_to_find_out(monkeypatch):
    _, _, model, _ = built()
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = torch.rand(3)
    monkeypatch.setattr("stillroom.train.setup.freeze_unused", lambda *given: None)
    built()
    assert torch.equal(torch.rand(3), after)


def test_what_is_locked_stays_locked():
    _, _, model, _ = built(lock_image=True, lock_text=True)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"visual.proj", "text_projection", "logit_scale"}


def test_pictures_that_are_not_square_are_refused_in_a_line():
    tall = {**TOWERS, "vision_cfg": {**TOWERS["vision_cfg"], "image_size": [24, 16]}}
    with pytest.raises(ConfigError, match="pictures of 16 x 24 pixels; training takes square ones") as caught:
        built(open_clip={"model_cfg": tall, "preprocess_cfg": {}})
    assert "\n" not in str(caught.value)
