"""Pairs of one's own as a retrieval test set: all that the other stages read as DATA, without a layout for evaluation.

    stillroom evaluate MODEL --tasks pairs.tsv --set data.caption_column=text

Rows that name one picture are one picture with several captions. Two files are two pictures, whatever they show.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath

from stillroom.data import reasons
from stillroom.data.config import DataConfig
from stillroom.data.folders import list_pictures
from stillroom.data.source import URL, Shard, open_data
from stillroom.data.tables import TABLE_EXTENSIONS
from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, Item
from stillroom.evaluate.readers.class_folders import has_class_folders
from stillroom.evaluate.readers.own_files import CLASSNAMES
from stillroom.records import Fault, ImageRef, Sample

PAIRS = "pairs"  # `Task.reader` of such a set
# Files of CLIP_benchmark's layout: a folder with one of them is meant to be in it.
LAYOUT = ("test/nshards.txt", "dataset_type.txt", CLASSNAMES)
PATTERN = frozenset("*?[{")
DAMAGED = (reasons.SHARD_TRUNCATED, reasons.SHARD_UNREADABLE)
MAX_NAME = 80  # letters: it becomes the name of a file


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """The pictures of shards, each once, in the order in which they first appear with a caption."""

    shards: tuple[Shard, ...]

    def __iter__(self) -> Iterator[Item | Fault]:
        """Read the pictures; a pair that cannot be used is a fault, a damaged shard an error."""
        left = dict(self.items)
        for found in self._pairs(images=True):
            if isinstance(found, Fault):
                yield found
            elif (item := left.pop(found.image_ref, None)) is not None:
                yield dataclasses.replace(item, image=found.image or b"")

    @cached_property
    def items(self) -> dict[ImageRef | None, Item]:
        """The pictures without their bytes, with all their captions, by where their bytes are."""
        first: dict[ImageRef | None, Sample] = {}
        captions: dict[ImageRef | None, list[str]] = {}
        for found in self._pairs(images=False):
            if isinstance(found, Sample):
                first.setdefault(found.image_ref, found)
                captions.setdefault(found.image_ref, []).append(found.caption)
        return {
            ref: Item(shard=sample.shard, key=sample.key, captions=tuple(captions[ref]))
            for ref, sample in first.items()
        }

    def faults(self) -> Iterator[Fault]:
        """Yield the faults that are seen without reading pictures."""
        return (found for found in self._pairs(images=False) if isinstance(found, Fault))

    def count(self) -> int:
        """Return the number of pictures, of which some may turn out to be damaged."""
        return len(self.items)

    def digest(self) -> str:
        """Return the SHA-256 of names, captions and pictures, and of what cannot be used, which results list."""
        digest = hashlib.sha256()
        for found in self:
            if isinstance(found, Fault):
                digest.update(f"\0fault\0{found.shard}\0{found.key}\0{found.reason}".encode())
            else:
                digest.update(f"\0{found.name}\0{found.captions}\0".encode())
                digest.update(hashlib.sha256(found.image).digest())
        return digest.hexdigest()

    def _pairs(self, *, images: bool) -> Iterator[Sample | Fault]:
        """Yield the pairs that have a caption, its white space made single spaces, and the faults.

        Raises:
            DataError: a shard is cut off or unreadable; part of a test set cannot be compared with all of it.
        """
        for shard in self.shards:
            for found in shard.samples(images=images):
                if isinstance(found, Sample):
                    caption = " ".join(found.caption.split())
                    if caption:
                        yield dataclasses.replace(found, caption=caption)
                    else:
                        yield Fault(shard=found.shard, key=found.key, reason=reasons.CAPTION_EMPTY)
                elif found.reason in DAMAGED:
                    raise DataError(f"{found.detail}; a test set must be whole: copy or download it again")
                else:
                    yield found


def open_pairs(data: str, config: DataConfig, name: str = "") -> EvalDataset:
    """Open DATA as a retrieval set.

    Args:
        data: what `stillroom.data.open_data` takes.
        config: column names of tables.
        name: of the data set; `pairs_name` of the data otherwise.

    Raises:
        DataError: nothing there, columns that a table does not have, a damaged shard, or fewer than two pictures.
    """
    source = PairSource(shards=tuple(open_data(data, config)))
    if len(source.items) < 2:
        counted = Counter(fault.reason for fault in source.faults())
        faults = ", ".join(f"{reason} {number}" for reason, number in counted.most_common()) or "no faults"
        raise DataError(
            f"'{data}' has fewer than two pictures with a caption ({faults}); of one, recall is 1 whatever the model"
        )
    return EvalDataset(name=name or pairs_name(data), kind="retrieval", source=source)


def is_pairs(data: str) -> bool:
    """Return whether a task's name is DATA: a file or pattern that may hold pairs, or a folder of pairs.

    A folder is, if it holds tars or pictures, unless it is in CLIP_benchmark's layout or has a sub-folder per class.
    """
    root = Path(data)
    if not os.path.isdir(data):
        extension = root.suffix.lower() in (".tar", *TABLE_EXTENSIONS)
        return extension or "::" in data or URL.match(data) is not None or is_pattern(data) or os.path.exists(data)
    if any((root / name).exists() for name in LAYOUT):
        return False
    if any(not path.name.startswith(".") for path in root.glob("*.tar")):
        return True
    return not has_class_folders(root) and bool(list_pictures(root))


def is_pattern(text: str) -> bool:
    """Return whether a path is a glob or a brace pattern."""
    return not PATTERN.isdisjoint(text)


def pairs_name(data: str) -> str:
    """Name DATA by its file's stem or its folder, of a pattern the folder it is in; several parts are joined by +."""
    return "+".join(dict.fromkeys(map(_part_name, data.split("::"))))[:MAX_NAME]


def _part_name(part: str) -> str:
    if os.path.exists(part):
        real = Path(os.path.abspath(part))
        return (real.name if real.is_dir() else real.stem) or "data"
    # In http a question mark begins the query.
    text = part.partition("?")[0] if part.startswith("http") else part
    path: PurePath = PurePosixPath(text) if URL.match(part) else Path(os.path.abspath(text))
    stem = path.stem
    while is_pattern(path.name):
        path, stem = path.parent, path.parent.name
    return stem or "data"


def absolute_parts(data: str) -> str:
    """Spell out the paths of DATA, so that two spellings of one file are one task; patterns stay as they are."""
    return "::".join(os.path.abspath(part) if os.path.exists(part) else part for part in data.split("::"))
