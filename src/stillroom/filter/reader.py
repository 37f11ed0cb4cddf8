"""Lettering in a picture by RapidOCR's models, called directly: where it is, and what one piece of it says.

RapidOCR's own pipeline enlarges every picture until its shorter side has 736 pixels, classifies the direction of each
piece and lets every session use all cores. Here the caller chooses the side, pieces are read one at a time, so that the
caller can stop, and a session has one thread, because whole shards run side by side. Upside-down lettering is not
turned. The detector's thresholds are those of RapidOCR's configuration.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.errors import MissingDependencyError

MASK_THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
UNCLIP_RATIO = 1.6
MIN_MASK_SIDE = 3
LINE_HEIGHT = 48  # pixels, fixed by the recogniser
MIN_LINE_WIDTH, MAX_LINE_WIDTH = 48, 960
TURN_ABOVE = 1.5  # a piece this much taller than wide is a line that runs down or up


@dataclass(frozen=True, kw_only=True)
class Region:
    """A found piece of lettering: its corners (4, 2) float32 in pixels, clockwise from the upper left, and a score."""

    corners: np.ndarray
    score: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the piece in pixels, along its own axes, each at least 1."""
        return _size(self.corners)


class TextReader:
    """RapidOCR's detector and recogniser. It cannot be sent to another process: make one in each by `text_reader`."""

    def __init__(self, detector: Any, recogniser: Any, characters: list[str]) -> None:
        self._detector, self._recogniser, self._characters = detector, recogniser, characters

    def detect(self, picture: np.ndarray, side: int) -> list[Region]:
        """Find lettering.

        Args:
            picture: (H, W, 3) uint8.
            side: the longer side, in pixels, at which the detector looks (rounded to multiples of 32).

        Returns:
            regions in coordinates of `picture`, in the order the contours were found.
        """
        seen = _scaled(picture, side)
        heat = self._detector.run(None, {"x": seen[None]})[0][0, 0]
        return _regions(heat, (picture.shape[1] / heat.shape[1], picture.shape[0] / heat.shape[0]))

    def read(self, picture: np.ndarray, region: Region) -> tuple[str, float]:
        """Return what a region says, and how sure the recogniser is: the mean over characters, in [0, 1].

        A piece much taller than wide is read downwards and upwards, and the surer of the two is returned.
        """
        width, height = region.size
        turns = (0,) if height < TURN_ABOVE * width else (3, 1)
        found = [self._read(picture, np.roll(region.corners, turn, axis=0)) for turn in turns]
        return max(found, key=lambda text_and_confidence: text_and_confidence[1])

    def _read(self, picture: np.ndarray, corners: np.ndarray) -> tuple[str, float]:
        line = _line(picture, corners)
        probabilities = self._recogniser.run(None, {"x": line[None]})[0][0]
        return decode_ctc(probabilities, self._characters)


def require_reader() -> None:
    """Raise `MissingDependencyError` if a package that `text_reader` needs is not installed; loads none of them."""
    for module, package in (
        ("rapidocr", "rapidocr"),
        ("onnxruntime", "onnxruntime"),
        ("cv2", "opencv-python-headless"),
    ):
        if find_spec(module) is None:
            raise MissingDependencyError(package, "ocr", "text spotting (--set text_overlap=off turns it off)")


@functools.lru_cache(maxsize=1)
def text_reader() -> TextReader:
    """Load the models, once per process.

    Raises:
        MissingDependencyError: the extra `ocr` is not installed.
    """
    require_reader()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def session(kind: str) -> Any:
        return onnxruntime.InferenceSession(str(_model(kind)), options, providers=["CPUExecutionProvider"])

    recogniser = session("rec")
    listed = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
    return TextReader(session("det"), recogniser, ["", *listed, " "])


def _model(kind: str) -> Path:
    """Return the model file of a kind, `det` or `rec`, in RapidOCR's wheel; importing the package is not needed."""
    spec = find_spec("rapidocr")
    folder = Path(spec.origin or "").parent / "models" if spec else Path()
    found = sorted(folder.glob(f"*_{kind}_*.onnx"))
    if not found:
        raise MissingDependencyError(f"rapidocr with {folder}/*_{kind}_*.onnx", "ocr", "text spotting")
    return found[0]


