"""What the rules over the whole set share: entries spread over files, and pairs dropped from finished tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@contextmanager
def part_files(folder: Path, name: str, count: int) -> Iterator[list[BinaryIO]]:
    """Open `count` new files for entries, see `part_path`."""
    with ExitStack() as stack:
        yield [stack.enter_context(open(part_path(folder, name, part), "wb")) for part in range(count)]


def part_path(folder: Path, name: str, part: int) -> Path:
    """Return the file that holds one part of the entries called `name`."""
    return folder / f"{name}.{part}"


def scatter(files: Sequence[BinaryIO], parts: NDArray[Any], entries: NDArray[Any]) -> None:
    """Append each entry to the file of its part, (n,) integers, in order."""
    parts = parts.astype(np.uint16)  # which NumPy sorts in linear time
    order = np.argsort(parts, kind="stable")
    bounds = np.searchsorted(parts[order], np.arange(len(files) + 1))
    for file, low, high in zip(files, bounds[:-1], bounds[1:], strict=True):
        if low < high:
            file.write(entries[order[low:high]].tobytes())


def drop_pairs(table: pa.Table, drop: Sequence[bool], reason: str) -> pa.Table:
    """Return a table of verdicts with the marked pairs, which all passed so far, dropped for `reason`."""
    reasons = [[reason] if no else why for no, why in zip(drop, table["reasons"].to_pylist(), strict=True)]
    kept = [keep and not no for no, keep in zip(drop, table["kept"].to_pylist(), strict=True)]
    return replace_column(replace_column(table, "reasons", reasons), "kept", kept)


def replace_column(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    """Return a table with other values in a column, its type unchanged."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
