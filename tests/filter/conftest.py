"""Miniature data sets for the filter's tests."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont


def drawing(text="", *, size=(240, 120), letters=32, colour="navy", paper="white", kind="PNG"):
    """Encode a picture: a plain disc, or a line of lettering in Pillow's own font."""
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    if text:
        draw.text((12, size[1] // 2 - letters // 2), text, fill=colour, font=ImageFont.load_default(size=letters))
    else:
        draw.ellipse((20, 20, size[0] - 20, size[1] - 20), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, pairs):
    """Write (key, caption or None, picture or None[, metadata]) as an img2dataset shard."""
    with tarfile.open(path, "w") as tar:
        for key, caption, picture, *metadata in pairs:
            members = {"png": picture, "txt": None if caption is None else caption.encode()}
            if metadata:
                members["json"] = json.dumps(metadata[0]).encode()
            for extension, data in members.items():
                if data is not None:
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="session")
def draw():
    return drawing


@pytest.fixture(scope="session")
def make_tar():
    return write_tar
