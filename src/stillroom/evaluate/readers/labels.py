"""Labels of other kinds: Hateful Memes (yes or no), Pascal VOC 2007 and Open Images (several labels a picture)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, FileSource, Item
from stillroom.evaluate.readers.files import existing, field, inside, numbered_lines, read_jsonl, read_lines, read_rows


@dataclass(frozen=True, kw_only=True)
class HatefulMemes:
    """Hateful Memes: a JSON object a line with `img` (a path), `label` (0 or 1) and `text`, which is not used."""

    annotations: str = "test_seen.jsonl"
    names: tuple[str, str] = ("not hateful", "hateful")

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the file does not hold what it should."""
        path = existing(root, self.annotations)
        items = []
        for where, row in read_jsonl(path):
            label = row.get("label")
            if label not in (0, 1) or isinstance(label, bool):
                raise DataError(f"{where}: 'label' must be 0 or 1; the challenge's unlabelled files cannot be scored")
            items.append(Item(shard="", key=inside(field(row, "img", str, where), where), label=int(label)))
        if not items:
            raise DataError(f"{path} holds no pictures")
        source = FileSource(root=root, items=tuple(items))
        return EvalDataset(name="", kind="classification", source=source, classnames=self.names)


@dataclass(frozen=True, kw_only=True)
class Voc:
    """Pascal VOC: a file per class with a picture and 1, 0 or -1 a line.

    1: an object of the class is there; -1: none is; 0: all that are there are marked difficult. As in VOC's own
    evaluation of the classification task, a class does not count a picture where it is difficult, either way.

    Attributes:
        split: of the files `ImageSets/Main/CLASS_SPLIT.txt`.
        folder: that holds `ImageSets` and `JPEGImages`.
        spelled: how a class is written in prompts, where the file's name will not do.
    """

    split: str = "test"
    folder: str = "VOCdevkit/VOC2007"
    spelled: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the files do not hold what they should."""
        prefix = inside(self.folder, "task file")
        sets, ending = root / prefix / "ImageSets" / "Main", f"_{self.split}.txt"
        files = sorted(sets.glob(f"*{ending}"))
        if not files:
            raise DataError(f"{sets} holds no files CLASS{ending}")
        names = [path.name.removesuffix(ending) for path in files]
        positives: dict[str, list[int]] = {}
        known: dict[str, list[int]] = {}
        for label, path in enumerate(files):
            for picture, value in self._rows(path):
                name = inside(f"{prefix}/JPEGImages/{picture}.jpg", path)
                positives.setdefault(name, []).extend([label] if value == 1 else [])
                known.setdefault(name, []).extend([label] if value != 0 else [])
        return EvalDataset(
            name="",
            kind="classification",
            source=FileSource(root=root, items=tuple(Item(shard="", key=name) for name in sorted(known))),
            classnames=tuple(self.spelled.get(name, name) for name in names),
            positives={name: tuple(labels) for name, labels in positives.items()},
            known={name: tuple(labels) for name, labels in known.items()},
        )

    @staticmethod
    def _rows(path: Path) -> Iterator[tuple[str, int]]:
        for number, line in numbered_lines(path):
            picture, _, value = line.partition(" ")
            if value.strip() not in ("1", "0", "-1"):
                raise DataError(f"{path}:{number}: '{line[:60]}' is not a picture and 1, 0 or -1")
            yield picture, int(value)


@dataclass(frozen=True, kw_only=True)
class OpenImages:
    """Open Images: a CSV of image-level labels that people verified, and a CSV of class names.

    A row with Confidence 1 says that the class is in the picture, 0 that it is not; of all other classes nothing is
    known. Labels of classes that are not among the chosen ones are passed over, and so are pictures without a positive.

    Attributes:
        labels: `ImageID,Source,LabelName,Confidence`.
        descriptions: `LabelName,DisplayName`, with or without this heading.
        classes: a file of the ids to use, one a line, in order; empty: all of `descriptions`.
        pictures: path of a picture; `{}` is its id.
        kind: "classification" for average precision, "open_vocabulary" for hit@k.
    """

    labels: str = "test-annotations-human-imagelabels.csv"
    descriptions: str = "oidv6-class-descriptions.csv"
    classes: str = ""
    pictures: str = "test/{}.jpg"
    kind: Literal["classification", "open_vocabulary"] = "classification"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the files do not hold what they should."""
        names = self._names(root)
        places = {label_id: place for place, label_id in enumerate(names)}
        path = existing(root, self.labels)
        positives: dict[str, set[int]] = {}
        negatives: dict[str, set[int]] = {}
        for where, (image_id, label_id, confidence) in read_rows(path, ("ImageID", "LabelName", "Confidence")):
            if label_id not in places:
                continue
            if (value := _confidence(confidence, where)) in (0.0, 1.0):
                name = inside(self.pictures.replace("{}", image_id), where)
                (positives if value else negatives).setdefault(name, set()).add(places[label_id])
        if not positives:
            raise DataError(f"{path} holds no positive label of the {len(names):,} classes")
        truth = {name: tuple(sorted(positives[name])) for name in sorted(positives)}
        known = {name: tuple(sorted(positives[name] | negatives.get(name, set()))) for name in truth}
        return EvalDataset(
            name="",
            kind=self.kind,
            source=FileSource(root=root, items=tuple(Item(shard="", key=name) for name in truth)),
            classnames=tuple(names.values()),
            positives=truth,
            known=known,
        )

    def _names(self, root: Path) -> dict[str, str]:
        """Return the names of the chosen classes by their ids, in order."""
        path = existing(root, self.descriptions)
        names: dict[str, str] = {}
        for number, line in numbered_lines(path):
            label_id, comma, name = line.partition(",")
            if not comma or not name.strip():
                raise DataError(f"{path}:{number}: '{line[:60]}' is not an id, a comma and a name")
            names.setdefault(label_id, name.strip().strip('"').replace('""', '"').replace("|", "/"))
        names.pop("LabelName", None)
        if not self.classes:
            return names
        chosen = read_lines(existing(root, self.classes))
        unknown = [label_id for label_id in chosen if label_id not in names]
        if unknown:
            raise DataError(f"{root / self.classes}: '{unknown[0][:40]}' is not in {self.descriptions}")
        return {label_id: names[label_id] for label_id in chosen}


def _confidence(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where}: Confidence is '{text[:40]}'; it must be a number") from None
