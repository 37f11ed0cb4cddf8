"""Encoded bytes to an RGB picture, with limits checked before anything large is decoded."""

from __future__ import annotations

import functools
import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.data.reasons import IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNREADABLE

if TYPE_CHECKING:
    from PIL import Image

# Our choice: far above any picture of the web that is of use, far below a decompression bomb.
MAX_PIXELS = 100_000_000
# Our choice, for the same reason: longer side over shorter of what is scaled up until the shorter side fits a model.
MAX_ASPECT = 100
# The formats a pair may have. Pillow knows many more, some of which run external programs (EPS) or old parsers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


# How JPEG, PNG, GIF, TIFF and WebP files begin: one that does and cannot be opened is damaged, not of another format.
SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
ORIENTATION = 0x0112  # the EXIF tag


class ImageError(ValueError):
    """A picture that cannot be used; `reason` is one of `stillroom.data.reasons`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return ImageError, (self.reason, str(self))


@functools.cache
def _quiet() -> None:
    # Pillow warns of every oddity in a header. Set once: filters that come and go are not safe among threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(data: bytes) -> Image.Image:
    """Open a picture without decoding it: the header is read, the limits are checked.

    Raises:
        ImageError: no bytes, not a picture of a known format, a damaged header, or more than `MAX_PIXELS` pixels.
    """
    from PIL import Image

    if not data:
        raise ImageError(IMAGE_EMPTY, "the picture has no bytes")
    _quiet()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(IMAGE_TOO_LARGE, str(error)) from None
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise many kinds on damaged headers
        if SIGNATURE.match(data):
            raise ImageError(IMAGE_TRUNCATED, f"the header is damaged or cut off: {_one_line(error)}") from None
        raise ImageError(IMAGE_UNREADABLE, f"it begins with {data[:16]!r}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(IMAGE_TOO_LARGE, f"{width} x {height} pixels, the limit is {MAX_PIXELS:,}")
    return image


def decode_image(data: bytes, *, reduce_to: int | None = None) -> Image.Image:
    """Decode to RGB: first frame, EXIF orientation applied, transparency over white.

    Args:
        data: encoded JPEG, PNG, WebP, GIF, BMP or TIFF.
        reduce_to: where the format can decode at a fraction of its size (JPEG), decode at the smallest that keeps the
            shorter side at least this many pixels.

    Raises:
        ImageError: with `reason` image_empty, image_unreadable, image_truncated or image_too_large.
    """
    image = open_image(data)
    try:
        box = None
        if reduce_to is not None and image.format == "JPEG":
            _, box = image.draft("RGB", (reduce_to, reduce_to)) or (None, None)
        image.load()
        picture = _over_white(image)
        if box is not None and picture.size != box[2:]:
            # The last row or column lies partly beyond the picture. Kept, it would stretch the rest by up to a pixel.
            picture = picture.crop((0, 0, int(box[2]), int(box[3])))
        return _upright(picture, _orientation(image))
    except Exception as error:  # noqa: BLE001 - see open_image
        raise ImageError(IMAGE_TRUNCATED, _one_line(error)) from None


@dataclass(frozen=True)
class CutEnds:
    """Cut the ends off pictures that are longer than `aspect` times their width; others stay as they are.

    It goes before a transform that scales the shorter side to a model's size and cuts out the middle: scaled so, a
    picture of 20,000 x 1 pixels, a file of 99 bytes, takes 6 GB. The middle stays where it is, to half a pixel.
    """

    aspect: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture, or its middle."""
        width, height = image.size
        if max(width, height) <= self.aspect * min(width, height):
            return image
        across, down = min(width, self.aspect * height), min(height, self.aspect * width)
        left, top = (width - across) // 2, (height - down) // 2
        return image.crop((left, top, left + across, top + down))


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # 16-bit grey, which Pillow clips to 255 instead of scaling it; what it makes of its transparency is wrong too.
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; damaged EXIF does not make a picture worse than it is."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - see open_image
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _one_line(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    # Pillow's own message holds an address in memory; equal runs are to say equal things.
    text = "" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    return text[:200] or type(error).__name__
