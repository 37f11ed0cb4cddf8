"""A folder of pictures per class: image folders of one's own, Caltech-101, Country211, UCF101 frames, ImageNet.

FOLDER/daisy/*.jpg, FOLDER/rose/*.jpg, ...        names sorted, "_" read as a space
FOLDER/n01440764/*.JPEG, ...                      ImageNet: a folder per WordNet id
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, FileSource, Item
from stillroom.evaluate.readers.files import existing, inside, numbered_lines
from stillroom.evaluate.readers.wordnet import WordNetClasses, wordnet_classes
from stillroom.evaluate.shards import pictures


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Parameters of the reader.

    Attributes:
        folder: that holds the class folders; empty: the data set's own.
        exclude: folders that are no class, e.g. Caltech-101's background pictures.
        wordnet: the folders are WordNet ids; the classes are ImageNet's 1,000, or the 21,843 and then the 1,000.
        mapping: ImageNet's own file of ids in order ("n01440764 tench, Tinca tinca"); if it is there, it is checked.
    """

    folder: str = ""
    exclude: tuple[str, ...] = ()
    wordnet: Literal["", "imagenet1k", "imagenet21k_1k"] = ""
    mapping: str = ""

    def read(self, root: Path) -> EvalDataset:
        """Open the data set.

        Raises:
            DataError: no folder with pictures, or a folder that is none of the WordNet ids.
        """
        prefix = inside(self.folder, "task file") if self.folder else ""
        base = root / prefix
        if not base.is_dir():
            raise DataError(f"{base} is missing")
        folders = [entry for entry in sorted(base.iterdir()) if self.is_class(entry)]
        if not folders:
            raise DataError(f"{base} holds no folder of pictures")
        if self.wordnet:
            return self._by_wordnet_id(root, prefix, folders)
        items = [_item(prefix, path, label) for label, folder in enumerate(folders) for path in pictures(folder)]
        names = tuple(folder.name.replace("_", " ") for folder in folders)
        source = FileSource(root=root, items=tuple(items))
        return EvalDataset(name="", kind="classification", source=source, classnames=names)

    def is_class(self, entry: Path) -> bool:
        """Return whether this is a folder that is not left out, with pictures in it."""
        shown = entry.is_dir() and not entry.name.startswith(".") and entry.name not in self.exclude
        return shown and bool(pictures(entry))

    def _by_wordnet_id(self, root: Path, prefix: str, folders: list[Path]) -> EvalDataset:
        assert self.wordnet
        classes = wordnet_classes(self.wordnet)
        if self.mapping and (root / inside(self.mapping, "task file")).is_file():
            check_mapping(existing(root, self.mapping), classes)
        places: dict[str, tuple[int, ...]] = {}
        for index, synset in enumerate(classes.ids):
            places[synset] = (*places.get(synset, ()), index)
        unknown = [folder.name for folder in folders if folder.name not in places]
        if unknown:
            raise DataError(f"{root / prefix}: folder '{unknown[0][:40]}' is no WordNet id of {self.wordnet}")
        single = self.wordnet == "imagenet1k"
        items, positives = [], {}
        for folder in folders:
            for path in pictures(folder):
                item = _item(prefix, path, places[folder.name][0] if single else None)
                items.append(item)
                positives[item.name] = places[folder.name]
        return EvalDataset(
            name="",
            kind="classification" if single else "open_vocabulary",
            source=FileSource(root=root, items=tuple(items)),
            classnames=classes.names,
            positives={} if single else positives,
        )


def has_class_folders(root: Path) -> bool:
    """Return whether a folder has a sub-folder with pictures in it, one of a class."""
    return any(ClassFolders().is_class(entry) for entry in root.iterdir())


def check_mapping(path: Path, classes: WordNetClasses) -> None:
    """Compare the order of a file of WordNet ids with the order of the classes.

    Raises:
        DataError: another order, or another number of ids.
    """
    ids = tuple(line.split()[0] for _, line in numbered_lines(path))
    if ids != classes.ids:
        place = next((i for i, pair in enumerate(zip(ids, classes.ids, strict=False)) if pair[0] != pair[1]), len(ids))
        raise DataError(
            f"{path}: line {place + 1} differs from the order of the class names ({len(classes.ids):,} ids)"
        )


def _item(prefix: str, path: Path, label: int | None) -> Item:
    shard = f"{prefix}/{path.parent.name}" if prefix else path.parent.name
    return Item(shard=shard, key=path.name, label=label)
