"""Towers of every kind: trunk and head, locking, training mode, trimmed texts, checkpoints, sizes that do not meet."""

import copy
import logging

import pytest
import torch

from stillroom.errors import ConfigError
from stillroom.model.locking import enable_gradient_checkpointing, lock_towers, set_training_mode, trunk_groups
from stillroom.model.packaged import packaged_text
from stillroom.model.parts import (
    encode_text,
    image_head,
    image_trunk,
    projection,
    text_head,
    text_trunk,
    tower_parameters,
    trim_padding,
    trunk_parameters,
    trunk_state,
)
from stillroom.model.towers import create_model, create_tokenizer

VIT = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 3}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
HF = {"hf_model_name": MINILM, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 16}
BERT_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


def timm_tower(name, size, pool="avg", proj="linear", **other):
    return {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj, **other}


IMAGE = {
    "vit": VIT,
    "vit, average pool": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "resnet": {"layers": [1, 2, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
    "timm, linear": timm_tower("test_resnet", 64),
    "timm, mlp": timm_tower("test_vit", 160, proj="mlp"),
    "timm, classifier": timm_tower("mobilenetv3_small_050", 64, proj=""),
    "timm, classifier of a vit": timm_tower("test_vit", 160, proj=""),
    "timm, attention pool": timm_tower("resnet10t", 64, pool="abs_attn", proj=""),
    "timm, none": timm_tower("test_vit", 160, proj="none"),
}
TEXTS = {
    "clip": ({}, TEXT),
    "clip, projection with bias": ({}, {**TEXT, "proj_bias": True}),
    "custom": ({"custom_text": True}, TEXT),
    "custom, eos": ({"custom_text": True}, {**TEXT, "pool_type": "eos", "eos_id": 63}),
    "custom, not causal": ({"custom_text": True}, {**TEXT, "pool_type": "last", "no_causal_mask": True}),
    "custom, no projection": ({"custom_text": True}, {**TEXT, "proj_type": "none"}),
    "hf": ({}, HF),
}


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, **BERT_SIZES), add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def make(vision=VIT, text="clip", embed_dim=32, **changes):
    other, text_cfg = TEXTS[text] if isinstance(text, str) else ({}, text)
    torch.manual_seed(0)
    if vision.get("timm_proj") == "none":
        embed_dim = 64  # what test_vit gives
    text_cfg = {**text_cfg, "width": embed_dim} if "width" in text_cfg else text_cfg
    described = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": {**text_cfg, **changes}, **other}
    return create_model({"model_cfg": described, "preprocess_cfg": {}})


def pictures(model, count=2):
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def captions(length=16, used=(5, 9, 3)):
    """Tokens that end in 63, the highest, then zeros."""
    tokens = torch.zeros(len(used), length, dtype=torch.long)
    generator = torch.Generator().manual_seed(2)
    for row, count in enumerate(used):
        tokens[row, : count - 1] = torch.randint(1, 63, (count - 1,), generator=generator)
        tokens[row, count - 1] = 63
    return tokens


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", IMAGE)
def test_image_head_of_trunk_is_the_tower(kind):
    model = make(IMAGE[kind]).eval()
    with torch.no_grad():
        features = image_trunk(model, pictures(model))
        result, whole = image_head(model)(features), model.encode_image(pictures(model))
    assert len(features) == 2
    torch.testing.assert_close(result, whole, rtol=1e-5, atol=1e-5)
    assert (projection(model, "image") is None) == (kind == "timm, none")


def test_image_features_have_the_trunks_width():
    widths = {"vit": 32, "resnet": 512, "timm, linear": 96, "timm, mlp": 64, "timm, classifier": 1024}
    for kind, width in widths.items():
        model = make(IMAGE[kind]).eval()
        assert image_trunk(model, pictures(model)).shape == (2, width)
    model = make(IMAGE["timm, attention pool"]).eval()
    assert image_trunk(model, pictures(model)).shape == (2, 512, 2, 2)


@pytest.mark.parametrize("kind", TEXTS)
def test_text_head_of_trunk_is_the_tower(kind):
    model = make(text=kind).eval()
    with torch.no_grad():
        features = text_trunk(model, captions())
        result = text_head(model)(features)
        torch.testing.assert_close(result, model.encode_text(captions()), rtol=1e-6, atol=1e-6)
    assert features.shape == (3, 384 if kind == "hf" else 32)
    assert (projection(model, "text") is None) == (kind == "custom, no projection")


def test_what_stands_aside_during_a_split_comes_back():
    model = make()
    names = [name for name, _ in model.named_parameters()]
    image_trunk(model, pictures(model))
    with pytest.raises(RuntimeError):
        image_trunk(model, torch.zeros(1))
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("kind", ["clip", "clip, projection with bias", "custom", "custom, eos", "hf"])
def test_trimmed_texts_have_the_same_embeddings_and_gradients(kind):
    model = make(text=kind).eval()
    short = trim_padding(model, captions())
    assert short.shape == (3, 9)
    found = []
    for encode, tokens in ((model.encode_text, captions()), (lambda given: encode_text(model, given), short)):
        model.zero_grad()
        result = encode(tokens)
        result.pow(3).sum().backward()
        found.append((result.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max() + 1e-3))


def test_end_tokens_decide_not_padding():
    """What stands behind the end token is of no account; a row without one is pooled at its first token by "eos"."""
    model = make(text="custom, eos").eval()
    tokens = captions()
    tokens[0, 12] = 7
    assert trim_padding(model, tokens).shape == (3, 9)
    tokens[1] = 5
    short = trim_padding(model, tokens)
    assert short.shape == (3, 5)
    torch.testing.assert_close(encode_text(model, short), model.encode_text(tokens), rtol=1e-6, atol=1e-6)


def test_towers_that_see_every_column_are_not_trimmed():
    for text in ("custom, not causal", {**TEXT, "pool_type": "last"}, {**TEXT, "pool_type": "first"}):
        model = make(text=text).eval()
        assert trim_padding(model, captions()).shape == (3, 16)
        assert torch.equal(encode_text(model, captions()), model.encode_text(captions()))
    model = make(text="custom", embed_cls=True).eval()  # the class token stands behind the last column
    assert trim_padding(model, captions()).shape == (3, 16)


def test_padding_on_the_left_stays(tiny_bert):
    model = make(text={**HF, "hf_model_name": tiny_bert}).eval()
    assert trim_padding(model, captions().flip(1)).shape == (3, 16)
    assert trim_padding(model, torch.zeros(2, 16, dtype=torch.long)).shape == (2, 1)


def test_a_model_that_is_not_open_clips_is_left_alone():
    class Own(torch.nn.Module):
        def encode_text(self, tokens):
            return tokens.float()

    tokens = captions()
    assert trim_padding(Own(), tokens) is tokens
    assert torch.equal(encode_text(Own(), tokens), tokens.float())


def test_every_parameter_has_its_tower():
    for kind in ("clip", "custom", "hf"):
        model = make(text=kind)
        owners = tower_parameters(model)
        visual = {f"visual.{name}" for name, _ in model.visual.named_parameters()}
        assert {name for name, owner in owners.items() if owner == "image"} == visual
        assert {name for name, owner in owners.items() if owner == "other"} == {"logit_scale"}
        split = trunk_parameters(model, "image").keys() | trunk_parameters(model, "text").keys()
        behind = {"clip": {"text_projection"}, "custom": {"text.text_projection"}, "hf": {"text.proj.weight"}}[kind]
        assert owners.keys() - split == {"visual.proj", "logit_scale"} | behind


def test_state_of_a_trunk_is_what_its_features_depend_on():
    model = make(IMAGE["timm, classifier"], "clip").eval()
    state = trunk_state(model, "image")
    assert not any("classifier" in name for name in state)
    assert any(name.endswith("running_mean") for name in state)
    before = image_trunk(model, pictures(model))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in state:
                tensor.add_(1)
    assert torch.equal(image_trunk(model, pictures(model)), before)


GROUPS = {
    "vit": 4,
    "resnet": 7,  # stem, 5 blocks, attention pool
    "timm, linear": 5,
    "timm, classifier": 14,  # the convolution behind the pooling is the last
    "timm, classifier of a vit": 7,  # the norm behind the pooling goes with the last block
    "timm, none": 7,
}


@pytest.mark.parametrize("kind", GROUPS)
def test_image_towers_lock_up_to_their_last_groups(kind):
    model = make(IMAGE[kind])
    groups = trunk_groups(model, "image")
    names = set(trunk_parameters(model, "image"))
    assert len(groups) == GROUPS[kind]
    assert sorted(name for group in groups for name in group) == sorted(names)
    everything = learning(model)
    for unlocked in (0, 1, len(groups)):
        locked = copy.deepcopy(model)
        lock_towers(locked, lock_image=True, unlocked_image_groups=unlocked)
        kept = {name for group in groups[len(groups) - unlocked :] for name in group}
        assert learning(locked) == everything - names | kept
    with pytest.raises(ConfigError, match=f"unlocked_image_groups is {len(groups) + 1}; .* has {len(groups)} groups"):
        lock_towers(model, lock_image=True, unlocked_image_groups=len(groups) + 1)


def test_a_locked_trunk_leaves_its_projection():
    behind = {
        "vit": {"visual.proj"},
        "resnet": {"visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"},
        "timm, linear": {"visual.head.proj.weight"},
        "timm, classifier": {"visual.trunk.classifier.weight", "visual.trunk.classifier.bias"},
    }
    for kind, names in behind.items():
        model = make(IMAGE[kind])
        lock_towers(model, lock_image=True)
        assert {name for name in learning(model) if name.startswith("visual.")} == names


def test_order_of_groups_is_that_of_the_data(tiny_bert):
    model = make(IMAGE["vit"])
    first, *_, last = trunk_groups(model, "image")
    assert set(first) == {
        *("visual.class_embedding", "visual.positional_embedding", "visual.conv1.weight"),
        *("visual.ln_pre.weight", "visual.ln_pre.bias"),
    }
    assert {name.split(".")[-2] for name in last} >= {"ln_post", "c_proj"}
    first, *_, last = trunk_groups(model, "text")
    assert set(first) == {"token_embedding.weight", "positional_embedding"}
    assert "ln_final.weight" in last
    model = make(text={**HF, "hf_model_name": tiny_bert})
    groups = trunk_groups(model, "text")
    assert all(".embeddings." in name for name in groups[0])
    assert [group[0].split(".")[4] for group in groups[1:]] == ["0", "1", "2"]
    first, *_ = trunk_groups(make(IMAGE["resnet"]), "image")
    assert {name.split(".")[1] for name in first} == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}


