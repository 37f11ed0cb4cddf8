"""One shard's captions to the concepts they name, in the form that is stored."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.data.source import Shard
from stillroom.filter.kept import Kept
from stillroom.records import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from stillroom.concepts.parse import CaptionConcepts, Modifier, Token

BLOCK = 1024  # captions whose graphs and tokens are held at once


@dataclass(frozen=True, kw_only=True)
class ParseJob:
    """What a worker process needs to parse one shard; with `kept` None all of its captions are parsed."""

    shard: Shard
    kept: Kept | None
    parser: str


@functools.lru_cache(maxsize=1)
def shared_parser(name: str) -> Any:
    """Load the parser once per process, not once per shard."""
    from stillroom.filter.parser import load_parser

    return load_parser(name)


def parse_shard(job: ParseJob) -> tuple[str, pa.Table]:
    """Return the shard's name and its rows: key, caption, and what `caption_concepts` reads in it.

    A caption that stands many times in the shard is parsed once. Faults are left to the feature step, which reads the
    same samples and counts them once.
    """
    import pyarrow as pa

    from stillroom.concepts.parse import caption_concepts
    from stillroom.filter.parser import parse_graphs

    keep = None if job.kept is None else job.kept.keys(job.shard.name)
    keys: list[str] = []
    captions: list[str] = []
    for sample in job.shard.samples(images=False):
        if not isinstance(sample, Fault) and (keep is None or sample.key in keep):
            keys.append(sample.key)
            captions.append(sample.caption)
    nlp = shared_parser(job.parser)
    concepts: dict[str, CaptionConcepts] = {}
    for block in _blocks(list(dict.fromkeys(captions))):
        graphs = parse_graphs(nlp, block)
        for caption, graph, tokens in zip(block, graphs, tokens_of(nlp, block), strict=True):
            concepts[caption] = caption_concepts(graph, tokens)
    names = pa.list_(pa.string())
    rows = [concepts[caption] for caption in captions]
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "caption": pa.array(captions, pa.string()),
            "objects": pa.array([row.objects for row in rows], names),
            "attributes": pa.array([row.attributes for row in rows], names),
            "modifiers": pa.array([[_stored(m) for m in row.modifiers] for row in rows], pa.list_(modifier_type())),
        }
    )
    return job.shard.name, table


def modifier_type() -> pa.DataType:
    """Return how a `Modifier` is stored: `around` as a digest, since only its distinct values are counted."""
    import pyarrow as pa

    return pa.struct(
        [
            ("name", pa.string()),
            ("object", pa.string()),
            ("place", pa.int32()),
            ("kind", pa.string()),
            ("around", pa.int64()),
        ]
    )


def _stored(modifier: Modifier) -> dict[str, Any]:
    text = modifier.around.encode("utf-8", "replace")
    return {**modifier._asdict(), "around": int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")}


def _blocks(captions: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(captions), BLOCK):
        yield captions[start : start + BLOCK]


def tokens_of(nlp: Any, captions: list[str]) -> list[list[Token]]:
    """Cut captions into the tokens that their graphs count; the vocabulary forgets the words again."""
    from stillroom.concepts.parse import Token
    from stillroom.filter.prepare import parsed_text

    with nlp.memory_zone():
        docs = map(nlp.make_doc, map(parsed_text, captions))
        return [[Token(token.text, bool(token.whitespace_)) for token in doc] for doc in docs]
