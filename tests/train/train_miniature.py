"""A real open_clip model and a tar of drawings, both tiny, for tests that train end to end."""

import io
import tarfile

from PIL import Image, ImageDraw

from stillroom.config_io import build
from stillroom.train.config import TrainConfig

MODEL = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"resize_mode": "longest", "fill_color": 255},
}
COLORS = ("red", "green", "blue", "black", "orange", "purple")


def write_tar(path, count=48, *, broken=(5,), empty=6):
    """Write squares and discs in six colours; some pictures are broken and one caption empty."""
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            color, shape = COLORS[index % 6], ("square", "disc")[index // 6 % 2]
            image = Image.new("RGB", (20, 20 + index % 3), "white")
            draw = ImageDraw.Draw(image)
            box = (3 + index % 4, 3, 14, 14)
            (draw.rectangle if shape == "square" else draw.ellipse)(box, fill=color)
            stream = io.BytesIO()
            image.save(stream, "PNG")
            picture = stream.getvalue() if index not in broken else b"not a picture"
            caption = f"a {color} {shape}" if index != empty else "  "
            for extension, content in (("png", picture), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{index:05d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def config(**changes):
    """Return a recipe of 12 steps of 8 pairs."""
    values = {
        "model": {"open_clip": MODEL},
        "loss": {"concept_weight": 0.0},
        "optimizer": {"warmup_samples": 16},
        "samples": 96,
        "batch_size": 8,
        "checkpoint_samples": 32,
        "workers": 2,
        "device": "cpu",
    }
    return build(TrainConfig, {**values, **changes}, source="test")


def weights(folder):
    """Return the tensors of a finished run's model."""
    from safetensors.torch import load_file

    return load_file(folder / "open_clip_model.safetensors")


def equal(first, second):
    """Whether two dictionaries hold the same tensors, bit for bit."""
    import torch

    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
