"""The bundled recipes: each loads, its model has the size that is published, and its tiny variant trains."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from train_miniature import weights, write_tar

from stillroom import load_model
from stillroom.artifacts import StageWriter
from stillroom.concepts.vocabulary import Concept, format_vocabulary, vocabulary_digest
from stillroom.config_io import to_dict
from stillroom.data import open_data
from stillroom.errors import ConfigError
from stillroom.model.zoo import released_models
from stillroom.train.config import ModelConfig
from stillroom.train.recipes import load_recipe, recipe_names, recipe_path
from stillroom.train.run import run
from stillroom.train.setup import build_model, resize_image_tower

pytestmark = pytest.mark.usefixtures("one_thread")


PAIRS = 64
WORDS = ["a", "red", "green", "blue", "black", "orange", "purple", "square", "disc"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_tar(tmp_path_factory.mktemp("pairs") / "00000.tar", PAIRS))


@pytest.fixture(scope="module")
def concepts(data, tmp_path_factory):
    """An output of `stillroom concepts` with 4 objects and 4 attributes."""
    folder = tmp_path_factory.mktemp("concepts")
    (shard,) = open_data(data)
    names = [Concept(name=name, count=1, examples=()) for name in "abcd"]
    writer = StageWriter(folder, stage="concepts", config={}, inputs={}, seed=0)
    columns = {"key": pa.array([f"{index:05d}" for index in range(PAIRS)])}
    for kind in ("object", "attribute"):
        ids = pa.array([place for index in range(PAIRS) for place in (index % 4, (index + 1) % 4)], pa.uint32())
        columns[f"{kind}_ids"] = pa.FixedSizeListArray.from_arrays(ids, 2)
        probs = pa.array(np.full(2 * PAIRS, 0.5, np.float16))
        columns[f"{kind}_probs"] = pa.FixedSizeListArray.from_arrays(probs, 2)
    writer.write_shard(shard.name, pa.table(columns))
    for kind in ("objects", "attributes"):
        (folder / f"{kind}.csv").write_bytes(format_vocabulary(names))
    sizes = {kind: {"digest": vocabulary_digest(names), "size": 4} for kind in ("objects", "attributes")}
    writer.finish({"vocabulary": sizes}, shards=[shard.name], timings={})
    return folder


def write_bert(folder, width):
    """Save a BERT of one layer and its tokenizer, as Hugging Face's own tools do; return its weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    options = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **options))
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return bert.state_dict()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Stands in for DeCLUTR and MiniLM, which a hub has."""
    folder = tmp_path_factory.mktemp("bert")
    return folder, write_bert(folder, 32)


def with_bert(folder):
    key = "model.open_clip.model_cfg.text_cfg"
    return [f"{key}.hf_model_name={folder}", f"{key}.hf_tokenizer_name={folder}"]


@pytest.fixture(scope="module")
def tiny_runs(data, concepts, bert, tmp_path_factory):
    """Train tiny variants on demand, each once: name -> run folder."""
    done = {}
    starts = {"finetune": "diht_vitb32", "diht_vitl14_336": "diht_vitl14"}

    def trained(name):
        if name not in done:
            settings = [f"model.start_from={trained(starts[name])}"] if name in starts else []
            settings += with_bert(bert[0]) if name.endswith(("_declutr", "_minilm")) else []
            config = load_recipe(f"tiny/{name}", [*settings, "workers=1"])
            out = tmp_path_factory.mktemp("runs") / name
            run(data, config, out, concepts=concepts if config.loss.concept_weight else None)
            done[name] = out
        return done[name]

    return trained


TERMS = {
    "lite_minilm": {"contrastive", "objects", "attributes"},
    "student_minilm": {"contrastive", "objects", "attributes"},
    "diht_vitb32": {"contrastive", "objects", "attributes"},
    "diht_vitb16": {"contrastive", "objects", "attributes"},
    "diht_vitl14": {"contrastive", "objects", "attributes"},
    "diht_vitl14_336": {"contrastive", "objects", "attributes"},
    "otter_rn50_declutr": {"contrastive", "soft_labels"},
    "cheng_rn50_declutr": {"contrastive", "soft_labels"},
    "finetune": {"contrastive"},
}


def test_there_is_a_tiny_variant_of_every_recipe():
    assert recipe_names() == sorted(TERMS)
    assert recipe_names(tiny=True) == [f"tiny/{name}" for name in sorted(TERMS)]


@pytest.mark.parametrize("name", sorted(TERMS))
def test_the_tiny_variant_trains_end_to_end_with_the_recipes_losses(name, tiny_runs):
    out = tiny_runs(name)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 8
    assert TERMS[name] == set(last) & {"contrastive", "soft_labels", "objects", "attributes"}
    model, _, tokenizer = load_model(str(out))
    with torch.inference_mode():
        text = model.encode_text(tokenizer(["a red square"]))
    assert torch.isfinite(text).all()
    assert text.std() > 0


@pytest.mark.parametrize("name", sorted(TERMS))
def test_the_tiny_variant_differs_from_its_recipe_in_sizes_only(name):
    small, full = to_dict(load_recipe(f"tiny/{name}")), to_dict(load_recipe(name))
    for key in ("loss", "ema", "augment", "precision", "evaluation"):
        assert small[key] == full[key]
    for key in small["optimizer"].keys() - {"warmup_samples"}:
        assert small["optimizer"][key] == full["optimizer"][key]
    for key in small["model"].keys() - {"name", "open_clip", "start_from", "image_size", "pretrained_image"}:
        assert small["model"][key] == full["model"][key]


@pytest.mark.parametrize(
    ("name", "released"),
    [
        ("diht_vitb32", "diht_vitb32_224px"),
        ("diht_vitb16", "diht_vitb16_224px"),
        ("diht_vitl14", "diht_vitl14_224px"),
        ("diht_vitl14_336", "diht_vitl14_336px"),
    ],
)
def test_a_diht_recipe_has_the_released_models_size(name, released):
    import open_clip

    model = load_recipe(name).model
    config = (
        open_clip.get_model_config(model.name)
        if model.name
        else dict(released_models()[model.start_from].config["model_cfg"])
    )
    if model.image_size:
        config["vision_cfg"] = {**config["vision_cfg"], "image_size": model.image_size}
    with torch.device("meta"):
        built = open_clip.model.CLIP(**config)
    assert sum(parameter.numel() for parameter in built.parameters()) == released_models()[released].parameters


@pytest.mark.parametrize("name", ["otter_rn50_declutr", "cheng_rn50_declutr"])
def test_the_rn50_recipes_build_with_their_projections(name, tmp_path):
    write_bert(tmp_path, 768)
    config = load_recipe(name, [*with_bert(tmp_path), "model.pretrained_image=false"])
    described, model, _ = build_model(config.model)
    # ResNet-50's trunk, and a classifier from 2,048 to 768 numbers with bias.
    assert sum(p.numel() for p in model.visual.parameters()) == 23_508_032 + 2048 * 768 + 768
    assert not list(model.text.proj.parameters())
    assert described["model_cfg"]["text_cfg"]["hf_proj_type"] is None
    assert float(model.logit_scale.detach().exp()) == pytest.approx(49.402, abs=1e-3)
    assert config.loss.soft_labels.initial_scale == pytest.approx(49.402, abs=1e-2)


def test_pretrained_text_weights_arrive_in_the_model(bert):
    folder, expected = bert
    config = load_recipe("tiny/otter_rn50_declutr", with_bert(folder))
    assert config.model.pretrained_text
    _, model, _ = build_model(config.model)
    found = model.text.transformer.state_dict()
    assert found.keys() <= expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    _, fresh, _ = build_model(
        load_recipe("tiny/otter_rn50_declutr", [*with_bert(folder), "model.pretrained_text=false"]).model
    )
    key = "embeddings.word_embeddings.weight"
    assert not torch.equal(fresh.text.transformer.state_dict()[key], expected[key])


@pytest.mark.parametrize("name", ["student_minilm", "lite_minilm"])
def test_a_frozen_sentence_encoder_keeps_its_weights(name, tiny_runs, bert):
    after, key = weights(tiny_runs(name)), "encoder.layer.0.output.dense.weight"
    assert torch.equal(after[f"text.transformer.{key}"], bert[1][key])


def test_larger_pictures_interpolate_the_position_embeddings(tiny_runs):
    before, after = weights(tiny_runs("diht_vitl14")), weights(tiny_runs("diht_vitl14_336"))
    assert before["visual.positional_embedding"].shape == (1 + 4 * 4, 32)
    assert after["visual.positional_embedding"].shape == (1 + 6 * 6, 32)
    # Rates of 4e-5 and less for 8 steps: the first run's weights are still there.
    drift = (after["visual.conv1.weight"] - before["visual.conv1.weight"]).abs().max()
    assert 0 < drift < 1e-3


def test_a_resized_tower_keeps_weights_and_what_does_not_depend_on_place():
    described, model, _ = build_model(load_recipe("tiny/diht_vitb32").model)
    old = {name: tensor.clone() for name, tensor in model.visual.state_dict().items()}
    with torch.no_grad():
        model.visual.positional_embedding[1:] = 0.25
    resize_image_tower(model, described, 64)
    new = model.visual.state_dict()
    assert new["positional_embedding"].shape == (1 + 4 * 4, 32)
    assert torch.equal(new["positional_embedding"][0], old["positional_embedding"][0])
    assert torch.allclose(new["positional_embedding"][1:], torch.tensor(0.25), atol=1e-6)
    assert all(torch.equal(new[name], old[name]) for name in old if name != "positional_embedding")
    assert described["model_cfg"]["vision_cfg"]["image_size"] == 64
    assert described["preprocess_cfg"]["size"] == 64


def test_image_size_that_a_tower_cannot_take_is_one_line():
    config = load_recipe("tiny/diht_vitb32").model
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}
    table = {"model_cfg": {**config.open_clip["model_cfg"], "vision_cfg": vision}}
    with pytest.raises(ConfigError, match="image tower fails on an input of shape .1, 3, 96, 96."):
        build_model(ModelConfig(open_clip=table, image_size=96))
    with pytest.raises(ConfigError, match="model.image_size is 0"):
        ModelConfig(name="RN50", image_size=0)


def written(folder, name, text):
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_a_recipe_goes_over_its_base_key_by_key(tmp_path):
    written(tmp_path, "below", 'base = "diht_vitb16"\nseed = 5\nmicro_batch = 7\n[loss]\nbeta = 0.5\n')
    config = load_recipe(written(tmp_path, "above", 'base = "below.toml"\nseed = 6\n[optimizer]\nlr = 0.25\n'))
    below = load_recipe("diht_vitb16")
    assert (config.seed, config.micro_batch, config.loss.beta, config.optimizer.lr) == (6, 7, 0.5, 0.25)
    assert config.model == below.model
    assert (config.optimizer.warmup_samples, config.loss.alpha) == (65_536_000, below.loss.alpha)


def test_a_choice_replaces_the_bases_other_choice(tmp_path):
    chosen = load_recipe(
        written(tmp_path, "a", 'base = "diht_vitb32"\nepochs = 2\n[model]\nstart_from = "somewhere"\n')
    )
    assert (chosen.samples, chosen.epochs) == (0, 2.0)
    assert (chosen.model.name, chosen.model.start_from) == (None, "somewhere")
    assert load_recipe("student_minilm", ["epochs=3"]).samples == 0
    assert load_recipe("finetune", ["samples=4096"]).epochs == 0
    settings = ["model.name=RN50", "model.lock_text=false", "model.unlocked_text_layers=0"]
    assert load_recipe("finetune", settings).model == ModelConfig(name="RN50")
    deeper = load_recipe("student_minilm", ["model.open_clip.model_cfg.embed_dim=64"])
    assert deeper.model.open_clip["model_cfg"]["vision_cfg"]["image_size"] == 48
    assert deeper.model.open_clip["model_cfg"]["embed_dim"] == 64
    with pytest.raises(ConfigError, match="samples is 512 and epochs is 2"):
        load_recipe("finetune", ["samples=512", "epochs=2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "b.toml"', r"b\.toml: base = 'a\.toml' leads back to this recipe"),
        ('base = "a.toml"', r"a\.toml: base = 'a\.toml' leads back"),
        ('base = "nowhere"', r"a\.toml: base: no recipe 'nowhere'; give a TOML file or one of: cheng"),
        ("base = 3", r"a\.toml: 'base' is 3; it must be a recipe's name"),
    ],
)
def test_a_base_that_leads_nowhere_is_one_line(text, message, tmp_path):
    written(tmp_path, "b", 'base = "a.toml"\n')
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(written(tmp_path, "a", text))
    assert "\n" not in str(caught.value)


def test_a_wrong_name_or_key_is_one_line():
    with pytest.raises(ConfigError, match="no recipe 'no_recipe'.*student_minilm"):
        load_recipe("no_recipe")
    with pytest.raises(
        ConfigError, match="recipe finetune with --set: unknown key 'loss.betta'; did you mean 'loss.beta'"
    ):
        load_recipe("finetune", ["loss.betta=1"])


def test_the_towers_in_the_comment_of_finetune_are_a_model(tmp_path):
    text = recipe_path("finetune").read_text()
    shown = re.findall(r"^#     ((?:pretrained_|open_clip\.).*)$", text, flags=re.MULTILINE)
    assert len(shown) == 5
    table = "\n".join(shown)
    text = re.sub(r"^start_from = .*$", lambda _: table, text, flags=re.MULTILINE)
    model = load_recipe(written(tmp_path, "own", text)).model
    assert model.start_from is None
    assert model.pretrained_image
    assert model.open_clip["model_cfg"]["text_cfg"]["hf_proj_type"] == "linear"
