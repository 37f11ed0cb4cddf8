"""Pictures of the web's sizes with and without lettering, drawn from the bundled clip art; for `filter_spotting.py`."""

from __future__ import annotations

import io
import random
import textwrap
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from stillroom.data.images import decode_image
from stillroom.data.source import open_data
from stillroom.filter.overlap import fold_text, text_overlap
from stillroom.records import Sample

CLIP_ART = Path(__file__).parents[1] / "examples" / "openclipart" / "train"
# Keys of drawings with lettering of their own, found by reading all of them and looking at what was found.
LETTERED = {
    *(92, 191, 199, 303, 365, 478, 516, 532, 625, 807, 949, 10163, 10375, 10524, 10535, 10574, 10715, 10755, 10790),
    *(10861, 10870, 10897, 10911, 11088, 11113, 20166, 20198, 20212, 20399, 20417, 20541, 20553, 20579, 20591, 20609),
    *(20644, 20725, 20730, 20764, 21062, 30038, 30058, 30214, 30258, 30348, 30396, 30441, 30456, 30772, 30842, 30887),
    *(30903, 30944, 30965, 31100, 40103, 40141, 40164, 40179, 40261, 40344, 40526),
}
FONTS = (
    *("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf"),
    *("DejaVuSerif-BoldItalic.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
    *("cmr10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmti10.ttf", ""),  # "" is the font within Pillow
)
SIDES = (256, 1024)
SIZES = (0.025, 0.14)  # of letters, as shares of the longer side
LEAST = 14.0  # pixels: an x-height of about 7


class Picture(NamedTuple):
    """A JPEG, its caption, its kind, and whether the caption's words were drawn onto it (None: it has its own)."""

    data: bytes
    caption: str
    kind: str
    drawn: bool | None


@lru_cache(maxsize=1)
def drawings() -> tuple[list[tuple[Image.Image, str]], list[tuple[Image.Image, str]]]:
    """Return the bundled drawings, one a caption of several words, and those with lettering of their own."""
    plain: dict[str, Image.Image] = {}
    lettered = []
    for shard in open_data(str(CLIP_ART)):
        for item in shard.samples():
            if not isinstance(item, Sample):
                continue
            if int(item.key) in LETTERED:
                lettered.append((decode_image(item.image or b""), item.caption))
            elif len(item.caption.split()) >= 2 and item.caption.isascii():
                plain.setdefault(item.caption, decode_image(item.image or b""))
    return [(image, caption) for caption, image in plain.items()], lettered


def pictures(count: int, seed: int = 0) -> list[Picture]:
    """Every second without lettering; of the others 6 in 10 with the caption's words, 3 with others, 1 with its own."""
    kinds = ["caption", "other", "caption", "caption", "other", "caption", "own", "caption", "other", "caption"]
    return [
        _picture(random.Random(10_000 * seed + index), "none" if index % 2 else kinds[index // 2 % 10])
        for index in range(count)
    ]


def _picture(draw: random.Random, kind: str) -> Picture:
    plain, lettered = drawings()
    sheet, caption = _scene(draw, lettered if kind == "own" else plain)
    drawn: bool | None = None if kind == "own" else False
    if kind in ("caption", "other"):
        text = _words(draw, caption)
        while kind == "other" and text_overlap(caption, [text]) >= 4:
            text = _words(draw, draw.choice(plain)[1])
        sheet, lines = _lettered(draw, sheet, text)
        drawn = text_overlap(caption, lines) >= 5
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=draw.choice([60, 75, 85, 90, 95]))
    return Picture(file.getvalue(), caption, kind, drawn)


def _scene(draw: random.Random, among: list[tuple[Image.Image, str]]) -> tuple[Image.Image, str]:
    """A drawing, or several side by side on a coloured sheet, enlarged; the caption is the first's."""
    longer = round(SIDES[0] * (SIDES[1] / SIDES[0]) ** draw.random())
    images, captions = zip(*(draw.choice(among) for _ in range(draw.choice([1, 1, 2, 4, 6]))), strict=True)
    wide = draw.choice([0.6, 0.75, 1, 1.33, 1.5, 1.78])
    size = (longer, max(160, round(longer / wide))) if wide >= 1 else (max(160, round(longer * wide)), longer)
    if len(images) == 1:
        image = images[0]
        scale = longer / max(image.size)
        size = (max(160, round(image.width * scale)), max(160, round(image.height * scale)))
    colour = tuple(draw.randint(120, 255) for _ in range(3)) if draw.random() < 0.5 else (255, 255, 255)
    sheet = Image.new("RGB", size, colour)
    columns = {1: 1, 2: 2, 4: 2, 6: 3}[len(images)] if size[0] >= size[1] else {1: 1, 2: 1, 4: 2, 6: 2}[len(images)]
    rows = -(-len(images) // columns)
    cell = (size[0] // columns, size[1] // rows)
    for place, image in enumerate(images):
        scale = min(cell[0] / image.width, cell[1] / image.height)
        fitted = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
        corner = (cell[0] * (place % columns), cell[1] * (place // columns))
        patch = sheet.crop((*corner, corner[0] + fitted.width, corner[1] + fitted.height))
        sheet.paste(ImageChops.multiply(patch, fitted), corner)  # white paper takes the sheet's colour
    return sheet, captions[0]


def _words(draw: random.Random, caption: str) -> str:
    """Some neighbouring words of a caption, at least five letters in all where there are any."""
    words = caption.split()
    for _ in range(10):
        amount = draw.randint(2, 5)
        begin = draw.randint(0, max(0, len(words) - amount))
        text = " ".join(words[begin : begin + amount])[:60]
        if len(fold_text(text)) >= 5:
            break
    return draw.choice([text, text, text.upper(), text.title()])


def load_font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """Return one of `FONTS`, which come with Matplotlib and Pillow, at a size in pixels."""
    import matplotlib

    if not name:
        font = ImageFont.load_default(size=size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # as it is if Pillow was built with FreeType
        return font
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _lettered(draw: random.Random, sheet: Image.Image, text: str) -> tuple[Image.Image, list[str]]:
    """Draw a text, in lines if it is long, level, turned or upright, somewhere; return the picture and the lines."""
    name, angle = draw.choice(FONTS), draw.choice([0] * 14 + [90, 270] + [draw.uniform(-15, 15) for _ in range(4)])
    size = max(LEAST, max(sheet.size) * SIZES[0] * (SIZES[1] / SIZES[0]) ** draw.random())
    lines, font, size = _fitted(text, name, size, 0.9 * (sheet.height if angle in (90, 270) else sheet.width))
    wide = int(max(font.getlength(line) for line in lines) + size)
    label, halo = (Image.new("L", (wide, int(size * (1.25 * len(lines) + 0.6)))) for _ in range(2))
    where, written, gap = (size / 2, size / 4), "\n".join(lines), size * 0.1
    ImageDraw.Draw(label).multiline_text(where, written, fill=255, font=font, spacing=gap)
    ground = draw.choices(["plate", "outline", "none"], [9, 7, 4])[0]
    if ground == "plate":
        halo.paste(255, (0, 0, *halo.size))
    elif ground == "outline":
        stroke = max(1, round(size * 0.06))
        ImageDraw.Draw(halo).multiline_text(where, written, fill=255, font=font, spacing=gap, stroke_width=stroke)
    label, halo = (layer.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC) for layer in (label, halo))
    larger = Image.new("RGB", (max(sheet.width, label.width), max(sheet.height, label.height)), "white")
    larger.paste(sheet)
    corner = (draw.randint(0, larger.width - label.width), draw.randint(0, larger.height - label.height))
    box = (*corner, corner[0] + label.width, corner[1] + label.height)
    if ground != "none":
        larger.paste(tuple(draw.randint(0, 255) for _ in range(3)), corner, halo)
        paper = np.array(larger.crop(box))[np.asarray(halo) > 127].mean(0)
    else:
        paper = np.asarray(larger.crop(box)).reshape(-1, 3).mean(0)
    # How far the ink goes from the ground to very dark or light: mostly far, without a ground of its own always.
    contrast = draw.triangular(0.5 if ground == "none" else 0.3, 1, 1)
    aim = [draw.randint(0, 90) if paper.mean() > 127 else draw.randint(165, 255) for _ in range(3)]
    larger.paste(tuple(int(value) for value in paper + contrast * (np.array(aim) - paper)), corner, label)
    return larger, lines


def _fitted(text: str, name: str, size: float, room: float) -> tuple[list[str], ImageFont.FreeTypeFont, float]:
    """Break a text into lines that fit `room` pixels, in smaller letters if need be, but no smaller than `LEAST`."""
    while True:
        font = load_font(name, size)
        lines = textwrap.wrap(text, max(1, int(room / max(1.0, font.getlength("n")))), break_long_words=False)
        if size <= LEAST or max(font.getlength(line) for line in lines) <= room:
            return lines, font, size
        size = max(LEAST, size * 0.85)
