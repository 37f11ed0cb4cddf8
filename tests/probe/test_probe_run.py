import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.probe.config import ProbeConfig
from stillroom.probe.run import probe_model, summary_lines

CLASSES = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
CONFIG = ProbeConfig(shots=(1, 4), draws=2, radii=(0.0, 0.3), methods=("prompt_probe", "cache_model"), device="cpu")


class Colours(torch.nn.Module):
    """Embeds a picture as its mean colour and a text as a colour close to the one it names."""

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(10.0).log())
        self.calls = 0

    def encode_image(self, pixels):
        self.calls += 1
        return pixels.mean(dim=(2, 3))

    def encode_text(self, tokens):
        return tokens.float()


def transform(image):
    return torch.as_tensor(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def tokenizer(texts):
    return torch.tensor([[1.0 + 0.2 * (name in text) for name in CLASSES] for text in texts])


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(5 if name == "blue" else 12):
            pixels = np.clip(np.array(colour) + rng.normal(0, 90, 3), 0, 255).astype(np.uint8)
            Image.new("RGB", (4, 4), tuple(map(int, pixels))).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def probe(folder, out, config=CONFIG, model=None):
    return probe_model((model or Colours(), transform, tokenizer), "colours", str(folder), config, out)


def test_writes_a_curve_that_starts_at_zero_shot(folder, tmp_path):
    out = tmp_path / "out"
    curve = probe(folder, out)
    assert json.loads((out / "curve.json").read_text()) == json.loads(json.dumps(curve))
    assert (curve["pool_pictures"], curve["test_pictures"]) == (15, 14)
    assert curve["logit_scale"] == pytest.approx(10)
    assert curve["short_classes"] == {"4": ["blue", "green", "red"]}
    assert curve["points"][0]["method"] == "zero_shot"
    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert len(rows) == 2 + 2 * 2 * 2
    assert rows[-1]["setting"].startswith("weight=")
    assert (out / "curve.svg").read_bytes().startswith(b"<?xml")
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "manifest.json").exists()
    lines = summary_lines(curve)
    assert "zero-shot" in lines[0]
    assert "blue" in lines[-1]


def test_a_complete_curve_is_not_computed_again_and_embeddings_are_kept(folder, tmp_path):
    model = Colours()
    first = probe(folder, tmp_path / "out", model=model)
    calls = model.calls
    assert probe(folder, tmp_path / "out", model=model)["points"] == json.loads(json.dumps(first["points"]))
    (tmp_path / "out" / "manifest.json").unlink()
    before = (tmp_path / "out" / "curve.json").read_bytes()
    probe(folder, tmp_path / "out", model=model)
    assert model.calls == calls
    assert (tmp_path / "out" / "curve.json").read_bytes() == before


def test_another_run_s_folder_is_refused(folder, tmp_path):
    probe(folder, tmp_path / "out")
    with pytest.raises(ArtifactError, match="another run"):
        probe(folder, tmp_path / "out", ProbeConfig(seed=1, device="cpu"))


def test_several_labels_a_picture_are_refused(tmp_path):
    base = tmp_path / "voc2007_multilabel" / "VOCdevkit" / "VOC2007"
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "ImageSets" / "Main" / "cat_test.txt").write_text("000001 1\n000002 -1\n")
    with pytest.raises(DataError, match="has several labels a picture"):
        probe_model(
            (Colours(), transform, tokenizer),
            "colours",
            "voc2007_multilabel",
            replace(CONFIG, data_root=str(tmp_path)),
            tmp_path / "out",
        )


def test_one_picture_a_class_leaves_none_to_test_on(folder, tmp_path):
    for path in folder.glob("*/*.png"):
        if path.name != "0.png":
            path.unlink()
    with pytest.raises(DataError, match="no picture is left to test on"):
        probe(folder, tmp_path / "out")


def test_unknown_task_and_retrieval_data_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="no task 'nonsense'"):
        probe("nonsense", tmp_path / "out")
    (folder / "dataset_type.txt").write_text("retrieval")
    (folder / "test").mkdir()
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "test" / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="needs a classification task"):
        probe(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_refuses_what_is_out_of_range():
    for changes, message in [
        ({"radii": ()}, "radii"),
        ({"radii": (-1.0,)}, "radii"),
        ({"l2_from_scratch": (0.0,)}, "l2_from_scratch"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"precision": "fp8"}, "precision"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ProbeConfig(**changes)
