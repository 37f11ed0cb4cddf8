"""Readers of test sets in the formats they are published in, by the name that a task file gives them.

Each file of a format is read as data, never executed: no pickles. Names in annotation files never lead out of the
data's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.evaluate.readers.binary import BinaryImages
from stillroom.evaluate.readers.captions import CaptionsJson, LocalizedNarratives, Winoground
from stillroom.evaluate.readers.class_folders import ClassFolders
from stillroom.evaluate.readers.labels import HatefulMemes, OpenImages, Voc
from stillroom.evaluate.readers.list_file import ListFile
from stillroom.evaluate.readers.matlab import Cars, Flowers
from stillroom.evaluate.readers.questions import SnliVe, Vqa

READERS: Mapping[str, type[Any]] = {
    "binary_images": BinaryImages,
    "captions_json": CaptionsJson,
    "cars": Cars,
    "class_folders": ClassFolders,
    "flowers": Flowers,
    "hateful_memes": HatefulMemes,
    "list_file": ListFile,
    "localized_narratives": LocalizedNarratives,
    "open_images": OpenImages,
    "snli_ve": SnliVe,
    "voc": Voc,
    "vqa": Vqa,
    "winoground": Winoground,
}
