"""Miniature test sets in CLIP_benchmark's layout, and a model whose embeddings are colours."""

import io
import re
import tarfile

import torch
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(colour, size=(12, 10), kind="png"):
    sink = io.BytesIO()
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(sink, kind)
    return sink.getvalue()


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_dataset(root, shards, *, kind="classification", classnames=(), templates=(), split="test"):
    """Write tars 0 .. n - 1 of (member name, bytes) lists and the files beside them."""
    for number, members in enumerate(shards):
        write_tar(root / split / f"{number}.tar", members)
    (root / split / "nshards.txt").write_text(f"{len(shards)}\n")
    (root / "dataset_type.txt").write_text(f"{kind}\n")
    if classnames:
        (root / "classnames.txt").write_text("".join(f"{name}\n" for name in classnames))
    if templates:
        text = "".join(f"{template}\n" for template in templates)
        (root / "zeroshot_classification_templates.txt").write_text(text)
    return root


class ColourModel(torch.nn.Module):
    """Embeds a picture as its mean colour and a text as the colours it names; counts its calls."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def encode_image(self, pixels):
        self.calls += 1
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.gain * pixels.mean(dim=(2, 3))

    def encode_text(self, tokens):
        self.calls += 1
        return self.gain * tokens.float()


def colour_transform(image):
    assert image.mode == "RGB"
    values = torch.tensor(list(image.convert("RGB").resize((2, 2)).getdata()), dtype=torch.float32)
    return values.T.reshape(3, 2, 2) / 255


def colour_tokenizer(texts):
    assert isinstance(texts, list)
    words = [re.findall("[a-z]+", text.lower()) for text in texts]
    rows = [[int(colour in found) for colour in COLOURS] for found in words]
    rows = [row if sum(row) else [1, 1, 1] for row in rows]
    return torch.tensor(rows)
