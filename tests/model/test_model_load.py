"""Model folders and checkpoints: a Hugging Face text tower without a network, and everything that can be wrong."""

import json
import pickle

import pytest
import torch
from PIL import Image

from stillroom import load_model
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.model.checkpoint import load_checkpoint, save_checkpoint, save_model_folder
from stillroom.model.parts import text_head, text_trunk, trim_padding
from stillroom.model.towers import create_model, create_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "square", "disc", "very", "small"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Write a tiny BERT with random weights and a word-level tokenizer in Hugging Face's format."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def config(bert):
    return {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
            "text_cfg": {
                "hf_model_name": str(bert),
                "hf_tokenizer_name": str(bert),
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear",
                "context_length": 12,
            },
        },
        "preprocess_cfg": {"resize_mode": "longest", "fill_color": 255},
    }


@pytest.fixture(scope="module")
def saved(bert, tmp_path_factory):
    torch.manual_seed(1)
    model = create_model(config(bert), pretrained_text=True).eval()
    folder = tmp_path_factory.mktemp("model")
    described = json.loads(json.dumps(config(bert)))
    # As a recipe names it: by a hub name that nothing offline resolves, so the folder's own files must do.
    described["model_cfg"]["text_cfg"]["hf_model_name"] = "nobody/no-such-model"
    described["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "nobody/no-such-model"
    save_model_folder(folder, described, model, create_tokenizer(config(bert)))
    return folder, model


TEXTS = ["a red square", "a very very small blue disc", "disc"]


def test_a_folder_with_a_hugging_face_tower_loads_without_a_network(saved):
    folder, model = saved
    loaded, preprocess, tokenizer = load_model(str(folder))
    assert not loaded.training
    tokens = tokenizer(TEXTS)
    assert tokens.shape == (3, 12)
    picture = preprocess(Image.new("RGB", (30, 20), "red")).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))
        assert torch.equal(loaded.encode_image(picture), model.encode_image(picture))


def test_open_clip_itself_loads_the_folder(saved):
    import open_clip

    folder, model = saved
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    local = {"hf_model_name": str(folder), "hf_model_pretrained": False}
    theirs = open_clip.create_model(f"local-dir:{folder}", text_cfg={**text, **local})
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


def test_trunk_and_head_are_the_text_tower(saved):
    folder, model = saved
    _, _, tokenizer = load_model(str(folder))
    tokens = tokenizer(TEXTS)
    with torch.inference_mode():
        assert torch.equal(text_head(model)(text_trunk(model, tokens)), model.encode_text(tokens))
        short = trim_padding(model, tokens)
        assert short.shape == (3, 8)
        assert torch.allclose(text_trunk(model, short), text_trunk(model, tokens), atol=1e-6)


def test_pretrained_text_is_read_and_random_otherwise(bert):
    from safetensors.torch import load_file

    stored = load_file(bert / "model.safetensors")["embeddings.word_embeddings.weight"]
    with_weights = create_model(config(bert), pretrained_text=True)
    without = create_model(config(bert), pretrained_text=False)
    assert torch.equal(with_weights.text.transformer.embeddings.word_embeddings.weight, stored)
    assert not torch.equal(without.text.transformer.embeddings.word_embeddings.weight, stored)


def test_what_is_not_there_is_one_clear_line(tmp_path, saved):
    with pytest.raises(DataError, match="no model 'nothing'"):
        load_model("nothing")
    with pytest.raises(DataError, match="no model 'ViT-B-32/no_such_tag'"):
        load_model("ViT-B-32/no_such_tag")
    with pytest.raises(ArtifactError, match=r"has no open_clip_config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="unfinished"):
        load_model(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text((saved[0] / "open_clip_config.json").read_text())
    with pytest.raises(ArtifactError, match=r"has no open_clip_model\.safetensors.*: the run is unfinished"):
        load_model(str(tmp_path))
    (tmp_path / "run.json").write_text('{"stage": "evaluate"}')
    with pytest.raises(ArtifactError, match="it is the output of 'stillroom evaluate', not a model"):
        load_model(str(tmp_path))


def test_an_unfinished_run_names_its_newest_checkpoint_which_loads(saved, tmp_path):
    import shutil

    folder, model = saved
    run = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors"))
    (run / "run.json").write_text('{"stage": "train"}')
    (run / "checkpoints").mkdir()
    for step in (9, 10):
        torch.save({"state_dict": model.state_dict()}, run / f"checkpoints/step-{step:09d}.pt")
    with pytest.raises(ArtifactError, match=r"unfinished.*--resume.*a checkpoint inside it: .*step-000000010\.pt$"):
        load_model(str(run))
    loaded = load_model(str(run / "checkpoints/step-000000010.pt"))[0]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_weights_of_another_architecture_are_refused(saved, tmp_path):
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(saved[0], folder)
    changed = json.loads((folder / "open_clip_config.json").read_text())
    changed["model_cfg"]["embed_dim"] = 9
    (folder / "open_clip_config.json").write_text(json.dumps(changed))
    with pytest.raises(ArtifactError, match="another architecture") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_pickled_code_is_never_run(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ArtifactError, match="loaded safely"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(ArtifactError, match="loaded safely"):
        load_checkpoint(path)
    path.write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match="loaded safely"):
        load_checkpoint(path)
    with pytest.raises(ArtifactError, match="no checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    assert "unpickled" not in capsys.readouterr().out


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"step": 3, "state_dict": {"w": torch.arange(3)}})
    state = load_checkpoint(tmp_path / "a.pt")
    assert state["step"] == 3
    assert torch.equal(state["state_dict"]["w"], torch.arange(3))
    torch.save([1], tmp_path / "b.pt")
    with pytest.raises(ArtifactError, match="holds a list"):
        load_checkpoint(tmp_path / "b.pt")


def test_an_unknown_tower_is_one_clear_line(bert):
    broken = config(bert)
    broken["model_cfg"]["vision_cfg"]["timm_model_name"] = "no_such_tower"
    with pytest.raises(ConfigError, match="model cannot be built: .*no_such_tower"):
        create_model(broken)
