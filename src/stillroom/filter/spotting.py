"""Does the picture spell out the caption? A cascade that stops as soon as it knows.

A caption that is too short to match is not searched for; lettering is looked for at reduced resolution; only what was
found is read, longest piece first, until a piece matches; and where something read comes near the caption, the picture
is looked at once more, as large as RapidOCR would. That text spotted with confidence 0.8 or more must share 5 or more
characters with the caption is recalled from DiHT, unverified; the cascade is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stillroom.filter.overlap import fold_text, text_overlap
from stillroom.filter.reader import Region

if TYPE_CHECKING:
    from PIL import Image

CAPTION_TOO_SHORT = "caption_too_short"
PICTURE_TOO_SMALL = "picture_too_small"
# Small pictures are shown to the detector enlarged; more than this finds nothing more (our choice, docs/filter.md).
MAX_ENLARGEMENT = 2
# A piece that shares so many characters with the caption, however unsure its reading, is worth a second look. It does
# not depend on the thresholds: what is measured stays true when these change (our choice, docs/filter.md).
NEAR_MATCH = 3
# The second look: a shorter side as RapidOCR has it, and a longer side that bounds time and memory.
FULL_SHORTER_SIDE, FULL_LONGER_SIDE = 736, 1600


class Reader(Protocol):
    """What a `Spotter` needs of `stillroom.filter.reader.TextReader`."""

    def detect(self, picture: np.ndarray, side: int) -> list[Region]:
        """Find lettering in (H, W, 3) uint8, looking at it with a longer side of `side` pixels."""
        ...

    def read(self, picture: np.ndarray, region: Region) -> tuple[str, float]:
        """Return what a region says, and how sure that is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Spotting:
    """What was found of a caption in its picture. Nothing was searched where `texts` is None.

    Attributes:
        texts: pieces read with enough confidence, in the order they were read.
        confidences: how sure the reading of each is, in [0, 1].
        boxes: where each is: x and y of four corners, clockwise from the upper left, as shares of the picture's width
            and height, in [0, 1].
        overlap: longest run of characters that caption and a piece share.
        exact: False if pieces were left unread after a match, so that `overlap` is a lower bound.
        skipped: why nothing was searched, `caption_too_short` or `picture_too_small`; None otherwise.
    """

    texts: tuple[str, ...] | None = None
    confidences: tuple[float, ...] | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    overlap: int | None = None
    exact: bool | None = None
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spotter:
    """The cascade with its thresholds (see `FilterConfig`); `exhaustive` takes no short cut: every value is exact."""

    reader: Reader
    threshold: int = 5
    confidence: float = 0.8
    min_side: int = 16
    side: int = 640
    exhaustive: bool = False

    def skips(self, caption: str) -> bool:
        """Whether no lettering can match, because the folded caption has fewer characters than a match takes."""
        return not self.exhaustive and len(fold_text(caption)) < self.threshold

    def spot(self, image: Image.Image, caption: str) -> Spotting:
        """Search an RGB picture for its caption."""
        if self.skips(caption):
            return Spotting(skipped=CAPTION_TOO_SHORT)
        if min(image.size) < self.min_side:
            return Spotting(skipped=PICTURE_TOO_SMALL)
        picture = np.asarray(image)
        side = min(self.side, round(MAX_ENLARGEMENT * max(image.size)))
        pieces, complete = self._look(picture, caption, side)
        again = _full_side(image.size)
        if again > side and any(piece.shared >= NEAR_MATCH for piece in pieces):
            if not self.exhaustive and any(map(self._matches, pieces)):
                complete = False
            else:
                more, complete = self._look(picture, caption, again)
                pieces = _merged(pieces, more)
        sure = [piece for piece in pieces if piece.confidence >= self.confidence]
        return Spotting(
            texts=tuple(piece.text for piece in sure),
            confidences=tuple(piece.confidence for piece in sure),
            boxes=tuple(piece.box for piece in sure),
            overlap=max((piece.shared for piece in sure), default=0),
            exact=complete,
        )

    def _look(self, picture: np.ndarray, caption: str, side: int) -> tuple[list[_Piece], bool]:
        """Read what the detector finds at a longer side, until a piece matches; also return whether all was read."""
        # Long pieces match more often than short ones: with them first, most are never read.
        regions = sorted(self.reader.detect(picture, side), key=lambda region: -max(region.size) / min(region.size))
        pieces: list[_Piece] = []
        for index, region in enumerate(regions):
            text, confidence = self.reader.read(picture, region)
            if not text.strip():
                continue
            shared = text_overlap(caption, [text])
            pieces.append(_Piece(text=text, confidence=confidence, box=_shares(region, picture), shared=shared))
            if self._matches(pieces[-1]) and not self.exhaustive:
                return pieces, index == len(regions) - 1
        return pieces, True

    def _matches(self, piece: _Piece) -> bool:
        return piece.confidence >= self.confidence and piece.shared >= self.threshold


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A piece of lettering that was read; `shared` is the length of its longest run in common with the caption."""

    text: str
    confidence: float
    box: tuple[float, ...]
    shared: int


def _merged(first: list[_Piece], second: list[_Piece]) -> list[_Piece]:
    """Join what two looks read; what both read alike stands once, with the surer reading."""
    known = {piece.text: index for index, piece in enumerate(first)}
    pieces = list(first)
    for piece in second:
        index = known.get(piece.text)
        if index is None:
            pieces.append(piece)
        elif piece.confidence > pieces[index].confidence:
            pieces[index] = piece
    return pieces


def _full_side(size: tuple[int, int]) -> int:
    """Return the longer side of a picture enlarged as RapidOCR does, within bounds."""
    scale = max(1.0, FULL_SHORTER_SIDE / min(size))
    return min(FULL_LONGER_SIDE, round(scale * max(size)))


def _shares(region: Region, picture: np.ndarray) -> tuple[float, ...]:
    """Return a region's corners as eight shares of the width and height of (H, W, 3)."""
    corners = region.corners / np.array([picture.shape[1], picture.shape[0]])
    return tuple(float(share) for share in np.clip(corners, 0, 1).ravel())
