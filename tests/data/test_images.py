"""Pictures as the web has them: cut off, mislabelled, huge on paper, animated, turned, in every colour mode."""

import pickle
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from stillroom.data import images
from stillroom.data.images import ImageError, decode_image, open_image

# Each test gets fresh filters, so the module's own, set once, does not last.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(scope="module")
def photo():
    """A picture with detail, 96 x 64."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))
    return small.resize((96, 64), Image.Resampling.BICUBIC)


def pixels(data, **options):
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(data):
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)
    return caught.value.reason


def error_reason(data):
    """Return why the picture is refused, or nothing; any other exception fails the test."""
    try:
        decode_image(data)
    except ImageError as error:
        return error.reason
    return ""


def png_header(width, height):
    """A PNG that says how large it is and has no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP"])
def test_every_format_gives_its_pixels(encode, photo, kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    source = photo.quantize(64).convert("RGB") if kind == "GIF" else photo
    difference = np.abs(pixels(encode(source, kind, **options)).astype(int) - np.asarray(source))
    assert difference.max() <= (16 if kind == "JPEG" else 0)


def test_formats_that_run_other_programs_are_refused(encode, photo):
    for kind in ("EPS", "PPM", "ICO", "PDF"):
        assert reason(encode(photo, kind)) == "image_unreadable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_cut_anywhere_is_refused_or_whole(encode, photo, kind):
    raw, rng = encode(photo, kind), random.Random(0)
    for cut in [12, len(raw) // 2, *(rng.randrange(12, len(raw)) for _ in range(60))]:
        if cut > len(raw) * 0.9 and error_reason(raw[:cut]) == "":
            continue  # only the last bytes may be missing without harm
        assert error_reason(raw[:cut]) == "image_truncated", cut


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damaged_bytes_anywhere_raise_nothing_else(encode, photo, kind):
    raw, rng = encode(photo, kind), random.Random(1)
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(rng.randrange(1, 8)):
            damaged[rng.randrange(len(raw) if rng.random() < 0.5 else 64)] = rng.randrange(256)
        assert error_reason(bytes(damaged)) in {"", "image_truncated", "image_unreadable", "image_too_large"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "image_empty"),
        (b"a text file named .jpg\n", "image_unreadable"),
        (b"<html>404</html>" * 100, "image_unreadable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_unreadable"),
        (bytes(5000), "image_unreadable"),
        (png_header(30_000, 20_000), "image_too_large"),
        (png_header(12_000, 10_000), "image_too_large"),
        (png_header(2**31 - 1, 2**31 - 1), "image_too_large"),
        (png_header(2**31 - 1, 1), "image_too_large"),
        (png_header(0, 10), "image_truncated"),
        (png_header(100, 100), "image_truncated"),
    ],
)
def test_what_is_no_picture_or_too_large_a_one(data, expected):
    assert reason(data) == expected


