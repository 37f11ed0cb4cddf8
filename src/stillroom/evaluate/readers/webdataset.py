"""CLIP_benchmark's webdataset layout.

    NAME/classnames.txt                          one class per line, line i is label i (classification)
    NAME/zeroshot_classification_templates.txt   one prompt per line, {c} stands for the class (classification)
    NAME/dataset_type.txt                        "classification" (also when absent) or "retrieval"
    NAME/test/nshards.txt                        number of tars
    NAME/test/0.tar, 1.tar, ...                  key.jpg|png|webp with key.cls (label) or key.txt (a caption per line)

Only files are read that the layout names; tar members never become paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillroom.data import reasons
from stillroom.data.tars import IMAGE_EXTENSIONS, split_name
from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, Item
from stillroom.evaluate.readers.own_files import folder_name, own_classnames, own_templates, read_if_there
from stillroom.evaluate.shards import member_names, tar_groups
from stillroom.records import Fault

LABEL_MISSING = "label_missing"
LABEL_UNREADABLE = "label_unreadable"


@dataclass(frozen=True, kw_only=True)
class TarSource:
    """Tars of pictures with `.cls` labels, or with `.txt` captions where `classes` is None."""

    shards: tuple[Path, ...]
    classes: int | None

    def __iter__(self) -> Iterator[Item | Fault]:
        """Read the tars; a pair that cannot be used is a fault, a damaged tar an error."""
        for path in self.shards:
            seen: set[str] = set()
            for key, parts in tar_groups(path):
                if key in seen:
                    yield Fault(shard=path.stem, key=key, reason=reasons.DUPLICATE_KEY, detail="the first is used")
                else:
                    seen.add(key)
                    yield self._item(path, key, parts)

    def count(self) -> int:
        """Return the number of pictures; only the headers of tars are read."""
        names = (name for shard in self.shards for name in member_names(shard))
        return sum(split_name(name)[1] in IMAGE_EXTENSIONS for name in names)

    def digest(self) -> str:
        """Return the SHA-256 of the tars."""
        digest = hashlib.sha256()
        for path in self.shards:
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _item(self, path: Path, key: str, parts: dict[str, bytes]) -> Item | Fault:
        def fault(reason: str, detail: str = "") -> Fault:
            return Fault(shard=path.stem, key=key, reason=reason, detail=detail)

        if "too large" in parts:
            return fault(reasons.IMAGE_TOO_LARGE, parts["too large"].decode())
        if "image" not in parts:
            return fault(reasons.IMAGE_MISSING)
        if self.classes is None:
            try:
                lines = parts["txt"].decode("utf-8").splitlines()
            except KeyError:
                return fault(reasons.CAPTION_MISSING)
            except UnicodeDecodeError as error:
                return fault(reasons.CAPTION_NOT_UTF8, str(error))
            captions = tuple(line.strip() for line in lines if line.strip())
            if not captions:
                return fault(reasons.CAPTION_EMPTY)
            return Item(shard=path.stem, key=key, image=parts["image"], captions=captions)
        if "cls" not in parts:
            return fault(LABEL_MISSING)
        try:
            label = int(parts["cls"])
        except ValueError:
            return fault(LABEL_UNREADABLE, f"{parts['cls'][:40]!r} is no integer")
        if not 0 <= label < self.classes:
            raise DataError(f"'{key}' in {path} has label {label}; classnames.txt has {self.classes} lines")
        return Item(shard=path.stem, key=key, image=parts["image"], label=label)


def is_webdataset(root: Path, split: str) -> bool:
    """Return whether a folder is in this layout."""
    return (root / split / "nshards.txt").is_file()


def open_webdataset(root: Path, split: str) -> EvalDataset:
    """Open a data set in this layout.

    Raises:
        DataError: a missing tar, or class names or templates that cannot be used.
    """
    kind = read_if_there(root / "dataset_type.txt").strip().lower() or "classification"
    shards = _numbered_tars(root / split)
    if kind == "retrieval":
        return EvalDataset(name=folder_name(root), kind="retrieval", source=TarSource(shards=shards, classes=None))
    if kind != "classification":
        raise DataError(f"{root / 'dataset_type.txt'} says '{kind[:40]}'; allowed: classification, retrieval")
    classnames = own_classnames(root)
    if not classnames:
        raise DataError(f"{root / 'classnames.txt'} is missing or empty; write one class name per line")
    return EvalDataset(
        name=folder_name(root),
        kind="classification",
        source=TarSource(shards=shards, classes=len(classnames)),
        classnames=classnames,
        templates=own_templates(root),
    )


def _numbered_tars(folder: Path) -> tuple[Path, ...]:
    """Return tars 0 .. n - 1, zero-padded or not, as nshards.txt counts them."""
    text = read_if_there(folder / "nshards.txt").strip()
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise DataError(f"{folder / 'nshards.txt'} holds '{text[:40]}'; it must be the number of tars")
    found = {int(path.stem): path for path in sorted(folder.glob("*.tar")) if path.stem.isdecimal()}
    missing = [number for number in range(int(text)) if number not in found]
    if missing:
        raise DataError(f"{folder}: nshards.txt says {text}, but {missing[0]}.tar is missing; copy it there")
    return tuple(found[number] for number in range(int(text)))