@pytest.mark.parametrize("kind", ["clip", "custom", "hf"])
def test_text_towers_lock_up_to_their_last_layers(kind, tiny_bert):
    model = make(text={**HF, "hf_model_name": tiny_bert} if kind == "hf" else kind)
    groups = trunk_groups(model, "text")
    assert len(groups) == 4
    everything, names = learning(model), set(trunk_parameters(model, "text"))
    lock_towers(model, lock_text=True, unlocked_text_layers=2)
    assert learning(model) == everything - {name for group in groups[:2] for name in group}
    lock_towers(model, lock_text=True)
    assert learning(model) == everything - names
    with pytest.raises(ConfigError, match="unlocked_text_layers is 9; this text tower has 4 groups, so 0 to 4"):
        lock_towers(model, lock_text=True, unlocked_text_layers=9)
    with pytest.raises(ConfigError, match="text tower is not locked"):
        lock_towers(model, unlocked_text_layers=1)


def test_frozen_parts_stay_in_evaluation_mode():
    model = make(IMAGE["timm, classifier"], "hf")
    lock_towers(model, lock_image=True, unlocked_image_groups=2, lock_text=True)
    set_training_mode(model)
    norms = [
        (name, module)
        for name, module in model.visual.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert {norm.training for _, norm in norms} == {True, False}
    assert all(norm.training == norm.weight.requires_grad for _, norm in norms)
    assert not any(module.training for module in model.text.transformer.modules())
    assert model.training
    assert model.text.proj.training
    before = {name: norm.running_mean.clone() for name, norm in norms}
    model.encode_image(pictures(model))
    for name, norm in norms:
        assert torch.equal(norm.running_mean, before[name]) != norm.training
    set_training_mode(model.eval())
    assert model.training
    model.requires_grad_(requires_grad=False)
    set_training_mode(model)
    assert not any(module.training for module in model.modules())


def test_dropout_goes_with_what_it_feeds():
    model = make({**VIT, "patch_dropout": 0.5})
    set_training_mode(model)
    assert all(module.training for module in model.modules())
    lock_towers(model, lock_image=True)
    set_training_mode(model)
    assert not model.visual.patch_dropout.training
    assert model.visual.training  # its projection learns
    assert torch.equal(image_trunk(model, pictures(model)), image_trunk(model, pictures(model)))
    model = make(timm_tower("test_vit", 160, timm_drop=0.5, timm_drop_path=0.5))
    lock_towers(model, lock_image=True, unlocked_image_groups=1)
    set_training_mode(model)
    assert model.visual.head.drop.training
    assert not model.visual.trunk.pos_drop.training
    assert [block.drop_path1.training for block in model.visual.trunk.blocks[-2:]] == [False, True]


@pytest.mark.parametrize(("vision", "text"), [("vit", "clip"), ("timm, mlp", "custom"), ("timm, classifier", "bert")])
@pytest.mark.parametrize("unlocked", [None, 1])
def test_gradients_are_the_same_with_checkpoints(vision, text, unlocked, tiny_bert):
    model = make(IMAGE[vision], {**HF, "hf_model_name": tiny_bert} if text == "bert" else text)
    if unlocked is not None:
        lock_towers(
            model, lock_image=True, unlocked_image_groups=unlocked, lock_text=True, unlocked_text_layers=unlocked
        )
    again = copy.deepcopy(model)
    enable_gradient_checkpointing(again)
    losses = []
    for each in (model, again):
        set_training_mode(each)
        torch.manual_seed(3)  # BERT's dropout
        embedded = image_trunk(each, pictures(each)), encode_text(each, trim_padding(each, captions()))
        loss = embedded[0].pow(2).sum() + embedded[1].pow(2).sum()
        losses.append(loss.item())
        loss.backward()
    assert losses[0] == losses[1]
    theirs = {name: parameter.grad for name, parameter in again.named_parameters()}
    assert any(grad is not None for grad in theirs.values())
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert theirs[name] is None
        else:
            torch.testing.assert_close(theirs[name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_checkpoints_are_used(tiny_bert, monkeypatch):
    calls = []
    real = torch.utils.checkpoint.checkpoint
    spy = lambda *given, **options: calls.append(1) or real(*given, **options)  # noqa: E731
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", spy)
    monkeypatch.setattr("open_clip.transformer.checkpoint", spy)
    for vision, text, count in (("vit", "clip", 6), ("timm, linear", "custom", 3)):
        model = make(IMAGE[vision], text)
        lock_towers(model, lock_image=vision != "vit")
        enable_gradient_checkpointing(model)
        set_training_mode(model)
        calls.clear()
        model.encode_image(pictures(model))
        model.encode_text(captions())
        assert len(calls) == count
    model = make(text={**HF, "hf_model_name": tiny_bert})
    lock_towers(model, lock_text=True, unlocked_text_layers=1)
    enable_gradient_checkpointing(model)
    set_training_mode(model)
    for layer in model.text.transformer.encoder.layer:
        enabled = layer._gradient_checkpointing_func
        assert enabled.keywords == {"use_reentrant": False}
        layer._gradient_checkpointing_func = lambda *given, enabled=enabled: calls.append(1) or enabled(*given)
    calls.clear()
    assert model.encode_text(captions()).requires_grad
    assert len(calls) == 1  # layers that are frozen keep nothing anyway


def test_towers_that_cannot_checkpoint_are_named():
    with pytest.raises(ConfigError, match=r"image tower \(ModifiedResNet\) cannot"):
        enable_gradient_checkpointing(make(IMAGE["resnet"]))
    with pytest.raises(ConfigError, match=r"image tower \(vgg11\) cannot"):
        enable_gradient_checkpointing(make(timm_tower("vgg11", 32, proj="")))
    with pytest.raises(ConfigError, match=r"text tower \(CLIP\) cannot"):
        enable_gradient_checkpointing(make(qk_norm=True))
    locked = make(IMAGE["resnet"])
    lock_towers(locked, lock_image=True)
    enable_gradient_checkpointing(locked)
    assert locked.transformer.grad_checkpointing


WRONG = [
    (timm_tower("mobilenetv3_small_050", 64), {}, "image tower fails .*timm_pool = 'avg' with timm_proj = '' fits"),
    (timm_tower("mobilenetv3_small_050", 64, pool="rot_attn"), {}, "timm_pool is 'rot_attn', timm_proj 'linear'"),
    (timm_tower("test_vit", 160, pool="", proj=""), {}, r"image tower gives embeddings of shape \(101, 32\)"),
    (timm_tower("test_resnet", 64, proj="none"), {}, r"shape \(96,\), but embed_dim is 32 .*timm_proj"),
    (
        timm_tower("vit_tiny_patch16_224", 64),
        {},
        r"image tower fails on an input of shape \(1, 3, 64, 64\): Input height",
    ),
    (VIT, {**TEXT, "proj_type": "none", "width": 48, "heads": 3}, r"text tower gives .*\(48,\), but embed_dim is 32"),
    (VIT, {**HF, "hf_proj_type": ""}, "text tower fails .*proj"),
    (VIT, {**HF, "context_length": 600}, r"text tower fails on an input of shape \(1, 600\)"),
    ({**VIT, "width": 50, "head_width": 16}, {}, "model cannot be built: .*divisible"),
]


@pytest.mark.parametrize(("vision", "text", "message"), WRONG)
def test_sizes_that_do_not_meet_are_one_clear_line(vision, text, message):
    described = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text or TEXT}
    with pytest.raises(ConfigError, match=message) as caught:
        create_model({"model_cfg": described, "preprocess_cfg": {}})
    assert "\n" not in str(caught.value)


def test_more_positions_than_roberta_has_are_refused(tmp_path):
    from transformers import RobertaConfig, RobertaModel

    sizes = RobertaConfig(vocab_size=64, max_position_embeddings=18, **BERT_SIZES)  # two are for padding
    RobertaModel(sizes, add_pooling_layer=False).save_pretrained(tmp_path)
    text = {**HF, "hf_model_name": str(tmp_path)}
    assert len(trunk_groups(make(text=text), "text")) == 4
    with pytest.raises(ConfigError, match=r"text tower fails .*\(context_length is 17\)"):
        make(text=text, context_length=17)


def test_a_tokenizer_with_more_tokens_than_the_tower_is_refused():
    with pytest.raises(ConfigError, match="vocab_size is 64, but CLIP's tokenizer has 49408"):
        create_tokenizer({"model_cfg": {"text_cfg": TEXT}})
    assert create_tokenizer({"model_cfg": {"text_cfg": {"context_length": 9}}})("a cat").shape == (1, 9)


def test_trying_a_model_changes_nothing(caplog):
    caplog.set_level(logging.INFO)
    described = {"embed_dim": 32, "vision_cfg": IMAGE["timm, classifier"], "text_cfg": TEXT}
    torch.manual_seed(0)
    model = create_model({"model_cfg": described, "preprocess_cfg": {}})
    assert model.training
    assert all(norm.num_batches_tracked == 0 for norm in model.modules() if hasattr(norm, "num_batches_tracked"))
    assert not caplog.records


def test_minilm_comes_from_its_wheel():
    assert packaged_text(MINILM) is not None
    assert packaged_text("nobody/no-such-model") is None
