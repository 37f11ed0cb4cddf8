"""What stored features are named by: all that they depend on, and nothing else."""

import copy

import torch
from train_miniature import MODEL

from stillroom.model.towers import create_model
from stillroom.train.stored import trunk_digest

TOWERS = MODEL["model_cfg"]
VISION, TEXT = TOWERS["vision_cfg"], TOWERS["text_cfg"]


def model(**changes):
    """Return a model with the same weights whatever the settings: none here changes a shape."""
    torch.manual_seed(0)
    return create_model({**copy.deepcopy(MODEL), "model_cfg": {**TOWERS, **changes}})


def digests(made):
    return trunk_digest(made, "image", b"pixels"), trunk_digest(made, "text", b"tokens")


def test_the_same_weights_with_another_activation_are_another_trunk():
    plain, quick = model(), model(quick_gelu=True)
    assert all(torch.equal(tensor, quick.state_dict()[name]) for name, tensor in plain.state_dict().items())
    pictures = torch.rand(2, 3, 16, 16)
    assert not torch.allclose(plain.encode_image(pictures), quick.encode_image(pictures))
    assert all(a != b for a, b in zip(digests(plain), digests(quick), strict=True))


def test_heads_and_pooling_count_and_each_tower_has_a_name_of_its_own():
    image, text = digests(model())
    heads = digests(model(vision_cfg={**VISION, "head_width": 8}))
    assert (heads[0] != image, heads[1] == text) == (True, True)
    pooled = digests(model(vision_cfg={**VISION, "pool_type": "avg"}))
    assert (pooled[0] != image, pooled[1] == text) == (True, True)
    last = digests(model(text_cfg={**TEXT, "pool_type": "last"}))
    assert (last[0] == image, last[1] != text) == (True, True)


def test_mode_projection_and_scale_do_not_count():
    first, second = model(), model().eval()
    with torch.no_grad():
        second.visual.proj += 1
        second.text_projection += 1
        second.logit_scale += 1
    assert digests(first) == digests(second)
    with torch.no_grad():
        second.visual.conv1.weight += 1
        second.token_embedding.weight += 1
    assert all(a != b for a, b in zip(digests(first), digests(second), strict=True))
