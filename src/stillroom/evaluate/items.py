"""What a test set is made of: pictures with their truth, questions about pictures, and where the bytes come from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from stillroom.data import reasons
from stillroom.data.tars import MAX_IMAGE_BYTES
from stillroom.records import Fault

Kind = Literal["classification", "retrieval", "vqa", "open_vocabulary"]
Synonyms = Literal["mean", "best"]

# CLIP's prompt; used where a data set brings no templates of its own.
DEFAULT_TEMPLATES = ("a photo of a {c}.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture of a test set: its encoded bytes, and a label or captions, whichever the data set has."""

    shard: str
    key: str
    image: bytes = b""
    label: int | None = None
    captions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique within the data set; of a picture in a file, its path within the data set's folder."""
        return f"{self.shard}/{self.key}" if self.shard else self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about a picture, to be answered by ranking choices.

    Attributes:
        picture: `Item.name`.
        text: the question, or the hypothesis.
        choices: the candidate answers.
        references: what people answered; one, where there is one truth.
    """

    picture: str
    text: str
    choices: tuple[str, ...]
    references: tuple[str, ...]


class Source(Protocol):
    """Where a data set's pictures come from; iterating reads them from disk, in the same order every time."""

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the pictures in order, and a fault for each that cannot be used."""
        ...

    def count(self) -> int:
        """Return the number of pictures, without reading them."""
        ...

    def digest(self) -> str:
        """Return the SHA-256 of the pictures and what is said of each."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvalDataset:
    """A test set; iterating reads it from disk, in the same order every time.

    Attributes:
        name: of its folder, or its task.
        kind: "classification", "retrieval", "vqa" or "open_vocabulary".
        source: of the pictures.
        classnames: one entry per class; empty where there are none. An entry may hold synonyms, see `embed.SYNONYMS`.
        templates: prompts with a `{c}` or `{}` for the class name; for questions one with `{q}` and `{a}`; else empty.
        synonyms: whether a class with several names is the mean of their embeddings, or the best of their scores.
        positives: true classes by `Item.name`, where a picture may have several.
        known: classes by `Item.name` of which it is known whether they are true; None: all are.
        questions: about the pictures.
        examples: Winoground's pairs of pictures, by `Item.name`; the first belongs to the first caption.
    """

    name: str
    kind: Kind
    source: Source
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    synonyms: Synonyms = "mean"
    positives: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    known: Mapping[str, tuple[int, ...]] | None = None
    questions: tuple[Question, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the pictures in order, and a fault for each that cannot be used.

        Raises:
            DataError: a shard is cut off or unreadable (a score over part of a test set could not be compared), or a
                label has no class name.
        """
        return iter(self.source)

    def count(self) -> int:
        """Return the number of pictures; they are not read."""
        return self.source.count()

    @cached_property
    def picture_fingerprint(self) -> str:
        """The SHA-256 of the pictures, in order, with labels and captions: what image embeddings depend on."""
        return self.source.digest()

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything a score depends on: pictures, class names, prompts, labels, captions, questions."""
        digest = hashlib.sha256(self.picture_fingerprint.encode())
        digest.update(repr((self.kind, self.classnames, self.templates, self.synonyms, self.examples)).encode())
        for truth in (self.positives, self.known or {}):
            digest.update(b"\0truth")
            for name, classes in truth.items():
                digest.update(f"\0{name}\0{classes}".encode())
        for question in self.questions:
            digest.update(f"\0{question}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Pictures that are files below `root`; the items hold all but the bytes, and their names are paths below it."""

    root: Path
    items: tuple[Item, ...]

    def __iter__(self) -> Iterator[Item | Fault]:
        """Read the pictures; one that is missing or too large is a fault."""
        for item in self.items:
            path = self.root / item.name
            if not path.is_file():
                yield Fault(shard=item.shard, key=item.key, reason=reasons.IMAGE_MISSING, detail=f"no file {path}")
            elif (size := path.stat().st_size) > MAX_IMAGE_BYTES:
                yield Fault(shard=item.shard, key=item.key, reason=reasons.IMAGE_TOO_LARGE, detail=f"{size:,} bytes")
            else:
                yield dataclasses.replace(item, image=path.read_bytes())

    def count(self) -> int:
        """Return the number of pictures, of which some may turn out to be missing."""
        return len(self.items)

    def digest(self) -> str:
        """Return the SHA-256 of names, truth and file contents."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"\0{item.name}\0{item.label}\0{item.captions}\0".encode())
            path = self.root / item.name
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
