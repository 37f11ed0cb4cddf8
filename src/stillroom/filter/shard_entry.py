"""One kept pair as img2dataset would have written it: members of the tar, and a row of the table."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stillroom.data.images import ImageError, decode_image, open_image
from stillroom.data.tars import utf8_text
from stillroom.records import Sample

# The columns of img2dataset, then those of LAION that the filter has rules for, then where the pair comes from. A
# pair's other metadata, of which every data set has its own, stand in its .json.
SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
        ("pwatermark", pa.float64()),
        ("punsafe", pa.float64()),
        ("similarity", pa.float64()),
        ("NSFW", pa.string()),
        ("original_shard", pa.string()),
        ("original_key", pa.string()),
    ]
)
# Formats that open_clip's reader asks for, by the name it asks with; MPO is a JPEG with more pictures behind it.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
DEEPEST = 32  # levels of metadata within metadata that are kept (our choice)
MAX_INT32 = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is written of a pair."""

    key: str
    members: tuple[tuple[str, bytes], ...]
    row: dict[str, Any]


def make_entry(sample: Sample, key: str) -> Entry:
    """Lay a pair out under its new key.

    The picture's bytes stay as they are, but for GIF, BMP and TIFF, which open_clip does not ask for: of them the
    first frame becomes a PNG, as `decode_image` sees it. What the metadata say of url, exif, sha256 and original size
    is left standing, since img2dataset means by it the picture as downloaded.
    """
    picture = sample.image or b""
    data, extension, size = readable_picture(picture)
    metadata = {str(name): plain(value) for name, value in sample.metadata.items()}
    width, height = size or (None, None)
    hashed = metadata.get("sha256")
    described = {
        **metadata,
        "caption": utf8_text(sample.caption),
        "url": metadata.get("url", metadata.get("URL")),
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": _pixels(metadata.get("original_width"), width),
        "original_height": _pixels(metadata.get("original_height"), height),
        "sha256": hashed if isinstance(hashed, str) and hashed else hashlib.sha256(picture).hexdigest(),
        "original_shard": sample.shard,
        "original_key": sample.key,
    }
    members = (
        (extension, data),
        ("json", json.dumps(described, indent=4, allow_nan=False).encode()),
        ("txt", utf8_text(sample.caption).encode()),
    )
    return Entry(
        key=key, members=members, row={field.name: _cell(described.get(field.name), field) for field in SCHEMA}
    )


def readable_picture(data: bytes) -> tuple[bytes, str, tuple[int, int] | None]:
    """Return bytes that open_clip reads, their extension, and (width, height) as stored.

    A picture that cannot be opened, which the filter keeps if it was told not to decode, stays what it is: a ".jpg" of
    no size.
    """
    try:
        image = open_image(data)
        if image.format in EXTENSIONS:
            return data, EXTENSIONS[image.format], image.size
        picture = decode_image(data)
    except ImageError:
        return data, "jpg", None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue(), "png", picture.size


def plain(value: Any, depth: int = 0) -> Any:
    """Return metadata as strict JSON can hold them: numbers that are none become null, unknown kinds their text."""
    if depth == DEEPEST:
        return None
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case Mapping():
            return {str(name): plain(inner, depth + 1) for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner, depth + 1) for inner in value]
        case _:
            return str(value)


def _pixels(stated: Any, measured: int | None) -> int | None:
    right = isinstance(stated, int) and not isinstance(stated, bool) and 0 < stated <= MAX_INT32
    return stated if right else measured


def _cell(value: Any, field: pa.Field) -> Any:
    """Return a value as its column takes it; None where it says nothing."""
    if value is None:
        return None
    if pa.types.is_string(field.type):
        return utf8_text(value if isinstance(value, str) else json.dumps(value))
    if pa.types.is_integer(field.type):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
