import builtins
import importlib.util

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from stillroom.errors import MissingDependencyError
from stillroom.filter.picture_hash import picture_hash, require_picture_hash


def scene(seed, size=(320, 240)):
    """A picture with large shapes and some noise."""
    draw = np.random.default_rng(seed)
    image = Image.fromarray(draw.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = draw.integers(0, size[0]), draw.integers(0, size[1])
        wide, high = draw.integers(20, 150, 2)
        pen.ellipse((x, y, x + wide, y + high), fill=tuple(draw.integers(0, 255, 3).tolist()))
    return image


def apart(one, other):
    return (picture_hash(one) ^ picture_hash(other)).bit_count()


def test_has_the_librarys_bits_in_its_order():
    for seed in range(5):
        image = scene(seed)
        assert f"{picture_hash(image):016x}" == str(imagehash.phash(image))
    assert max(picture_hash(scene(seed)) for seed in range(5)) < 2**64


def test_copies_are_near_and_others_are_far():
    for seed in range(8):
        image = scene(seed)
        small = image.resize((160, 120), Image.Resampling.LANCZOS)
        assert apart(image, small) <= 4
        assert apart(image, small.filter(ImageFilter.GaussianBlur(1))) <= 6
        assert apart(image, image.convert("L").convert("RGB")) == 0
        assert apart(image, scene(seed + 100)) > 10


def test_pictures_of_one_colour_are_near_each_other():
    hashes = {picture_hash(Image.new("RGB", (40 + shade, 30), (shade, 0, 255 - shade))) for shade in range(0, 250, 25)}
    assert len(hashes) == 1
    assert apart(Image.new("RGB", (9, 5), "black"), Image.new("RGB", (64, 64), "white")) <= 1


def test_a_picture_of_one_pixel_has_a_hash():
    assert picture_hash(Image.new("RGB", (1, 1), "red")) == picture_hash(Image.new("RGB", (500, 1), "red"))


def test_names_what_to_install(monkeypatch):
    require_picture_hash()
    monkeypatch.setattr("stillroom.filter.picture_hash.find_spec", lambda name: None)
    for ask in (require_picture_hash, lambda: picture_hash(Image.new("RGB", (8, 8)))):
        with pytest.raises(MissingDependencyError, match=r"stillroom\[duplicates\]"):
            ask()


def test_asking_whether_it_is_there_loads_nothing(monkeypatch):
    def refuse(name, *args, **kwargs):
        assert name != "imagehash"
        return loaded(name, *args, **kwargs)

    loaded = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    require_picture_hash()
    assert importlib.util.find_spec("imagehash") is not None
