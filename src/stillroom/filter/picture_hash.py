"""A hash of what a picture looks like, by which scaled, recompressed and slightly retouched copies are found."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from stillroom.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image


def picture_hash(image: Image.Image) -> int:
    """Return imagehash's `phash`: which of the picture's 64 lowest frequencies lie above their median.

    The picture is made grey and scaled to 32 x 32, its proportions lost, so colours do not count, nor does fine detail.
    Pictures of one colour all have the same hash (black ones differ in one bit): as pictures they say equally little.
    Drawings that are their own mirror image have few frequencies and so hashes that lie closer together than photos'.

    Args:
        image: RGB, of any size.

    Returns:
        64 bits, the lowest frequency in the highest bit, as an unsigned integer.

    Raises:
        MissingDependencyError: the extra `duplicates` is not installed.
    """
    require_picture_hash()
    import imagehash

    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")


def require_picture_hash() -> None:
    """Raise `MissingDependencyError` if the package that `picture_hash` needs is not installed; loads nothing."""
    if find_spec("imagehash") is None:
        purpose = "finding near-duplicate pictures (--set near_duplicate_distance=off turns it off)"
        raise MissingDependencyError("imagehash", "duplicates", purpose)
