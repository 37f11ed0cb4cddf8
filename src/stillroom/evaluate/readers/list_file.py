"""A text file that lists the pictures of a split: Birdsnap, DTD, Food-101, Oxford-IIIT Pets, SUN397, UCF101.

apple_pie/1011328                     the class is the folder; `pictures: images/{}.jpg`
Abyssinian_201 1 1 1                  the class is in the name: everything before the last "_"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, FileSource, Item
from stillroom.evaluate.readers.files import existing, inside, numbered_lines, read_lines


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """Parameters of the reader.

    Attributes:
        file: the first word of each line names a picture.
        pictures: path of a picture: `{}` is the name as listed, `{stem}` the name without its ending.
        label: "folder": the class is the path of the folder; "prefix": the file's name before its last "_".
        classes: a file of all classes, one first word a line, in order; empty: those that the list has, sorted.
        header: whether the first line is a heading.
        names: how a class is spelled out: "underscore" as a space, "camel" before each capital, or SUN397's "path".
    """

    file: str
    pictures: str = "{}"
    label: Literal["folder", "prefix"] = "folder"
    classes: str = ""
    header: bool = False
    names: Literal["underscore", "camel", "path"] = "underscore"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set.

        Raises:
            DataError: no list, no pictures in it, a name that leaves the folder, or a class that is not listed.
        """
        path = existing(root, self.file)
        rows = [(inside(line.split()[0].lstrip("/"), f"{path}:{n}"), n) for n, line in numbered_lines(path)]
        rows = rows[1:] if self.header else rows
        keys = [self._key(name) for name, _ in rows]
        classes = self._classes(root, keys)
        if not rows:
            raise DataError(f"{path} lists no pictures")
        labels = {key: label for label, key in enumerate(classes)}
        unknown = [(key, n) for key, (_, n) in zip(keys, rows, strict=True) if key not in labels]
        if unknown:
            raise DataError(f"{path}:{unknown[0][1]}: class '{unknown[0][0][:60]}' is not in {self.classes}")
        items = [
            Item(shard="", key=inside(self._picture(name), path), label=labels[key])
            for key, (name, _) in zip(keys, rows, strict=True)
        ]
        return EvalDataset(
            name="",
            kind="classification",
            source=FileSource(root=root, items=tuple(items)),
            classnames=tuple(self._spelled(key) for key in classes),
        )

    def _key(self, name: str) -> str:
        path = PurePosixPath(name)
        return path.stem.rpartition("_")[0] if self.label == "prefix" else str(path.parent)

    def _classes(self, root: Path, keys: list[str]) -> list[str]:
        if not self.classes:
            return sorted(set(keys), key=lambda key: (key.casefold(), key))
        # UCF101 numbers its classes ("1 ApplyEyeMakeup"), SUN397 begins them with "/"
        lines = [line.split() for line in read_lines(existing(root, self.classes))]
        return [(words[1] if words[0].isdigit() and len(words) > 1 else words[0]).strip("/") for words in lines]

    def _picture(self, name: str) -> str:
        return self.pictures.replace("{stem}", str(PurePosixPath(name).with_suffix(""))).replace("{}", name)

    def _spelled(self, key: str) -> str:
        if self.names == "camel":
            return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower()
        parts = key.split("/")
        if self.names == "path" and len(parts) > 1 and len(parts[0]) == 1:
            parts = parts[1:]  # SUN397 sorts its classes into folders a .. z
        return " ".join(parts).replace("_", " ")
