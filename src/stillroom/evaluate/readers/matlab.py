"""Data sets annotated in Matlab files: Oxford Flowers-102 and Stanford Cars. Reading them needs scipy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.errors import DataError, MissingDependencyError
from stillroom.evaluate.items import EvalDataset, FileSource, Item
from stillroom.evaluate.readers.files import existing, inside

MAX_MATLAB_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Flowers:
    """Oxford Flowers-102: `jpg/image_00001.jpg`, labels of all pictures in one file, numbers of a split in another.

    The data set has numbers for classes, no names.
    """

    labels: str = "imagelabels.mat"
    splits: str = "setid.mat"
    split: str = "tstid"
    pictures: str = "jpg/image_{:05d}.jpg"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the files do not hold what they should."""
        labels = _numbers(existing(root, self.labels), "labels")
        chosen = _numbers(existing(root, self.splits), self.split)
        if not len(chosen) or chosen.min() < 1 or chosen.max() > len(labels) or labels.min() < 1:
            raise DataError(f"{root / self.splits}: '{self.split}' must hold numbers from 1 to {len(labels):,}")
        items = [
            Item(shard="", key=self.pictures.format(number), label=int(labels[number - 1]) - 1)
            for number in chosen.tolist()
        ]
        classes = tuple(str(number + 1) for number in range(int(labels.max())))
        return EvalDataset(
            name="", kind="classification", source=FileSource(root=root, items=tuple(items)), classnames=classes
        )


@dataclass(frozen=True, kw_only=True)
class Cars:
    """Stanford Cars: `fname` and `class` of each test picture, and the names of the classes."""

    annotations: str = "cars_test_annos_withlabels.mat"
    classes: str = "devkit/cars_meta.mat"
    pictures: str = "cars_test/{}"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the files do not hold what they should."""
        path = existing(root, self.annotations)
        names = tuple(str(name).strip() for name in np.ravel(_load(existing(root, self.classes), "class_names")))
        items = []
        for record in np.atleast_1d(_load(path, "annotations")):
            try:
                name, label = str(record.fname), int(getattr(record, "class")) - 1
            except (AttributeError, TypeError, ValueError):
                raise DataError(
                    f"{path}: 'annotations' has no 'fname' and 'class'; take the file with labels"
                ) from None
            if not 0 <= label < len(names):
                raise DataError(f"{path}: '{name[:60]}' has class {label + 1} of {len(names)}")
            items.append(Item(shard="", key=self.pictures.format(inside(name, path)), label=label))
        return EvalDataset(
            name="", kind="classification", source=FileSource(root=root, items=tuple(items)), classnames=names
        )


def _numbers(path: Path, key: str) -> np.ndarray:
    values = np.ravel(_load(path, key))
    if not values.size or values.dtype.kind not in "iu":
        raise DataError(f"{path}: '{key}' must be a list of whole numbers")
    return values.astype(np.int64)


def _load(path: Path, key: str) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingDependencyError("scipy", "benchmark", f"reading {path.name}") from None
    if path.stat().st_size > MAX_MATLAB_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_MATLAB_BYTES:,} are read")
    try:
        values = loadmat(path, variable_names=[key], squeeze_me=True, struct_as_record=False)
    except Exception as error:  # noqa: BLE001 - scipy raises many kinds on damaged files
        raise DataError(f"{path} is no Matlab file of version 7 or older: {error}") from None
    if key not in values:
        raise DataError(f"{path} has no '{key}'")
    return values[key]
