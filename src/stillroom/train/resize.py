"""Pictures as training holds them: a little larger than the model's size, for the random crop to move in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stillroom.data.images import CutEnds, decode_image
from stillroom.errors import ConfigError
from stillroom.model.load import bounded_transform

# 256 for 224, as is usual for a random crop.
MARGIN = 256 / 224
# open_clip's geometric transforms beside torchvision's.
OWN_GEOMETRY = ("ResizeKeepRatio", "CenterCropOrPad")


def square_side(size: int | Sequence[int]) -> int:
    """Return the side of a model's pictures in pixels, from their (height, width) or that side.

    Raises:
        ConfigError: they are not square.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"the model takes pictures of {width} x {height} pixels; training takes square ones: set model.image_size"
        )
    return int(height)


@dataclass(frozen=True, kw_only=True)
class PictureReader:
    """From encoded bytes to a square of the stored size; can be sent to another process.

    Attributes:
        preprocess: a model's preprocessing config, open_clip's `visual.preprocess_cfg`.
        margin: stored side over the model's; 1 where no random crop follows.
    """

    preprocess: Mapping[str, Any]
    margin: float = MARGIN

    @property
    def model_side(self) -> int:
        """Side of the pictures that the model sees."""
        return square_side(self.preprocess["size"])

    @property
    def side(self) -> int:
        """S, the side of stored pictures."""
        return round(self.model_side * self.margin)

    @cached_property
    def resize(self) -> Any:
        """From an RGB picture to one of S x S: the geometric part of open_clip's own evaluation transform.

        So what is trained on is cut or padded as what is evaluated.
        """
        from torchvision import transforms

        whole = bounded_transform({**self.preprocess, "size": self.side}).transforms
        known = CutEnds, transforms.Resize, transforms.CenterCrop
        return transforms.Compose(
            [part for part in whole if isinstance(part, known) or type(part).__name__ in OWN_GEOMETRY]
        )

    def __call__(self, data: bytes) -> np.ndarray:
        """Return (S, S, 3) uint8; raises `stillroom.data.images.ImageError`."""
        return np.asarray(self.resize(decode_image(data, reduce_to=self.side)), dtype=np.uint8)