def test_the_limit_is_checked_before_decoding(monkeypatch, encode, photo):
    data = encode(photo)
    monkeypatch.setattr(images, "MAX_PIXELS", photo.width * photo.height)
    assert open_image(data).size == photo.size
    monkeypatch.setattr(images, "MAX_PIXELS", photo.width * photo.height - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert reason(data) == "image_too_large"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(encode, kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert open_image(data).n_frames == 3
    assert (pixels(data) == (255, 0, 0)).all()


def test_cmyk(encode):
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(pixels(data)[8, 8].astype(int) - (255, 0, 0)).max() < 12


def test_transparency_is_white(encode):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        found = pixels(encode(clear, kind, **options))
        assert found[0, 0].tolist() == [255, 0, 0]
        assert found[0, 1].tolist() == [127, 127, 127]
        assert (found[1:] == 255).all()
    grey = Image.new("LA", (4, 4), (0, 0))
    grey.putpixel((0, 0), (40, 255))
    assert pixels(encode(grey))[0, :2].tolist() == [[40] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparent", [1, bytes([255, 0])])
def test_a_palette_with_transparency(encode, kind, transparent):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    found = pixels(encode(image, kind, transparency=1 if kind == "GIF" else transparent))
    assert found[0, :2].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_one_transparent_colour(encode):
    image = Image.new("RGB", (4, 4), (0, 9, 0))
    image.putpixel((0, 0), (255, 0, 0))
    assert pixels(encode(image, transparency=(0, 9, 0)))[0, :2].tolist() == [[255, 0, 0], [255, 255, 255]]
    for mode, clear, opaque in (("L", 9, 40), ("1", 0, 1)):
        image = Image.new(mode, (4, 4), clear)
        image.putpixel((0, 0), opaque)
        assert pixels(encode(image, transparency=clear))[0, :2].tolist() == [
            [40 if mode == "L" else 255] * 3,
            [255] * 3,
        ]


def test_sixteen_bit_grey_is_scaled_not_clipped(encode):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    big_endian = Image.frombytes("I;16B", (16, 16), levels.astype(">u2").tobytes())
    for data in (
        encode(Image.fromarray(levels)),
        encode(Image.fromarray(levels), transparency=0),
        encode(Image.fromarray(levels), "TIFF"),
        encode(big_endian, "TIFF"),
    ):
        assert (pixels(data) == np.arange(256).reshape(16, 16, 1)).all()


def test_black_and_white(encode):
    image = Image.new("1", (4, 4), 1)
    image.putpixel((0, 0), 0)
    assert pixels(encode(image))[0, :2].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation(encode, photo, orientation, kind):
    turned = {1: [], 2: [2], 3: [3], 4: [4], 5: [5], 6: [8], 7: [7], 8: [6]}[orientation]
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    stored = photo
    for step in turned:
        stored = stored.transpose(methods[step])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    found = decode_image(data)
    assert found.size == photo.size
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(photo))
    assert difference.mean() < (8 if kind == "JPEG" else 1e-9)


def test_damaged_exif_spoils_neither_the_picture_nor_the_screen(encode):
    exif, rng = Image.Exif(), random.Random(0)
    exif[0x0112], exif[270] = 6, "text"
    exif[0x8769] = {1: 2}
    for _ in range(300):
        damaged = bytearray(exif.tobytes())
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(6, len(damaged))] = rng.randrange(256)
        data = encode("red", "JPEG", exif=bytes(damaged))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images._quiet.cache_clear()
            assert sorted(decode_image(data).size) == [16, 24]
        assert not caught


def test_a_jpeg_is_decoded_at_a_fraction_where_that_is_enough(encode, photo):
    data = encode(photo.resize((960, 640)), "JPEG")
    assert decode_image(data, reduce_to=640).size == (960, 640)
    assert decode_image(data, reduce_to=320).size == (480, 320)
    assert decode_image(data, reduce_to=200).size == (480, 320)
    assert decode_image(data, reduce_to=10).size == (120, 80)
    assert decode_image(encode(photo), reduce_to=10).size == photo.size


@pytest.mark.parametrize("size", [(960, 640), (641, 963), (1030, 257), (513, 2000)])
@pytest.mark.parametrize("side", [64, 255, 256])
def test_a_smaller_decode_is_close_to_the_whole_one_resized(encode, photo, size, side):
    """As a training picture is made: the shorter side brought to `side`; turned by EXIF after it is decoded."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    data = encode(photo.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90, exif=exif)
    whole, reduced = decode_image(data), decode_image(data, reduce_to=side)
    assert whole.size == size[::-1]
    assert side <= min(reduced.size) <= min(whole.size)
    assert min(reduced.size) < 2 * side + 2 or min(reduced.size) <= -(-min(size) // 8)
    target = [round(length * side / min(whole.size)) for length in whole.size]
    small = [np.asarray(image.resize(target, Image.Resampling.BICUBIC), dtype=int) for image in (whole, reduced)]
    difference = np.abs(small[0] - small[1])
    assert difference.mean() < 2
    assert (difference > 16).mean() < 0.005


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(encode, photo, kind):
    data = encode(photo.resize((480, 320)), kind)
    assert np.array_equal(pixels(data, reduce_to=32), pixels(data))


def test_a_jpeg_that_is_cut_off_is_refused_at_any_scale(encode, photo):
    data = encode(photo.resize((960, 640)), "JPEG")
    with pytest.raises(ImageError) as caught:
        decode_image(data[: len(data) // 2], reduce_to=64)
    assert caught.value.reason == "image_truncated"
    assert decode_image(encode(photo.convert("CMYK"), "JPEG"), reduce_to=8).mode == "RGB"


def test_the_error_crosses_processes():
    error = pickle.loads(pickle.dumps(ImageError("image_empty", "the picture has no bytes")))
    assert (error.reason, str(error)) == ("image_empty", "the picture has no bytes")