def decode_ctc(probabilities: np.ndarray, characters: list[str]) -> tuple[str, float]:
    """Best path of a CTC output (T, C): repeats merged, blanks (class 0) left out; mean probability of what is left."""
    best = probabilities.argmax(axis=1)
    keep = (best != 0) & np.concatenate([[True], best[1:] != best[:-1]])
    if not keep.any():
        return "", 0.0
    text = "".join(characters[index] for index in best[keep])
    return text, float(probabilities[keep, best[keep]].mean())


def _scaled(picture: np.ndarray, side: int) -> np.ndarray:
    """Scale (H, W, 3) to a longer side of `side` pixels, both sides multiples of 32: the detector's input (3, h, w)."""
    import cv2

    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32))
    return _normalised(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def _normalised(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB to (3, H, W) float32 in [-1, 1], channels blue first, as the models were trained."""
    return np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1.0


def _regions(heat: np.ndarray, scale: tuple[float, float]) -> list[Region]:
    """Threshold the detector's map (H, W) and fit a rotated rectangle around each piece (DB post-processing)."""
    import cv2

    core = (heat > MASK_THRESHOLD).astype(np.uint8)
    if not core.any():
        return []
    mask = cv2.dilate(core, np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    regions = []
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < MIN_MASK_SIDE:
            continue
        score = _mean_inside(heat, cv2.boxPoints((centre, (width, height), angle)))
        if score < BOX_THRESHOLD:
            continue
        # The map shows the lettering's core. Growing a polygon by area * ratio / length is, for a rectangle, this:
        grow = width * height * UNCLIP_RATIO / (width + height)
        corners = cv2.boxPoints((centre, (width + grow, height + grow), angle)) * np.asarray(scale, np.float32)
        regions.append(Region(corners=_clockwise(corners), score=score))
    return regions


def _mean_inside(heat: np.ndarray, corners: np.ndarray) -> float:
    import cv2

    low = np.clip(np.floor(corners.min(0)).astype(int), 0, np.array(heat.shape[::-1]) - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int), 0, np.array(heat.shape[::-1]) - 1)
    mask = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    cv2.fillPoly(mask, (corners - low).astype(np.int32)[None], 1)
    return float(cv2.mean(heat[low[1] : high[1] + 1, low[0] : high[0] + 1], mask)[0])


def _clockwise(corners: np.ndarray) -> np.ndarray:
    """Order four corners: upper left, upper right, lower right, lower left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (side[np.argsort(side[:, 1], kind="stable")] for side in (by_x[:2], by_x[2:]))
    return np.stack([left[0], right[0], right[1], left[1]]).astype(np.float32)


def _line(picture: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cut the rectangle `corners` out, upright, as the recogniser's input (3, 48, W)."""
    import cv2

    width, height = _size(corners)
    across = int(np.clip(np.ceil(LINE_HEIGHT * width / height), MIN_LINE_WIDTH, MAX_LINE_WIDTH))
    # Cut out at a multiple of the wanted size, then average: interpolation alone would skip rows of large letters.
    zoom = max(1, round(height / LINE_HEIGHT))
    cut_size = (across * zoom, LINE_HEIGHT * zoom)
    target = np.array([[0, 0], [cut_size[0], 0], cut_size, [0, cut_size[1]]], np.float32)
    turn = cv2.getPerspectiveTransform(corners, target)
    cut = cv2.warpPerspective(picture, turn, cut_size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if zoom > 1:
        cut = cv2.resize(cut, (across, LINE_HEIGHT), interpolation=cv2.INTER_AREA)
    return _normalised(cut)


def _size(corners: np.ndarray) -> tuple[float, float]:
    """Width and height, at least one pixel, of a rectangle given by its corners."""
    width, height = np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[3] - corners[0])
    return max(1.0, float(width)), max(1.0, float(height))
