"""Pictures for a page: found by (shard, key), made small, and written into the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress

from stillroom.artifacts import StageOutput
from stillroom.config_io import build
from stillroom.data import DataConfig, Shard, open_data
from stillroom.data.images import ImageError, decode_image
from stillroom.errors import StillroomError
from stillroom.records import Sample

THUMBNAIL = 112
# Pictures that compress badly are made worse until they fit, so that a page of many has a bounded size (our choice).
QUALITIES = (80, 50, 20)
LARGEST_BYTES = 9_000


def data_uri(data: bytes, side: int = THUMBNAIL) -> str:
    """Return a picture as a data URI, decoded and encoded again: what a stranger wrote never reaches the page.

    Args:
        data: encoded picture.
        side: longest side of the thumbnail, pixels; smaller pictures keep their size.

    Raises:
        ImageError: it cannot be decoded.
    """
    image = decode_image(data, reduce_to=side)
    image.thumbnail((side, side))
    for quality in QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=quality)
        if stream.tell() <= LARGEST_BYTES:
            break
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def thumbnails(
    shards: Sequence[Shard], wanted: Iterable[tuple[str, str]], side: int = THUMBNAIL
) -> dict[tuple[str, str], str]:
    """Return (shard, key) -> data URI; only shards that are asked for are read, and pictures that fail are left out."""
    keys: dict[str, set[str]] = {}
    for name, key in wanted:
        keys.setdefault(name, set()).add(key)
    found: dict[tuple[str, str], str] = {}
    for shard in shards:
        left = set(keys.get(shard.name, ()))
        if not left:
            continue
        for item in shard.samples():
            if item.key in left and isinstance(item, Sample) and item.image is not None:
                left.discard(item.key)
                with suppress(ImageError):
                    found[shard.name, item.key] = data_uri(item.image, side)
                if not left:
                    break
    return found


def pictures_of_run(
    output: StageOutput, wanted: Iterable[tuple[str, str]], side: int
) -> tuple[dict[tuple[str, str], str], str | None]:
    """Return `thumbnails` of the DATA that a stage read, or none and, in a sentence, why it cannot be read."""
    run = output.run
    try:
        reader = build(DataConfig, run["config"].get("data", {}), source=str(output.path / "run.json"))
        return thumbnails(open_data(run["inputs"]["data"], reader), wanted, side), None
    except (StillroomError, OSError) as error:
        return {}, f"There are no pictures, because DATA cannot be opened again: {error}."
