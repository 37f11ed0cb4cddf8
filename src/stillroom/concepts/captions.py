"""One shard's captions to the concepts they name, in the form that is stored."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.data.source import Shard
from stillroom.filter.kept import Kept
from stillroom.records import Fault

if TYPE_CHECKING:
    import pyarrow as pa


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
    distinct = list(dict.fromkeys(captions))
    graphs = parse_graphs(shared_parser(job.parser), distinct)
    concepts = {caption: caption_concepts(graph) for caption, graph in zip(distinct, graphs, strict=True)}
    names = pa.list_(pa.string())
    modifiers = pa.list_(pa.struct([("name", pa.string()), ("object", pa.string()), ("place", pa.int32())]))
    rows = [concepts[caption] for caption in captions]
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "caption": pa.array(captions, pa.string()),
            "objects": pa.array([row.objects for row in rows], names),
            "attributes": pa.array([row.attributes for row in rows], names),
            "modifiers": pa.array([[m._asdict() for m in row.modifiers] for row in rows], modifiers),
        }
    )
    return job.shard.name, table
