"""Annotation files: bounded, checked, and never a way out of the data set's folder.

Names in annotation files become paths, so each passes `inside`. What is wrong is said with file and line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from stillroom.errors import DataError

MAX_LIST_BYTES = 256 * 2**20
MAX_JSON_BYTES = 2 * 2**30
MAX_LINE_CHARACTERS = 16 * 2**20
MAX_PATH_BYTES = 250  # what one file name may have; whole paths may have more, but none of these data sets needs it

T = TypeVar("T")


def inside(name: str, where: object) -> str:
    """Return a relative path below the data set's folder, as annotation files spell it, with "/" between its parts.

    Raises:
        DataError: it is empty, absolute or too long, or holds "..", a backslash, a drive or what no file name can hold.
    """
    path = PurePosixPath(name)
    outside = (
        not name.strip()
        or not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in path.parts[0]
    )
    size = len(name.encode("utf-8", "replace"))
    if outside or size > MAX_PATH_BYTES or any(ord(c) < 32 or "\ud800" <= c <= "\udfff" for c in name):
        raise DataError(f"{where}: {name[:80]!r} is no path within the data set's folder")
    return str(path)


def existing(root: Path, name: str) -> Path:
    """Return the path of a file that must be there."""
    path = root / inside(name, "task file")
    if not path.is_file():
        raise DataError(f"{path} is missing")
    return path


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without white space around them; empty ones are left out."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, stripped line) of the lines that are not empty."""
    text = _read(path, MAX_LIST_BYTES)
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    try:
        value = json.loads(_read(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of a file with one JSON object a line, a line at a time."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise DataError(f"{path}:{number} is longer than {MAX_LINE_CHARACTERS:,} characters")
                if not line.strip():
                    continue
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise DataError(f"{path}:{number} holds a {type(value).__name__}, not an object")
                yield f"{path}:{number}", value
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON lines in UTF-8: {error}") from None


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (where, the named columns) of a CSV file with a header, a row at a time."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            absent = [column for column in columns if column not in header]
            if absent:
                raise DataError(f"{path} has no column '{absent[0]}'; its header is {','.join(header)[:200]}")
            places = [header.index(column) for column in columns]
            for row in rows:
                if len(row) != len(header):
                    raise DataError(f"{path}:{rows.line_num} has {len(row)} fields, the header {len(header)}")
                yield f"{path}:{rows.line_num}", tuple(row[place] for place in places)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from None


def field(row: Any, key: str, kind: type[T] | tuple[type[T], ...], where: object) -> T:
    """Return a value of a JSON object.

    Raises:
        DataError: no object, or the value is not there, or of another type.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where} is no object")
    value = row.get(key)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        names = " or ".join(one.__name__ for one in kinds)
        raise DataError(f"{where}: '{key}' must be of type {names}, not {repr(value)[:60]}")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where}: '{key}' holds half a surrogate pair, which is no text")
    return value


def _read(path: Path, limit: int) -> str:
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
