"""The released models: the table, full-size architectures key by key, and one full-size file loaded by its name."""

import dataclasses
import hashlib
import math

import open_clip
import pytest
import torch
from model_server import SHA256

from stillroom import load_model
from stillroom.errors import ArtifactError, ConfigError
from stillroom.model import load
from stillroom.model.zoo import released_by_file, released_models

NAMES = ["diht_vitb32_224px", "diht_vitb16_224px", "diht_vitl14_224px", "diht_vitl14_336px"]
# Architecture, written down apart from the table: width and layers of the image tower, patch and picture; of the text
# tower the width; width of the embedding; weights in all.
SIZES = {
    "diht_vitb32_224px": (768, 12, 32, 224, 512, 512, 151_277_313),
    "diht_vitb16_224px": (768, 12, 16, 224, 512, 512, 149_620_737),
    "diht_vitl14_224px": (1024, 24, 14, 224, 768, 768, 427_616_513),
    "diht_vitl14_336px": (1024, 24, 14, 336, 768, 768, 427_944_193),
}


def transformer(prefix, width, layers):
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    return {f"{prefix}resblocks.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}


def released_shapes(width, layers, patch, picture, text_width, embed_dim, text_layers=12):
    """Return CLIP's key names, as the released files have them, and their shapes."""
    return {
        "positional_embedding": (77, text_width),
        "text_projection": (text_width, embed_dim),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((picture // patch) ** 2 + 1, width),
        "visual.proj": (width, embed_dim),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.ln_pre.weight": (width,),
        "visual.ln_pre.bias": (width,),
        **transformer("visual.transformer.", width, layers),
        "visual.ln_post.weight": (width,),
        "visual.ln_post.bias": (width,),
        **transformer("transformer.", text_width, text_layers),
        "token_embedding.weight": (49408, text_width),
        "ln_final.weight": (text_width,),
        "ln_final.bias": (text_width,),
    }


def random_weights(shapes):
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        norm = ".ln_" in f".{name}" and name.endswith("weight")
        weights[name] = 1 + 0.1 * drawn if norm else drawn * (shape[-1] if shape else 1) ** -0.5
    return weights


def test_the_table_names_the_released_files():
    assert list(released_models()) == NAMES
    for name, model in released_models().items():
        assert model.url.startswith(f"https://dl.fbaipublicfiles.com/diht/{name}_")
        assert model.file.file_name == f"{name}_{model.sha256}.ckpt"
        assert len(model.sha256) == 64
        assert model.file.max_bytes > 4 * model.parameters
        assert "CC BY-NC 4.0" in model.file.notice
        assert released_by_file(model.file.file_name) is model
    assert released_by_file("epoch_1.pt") is None


@pytest.mark.parametrize("name", NAMES)
def test_each_architecture_at_full_size(name):
    model = released_models()[name]
    with torch.device("meta"):
        built = open_clip.model.CLIP(**model.config["model_cfg"])
    shapes = {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}
    *sizes, parameters = SIZES[name]
    assert shapes == released_shapes(*sizes)
    assert sum(p.numel() for p in built.parameters()) == parameters == model.parameters
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    kinds = {type(module).__name__ for module in built.modules()}
    assert "GELU" in kinds
    assert "QuickGELU" not in kinds
    heads = [module.num_heads for module in built.modules() if isinstance(module, torch.nn.MultiheadAttention)]
    assert heads == [sizes[0] // 64] * sizes[1] + [sizes[4] // 64] * 12


def patch(monkeypatch, tmp_path, name, model):
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path))
    monkeypatch.setattr(load, "released_models", lambda: {name: model})
    path = tmp_path / "models" / model.file.file_name
    path.parent.mkdir()
    return path


def with_hash(model, path):
    return dataclasses.replace(model, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_full_size_file_with_the_released_keys_gives_what_open_clip_gives(monkeypatch, tmp_path):
    name = "diht_vitb32_224px"
    model = released_models()[name]
    weights = random_weights(released_shapes(*SIZES[name][:-1]))
    path = patch(monkeypatch, tmp_path, name, model)
    torch.save(weights, path)
    monkeypatch.setattr(load, "released_models", lambda: {name: with_hash(model, path)})
    loaded, preprocess, tokenizer = load_model(name)
    path.unlink()  # 600 MB that pytest would keep for a while
    theirs = open_clip.create_model("ViT-B-32", load_weights=False).eval()
    theirs.load_state_dict(weights)
    picture = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a photo of a cat.", "two dogs"])
    assert torch.equal(tokenizer(["a photo of a cat.", "two dogs"]), tokens)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.allclose(loaded.encode_image(picture), theirs.encode_image(picture), atol=1e-6)
        assert torch.allclose(loaded.encode_text(tokens), theirs.encode_text(tokens), atol=1e-6)
    described = repr(preprocess)
    assert "size=224, interpolation=bicubic" in described
    assert "CenterCrop(size=(224, 224))" in described
    assert "mean=(0.48145466, 0.4578275, 0.40821073)" in described.replace("[", "(").replace("]", ")")


TINY = {
    "parameters": 3_500_000,
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
TINY_SHAPES = released_shapes(64, 1, 16, 32, 64, 16, text_layers=1)


@pytest.fixture
def tiny(server, monkeypatch, tmp_path):
    """Serve a tiny model as if it were a released one."""
    file = tmp_path / "served.ckpt"
    torch.save(random_weights(TINY_SHAPES), file)
    server.body = file.read_bytes()
    sha256 = hashlib.sha256(server.body).hexdigest()
    model = dataclasses.replace(
        released_models()[NAMES[0]], url=server.url.replace(SHA256, sha256), sha256=sha256, **TINY
    )
    patch(monkeypatch, tmp_path, NAMES[0], model)
    return model


def test_a_name_is_downloaded_once_and_a_licence_named_once(tiny, server, tmp_path, caplog):
    server.cuts = [1_000_000]
    loaded, _, _ = load_model(NAMES[0])
    again, _, _ = load_model(NAMES[0])
    assert len(server.asked) == 2
    assert [record.message for record in caplog.records if "CC BY-NC 4.0" in record.message] == [tiny.file.notice]
    expected = random_weights(TINY_SHAPES)
    for model in (loaded, again):
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_a_released_file_anywhere_is_known_by_its_name(tiny, tmp_path, server, monkeypatch):
    path = tmp_path / "elsewhere" / tiny.file.file_name
    path.parent.mkdir()
    path.write_bytes(server.body)
    monkeypatch.setattr(load, "released_by_file", {tiny.file.file_name: tiny}.get)
    assert load_model(str(path))[0].visual.image_size == (32, 32)
    path.write_bytes(server.body[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is not diht_vitb32_224px: its SHA-256"):
        load_model(str(path))


@pytest.mark.parametrize("wrong", ["size", "missing", "surplus", "no weights"])
def test_weights_that_do_not_fit_are_an_error(monkeypatch, tmp_path, wrong):
    weights = random_weights(TINY_SHAPES)
    if wrong == "size":  # as of another picture size: open_clip's own loader would interpolate it
        weights["visual.positional_embedding"] = torch.zeros(17, 64)
    elif wrong == "missing":
        del weights["visual.proj"]
    elif wrong == "surplus":
        weights["logit_bias"] = torch.zeros(())
    else:
        weights = {"visual.proj": "text"}
    model = dataclasses.replace(released_models()[NAMES[0]], **TINY)
    path = patch(monkeypatch, tmp_path, NAMES[0], model)
    torch.save(weights, path)
    monkeypatch.setattr(load, "released_models", lambda: {NAMES[0]: with_hash(model, path)})
    with pytest.raises(ArtifactError, match="of another architecture") as caught:
        load_model(NAMES[0])
    assert "\n" not in str(caught.value)


@pytest.fixture
def named(monkeypatch, tmp_path):
    """Give open_clip an architecture with plain GELU and a tag, in a file, that says it has quick GELU or does not."""
    config = {key: TINY[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    weights = tmp_path / "tiny.pt"
    torch.save(random_weights(TINY_SHAPES), weights)
    tags = {"quick": {"file": str(weights), "quick_gelu": True}, "plain": {"file": str(weights)}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", tags)
    return config


@pytest.mark.parametrize(("tag", "expected"), [("quick", "QuickGELU"), ("plain", "GELU")])
def test_the_tag_decides_between_gelu_and_quick_gelu(named, tag, expected):
    loaded, _, _ = load_model(f"Tiny/{tag}")
    kinds = {type(module).__name__ for module in loaded.modules()}
    assert kinds & {"GELU", "QuickGELU"} == {expected}
    right = open_clip.model.CLIP(**named, quick_gelu=tag == "quick").eval()
    right.load_state_dict(random_weights(TINY_SHAPES))
    picture = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.encode_image(picture), right.encode_image(picture))


def test_names_of_open_clip_whose_tag_wants_quick_gelu():
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]
    assert not open_clip.get_model_config("ViT-B-32").get("quick_gelu")


def test_a_hub_repository_whose_weights_cannot_be_had_is_no_random_model(named, monkeypatch):
    def no_weights(*_, **__):
        raise FileNotFoundError("no such file")

    monkeypatch.setattr(open_clip.factory, "_get_hf_config", lambda *_, **__: {"model_cfg": named})
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", no_weights)
    with pytest.raises(ConfigError, match=r"https://huggingface.co/someone/tiny into a folder") as caught:
        load_model("hf-hub:someone/tiny")
    assert "\n" not in str(caught.value)


def test_a_folder_as_older_hub_repositories_have_it(named, tmp_path):
    import json

    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**named, "quick_gelu": True}}))
    torch.save(random_weights(TINY_SHAPES), folder / "open_clip_pytorch_model.bin")
    loaded, _, _ = load_model(str(folder))
    assert "QuickGELU" in {type(module).__name__ for module in loaded.modules()}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("diht_vitb32", "diht_vitb32_224px"),
        ("vit-b-32/openai", "ViT-B-32/openai or "),
        ("ViT-B-32", "ViT-B-32/openai or ViT-B-32/laion"),
        ("ViT-B-32-quickgelu/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_unknown_names_list_what_is_close_and_what_is_allowed(given, meant):
    with pytest.raises(ValueError, match=f"no model '{given}'; did you mean {meant}.*allowed: .*diht_vitl14_336px"):
        load_model(given)
