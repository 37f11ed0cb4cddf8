"""Data sets whose pictures are raw pixels in one file: CIFAR-10 and CIFAR-100 in their binary version, STL-10.

CIFAR's Python version holds pickles, which run code when they are read; only the binary version is read here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, Item
from stillroom.evaluate.readers.files import existing, read_lines


@dataclass(frozen=True, kw_only=True)
class BinaryImages:
    """Parameters of the reader.

    Attributes:
        images: the file of pictures, three planes of `size` x `size` bytes each (red, green, blue).
        labels: the file of labels, a byte a picture; empty: they stand before each picture in `images`.
        names: a file of class names, one a line, in order of the label.
        size: width and height in pixels.
        label_bytes: number of bytes before each picture; the last one is the label (CIFAR-100 puts a coarse one first).
        first_label: the lowest label (STL-10 counts from 1).
        columns_first: pixels run down the columns, as Matlab stores them (STL-10).
    """

    images: str
    names: str
    size: int
    labels: str = ""
    label_bytes: int = 0
    first_label: int = 0
    columns_first: bool = False

    def read(self, root: Path) -> EvalDataset:
        """Open the data set.

        Raises:
            DataError: a file is missing, has the wrong size, or holds a label without a name.
        """
        path = existing(root, self.images)
        names = tuple(name.replace("_", " ") for name in read_lines(existing(root, self.names)))
        record = self.label_bytes + 3 * self.size**2
        count, rest = divmod(path.stat().st_size, record)
        if rest or not count:
            raise DataError(
                f"{path} has {path.stat().st_size:,} bytes: no whole number of pictures of {record:,} bytes"
            )
        if self.labels:
            stored = np.fromfile(existing(root, self.labels), dtype=np.uint8)
        else:
            stored = np.memmap(path, dtype=np.uint8, mode="r", shape=(count, record))[:, self.label_bytes - 1]
        labels = stored.astype(np.int64) - self.first_label
        if len(labels) != count:
            raise DataError(f"{root / self.labels} has {len(labels):,} labels for {count:,} pictures")
        if labels.min() < 0 or labels.max() >= len(names):
            raise DataError(
                f"{path} has labels {labels.min()} to {labels.max()}; {self.names} names {len(names)} classes"
            )
        source = PixelSource(path=path, labels=labels, record=record, form=self)
        return EvalDataset(name="", kind="classification", source=source, classnames=names)


@dataclass(frozen=True, kw_only=True)
class PixelSource:
    """Pictures of a file of raw pixels; each is given as a BMP, which loses nothing."""

    path: Path
    labels: NDArray[np.int64]
    record: int
    form: BinaryImages

    def __iter__(self) -> Iterator[Item]:
        """Read the pictures one after the other."""
        with self.path.open("rb") as file:
            for index, label in enumerate(self.labels):
                pixels = np.frombuffer(file.read(self.record), dtype=np.uint8)[self.form.label_bytes :]
                yield Item(shard=self.path.name, key=f"{index:06d}", label=int(label), image=self._bmp(pixels))

    def count(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def digest(self) -> str:
        """Return the SHA-256 of pixels and labels."""
        digest = hashlib.sha256(self.labels.tobytes())
        with self.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _bmp(self, pixels: NDArray[np.uint8]) -> bytes:
        from PIL import Image

        planes = pixels.reshape(3, self.form.size, self.form.size)
        rows = planes.transpose(2, 1, 0) if self.form.columns_first else planes.transpose(1, 2, 0)
        sink = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rows)).save(sink, "bmp")
        return sink.getvalue()
