"""Pictures and captions: COCO's own JSON, Karpathy's split, Localized Narratives, Winoground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, FileSource, Item
from stillroom.evaluate.readers.files import existing, field, inside, read_json, read_jsonl


@dataclass(frozen=True, kw_only=True)
class CaptionsJson:
    """COCO captions, or Karpathy's split of COCO and Flickr30K; which of both is seen in the file.

    Attributes:
        annotations: Karpathy: {"images": [{"filename", "split", "filepath"?, "sentences": [{"raw"}]}]};
            COCO: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
        pictures: folder of the pictures.
        split: of Karpathy's file.
    """

    annotations: str
    pictures: str = ""
    split: str = "test"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the file does not hold what it should."""
        path = existing(root, self.annotations)
        value = read_json(path)
        images = field(value, "images", list, path)
        pairs = self._coco(value, images, path) if "annotations" in value else self._karpathy(images, path)
        return retrieval_set(root, [(self._path(name, path), captions) for name, captions in pairs], path)

    def _karpathy(self, images: list[Any], path: Path) -> list[tuple[str, list[str]]]:
        found = []
        for number, image in enumerate(images):
            where = f"{path}: image {number}"
            if field(image, "split", str, where) == self.split:
                folder, name = str(image.get("filepath", "")), field(image, "filename", str, where)
                sentences = field(image, "sentences", list, where)
                found.append(
                    (f"{folder}/{name}" if folder else name, [field(one, "raw", str, where) for one in sentences])
                )
        return found

    def _coco(self, value: dict[str, Any], images: list[Any], path: Path) -> list[tuple[str, list[str]]]:
        captions: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        for number, image in enumerate(images):
            where = f"{path}: image {number}"
            names[field(image, "id", int, where)] = field(image, "file_name", str, where)
        for number, annotation in enumerate(field(value, "annotations", list, path)):
            where = f"{path}: annotation {number}"
            image_id = field(annotation, "image_id", int, where)
            captions.setdefault(image_id, []).append(field(annotation, "caption", str, where))
        unknown = sorted(captions.keys() - names.keys())
        if unknown:
            raise DataError(f"{path}: a caption is of image {unknown[0]}, which 'images' does not list")
        return [(name, captions[image_id]) for image_id, name in names.items() if image_id in captions]

    def _path(self, name: str, path: Path) -> str:
        return inside(f"{self.pictures}/{name}" if self.pictures else name, path)


@dataclass(frozen=True, kw_only=True)
class LocalizedNarratives:
    """Localized Narratives: a JSON object a line with `image_id` and `caption`; the mouse traces are passed over.

    Attributes:
        annotations: the file.
        pictures: path of a picture; `{}` is the image's id.
        digits: to how many digits the id is padded with zeros (COCO's file names have 12).
    """

    annotations: str
    pictures: str
    digits: int = 0

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the file does not hold what it should."""
        path = existing(root, self.annotations)
        captions: dict[str, list[str]] = {}
        for where, row in read_jsonl(path):
            image_id = str(field(row, "image_id", (str, int), where)).zfill(self.digits)
            name = inside(self.pictures.replace("{}", image_id), where)
            captions.setdefault(name, []).append(field(row, "caption", str, where))
        return retrieval_set(root, list(captions.items()), path)


@dataclass(frozen=True, kw_only=True)
class Winoground:
    """Winoground: a JSON object a line with two pictures and two captions, each caption belonging to its picture."""

    annotations: str = "examples.jsonl"
    pictures: str = "images/{}.png"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the file does not hold what it should."""
        path = existing(root, self.annotations)
        items, examples = [], []
        for where, row in read_jsonl(path):
            pair = []
            for place in (0, 1):
                name = inside(self.pictures.replace("{}", field(row, f"image_{place}", str, where)), where)
                items.append(Item(shard="", key=name, captions=(field(row, f"caption_{place}", str, where).strip(),)))
                pair.append(name)
            examples.append((pair[0], pair[1]))
        names = [item.name for item in items]
        if not items or len(set(names)) != len(names) or not all(item.captions[0] for item in items):
            raise DataError(f"{path}: each line must name two pictures of its own, with a caption each")
        source = FileSource(root=root, items=tuple(items))
        return EvalDataset(name="", kind="retrieval", source=source, examples=tuple(examples))


def retrieval_set(root: Path, pairs: list[tuple[str, list[str]]], path: Path) -> EvalDataset:
    """Make a retrieval set of (picture, captions); captions without a word are left out, and pictures without any."""
    items = []
    for name, captions in pairs:
        texts = tuple(" ".join(caption.split()) for caption in captions if caption.strip())
        if texts:
            items.append(Item(shard="", key=name, captions=texts))
    if not items:
        raise DataError(f"{path} holds no captions of this split")
    return EvalDataset(name="", kind="retrieval", source=FileSource(root=root, items=tuple(items)))
