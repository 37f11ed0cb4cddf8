"""Pairs that show what the labels of a concepts output are like: surest and hardest of each concept, and samples.

Only the shards that `samples.preferred_shards` draws are read, one at a time: the same ones are opened for pictures,
and pairs elsewhere could not be shown. For every concept a few candidates are held, so memory grows with the
vocabulary and not with the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from stillroom.artifacts import StageOutput
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.counting import Vocabularies, concept_ids
from stillroom.concepts.features import fixed_lists
from stillroom.concepts.heads import ConceptLabels, LinearHead, make_labels
from stillroom.concepts.labels import COLUMNS, is_held_out
from stillroom.progress import progress
from stillroom.report.concept_candidates import CANDIDATES, first_of_each, shard_candidates
from stillroom.report.example import LONGEST_TEXT, shortened
from stillroom.report.samples import row_hashes

SHOWN = 4
# Half of the samples are of held-out captions, if there are so many.
SAMPLES = 24
Place = tuple[str, int]  # shard, row of its labels


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A labelled pair; `caption` is cut to `LONGEST_TEXT` characters of `caption_chars`."""

    shard: str
    key: str
    caption: str
    caption_chars: int
    held_out: bool

    @property
    def short_caption(self) -> str | None:
        """The start of a caption too long to be shown at once; None for others."""
        return shortened(self.caption)


@dataclass(frozen=True, kw_only=True)
class Label:
    """A concept the caption names or the teacher sees; `share` is its probability in percent, None if not a label."""

    name: str
    share: float | None
    named: bool


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """A sample: kind -> the teacher's labels in falling order, and the caption's concepts."""

    pair: Pair
    tie: int
    labels: Mapping[str, Sequence[Label]]
    named: Mapping[str, Sequence[Label]]


@dataclass(kw_only=True)
class Gathered:
    """What was read.

    Attributes:
        strips: kind -> strip -> candidates, a `CANDIDATE` array sorted by concept and rank. `rank` is the share (see
            `shard_candidates`), or its negative, largest first.
        samples: best first.
        mass: kind -> (probability on concepts that captions name, pairs that name any).
    """

    shards: Sequence[str]
    pairs: int = 0
    strips: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    samples: list[LabelledPair] = field(default_factory=list)
    mass: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, kind: str, shard: int, strips: Mapping[str, np.ndarray]) -> None:
        """Merge a shard's candidates into those of the shards before."""
        held = self.strips.setdefault(kind, {})
        for strip, candidates in strips.items():
            candidates["shard"] = shard
            both = [held[strip], candidates] if strip in held else [candidates]
            held[strip] = first_of_each(np.concatenate(both), CANDIDATES)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The output that is read: its labels, its parsed captions, and what makes concepts of them.

    `kinds` are those with labels. `features` is None if they were deleted to save space, `heads` is then empty.
    """

    labels: StageOutput
    kinds: Sequence[str]
    parsed: StageOutput
    features: StageOutput | None
    heads: Mapping[str, LinearHead]
    vocabularies: Vocabularies
    config: ConceptsConfig
    seed: int


def gather(source: Source, shards: Sequence[str]) -> Gathered:
    """Read the labels of some shards and the captions they belong to."""
    found = Gathered(shards=shards)
    with progress("report", len(shards), "shards") as shown:
        for number, shard in enumerate(shards):
            _gather_shard(source, found, number, shard)
            shown.advance(1)
    return found


def _with_labels(table: pa.Table, kinds: Sequence[str]) -> pa.Table:
    """Leave out pictures without features: all their labels are padding, and they stand behind the others."""
    first = [fixed_lists(table, f"{COLUMNS[kind]}_probs")[:, 0] for kind in kinds]
    return table.filter(pa.array(np.any(first, axis=0))) if first else table


def _gather_shard(source: Source, found: Gathered, number: int, shard: str) -> None:
    table = _with_labels(source.labels.shard(shard), source.kinds)
    captions = _captions(_with_modifiers(source.parsed.shard(shard)), table["key"].to_pylist())
    hashes = row_hashes(shard, np.arange(table.num_rows), source.seed)
    named, ids, probs = {}, {}, {}
    features = None if source.features is None else fixed_lists(source.features.shard(shard, ["features"]), "features")
    for kind in source.kinds:
        own = concept_ids(captions, kind, source.vocabularies, source.config)
        named[kind] = make_labels(own, len(source.vocabularies[kind]))
        ids[kind] = fixed_lists(table, f"{COLUMNS[kind]}_ids").astype(np.int64)
        probs[kind] = fixed_lists(table, f"{COLUMNS[kind]}_probs").astype(np.float64)
        strips, mass = shard_candidates(
            named[kind], ids[kind], probs[kind], hashes, head=source.heads.get(kind), features=features
        )
        found.add(kind, number, strips)
        before, pairs = found.mass.get(kind, (0.0, 0))
        found.mass[kind] = (before + mass, pairs + int((np.diff(named[kind].indptr) > 0).sum()))
    found.pairs += table.num_rows
    texts = captions["caption"].to_pylist()
    held_out = _held_out(source, texts)
    for rows in (np.flatnonzero(held_out), np.flatnonzero(~held_out)):
        for row in _first_distinct(rows[np.argsort(hashes[rows], kind="stable")], texts):
            pair = make_pair(shard, table["key"][row].as_py(), texts[row], held_out=bool(held_out[row]))
            kinds = {kind: (named[kind], ids[kind][row], probs[kind][row]) for kind in named}
            found.samples.append(_labelled(pair, row, int(hashes[row]), kinds, source.vocabularies))
    found.samples = _first_samples(found.samples)


def _captions(parsed: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the parsed rows of some keys, in their order; of a key that stands twice the last, as in training."""
    row = {key: place for place, key in enumerate(parsed["key"].to_pylist())}
    return parsed.take([row[key] for key in keys])


def _with_modifiers(parsed: pa.Table) -> pa.Table:
    """Add an empty column to tables of earlier versions, which have the modifiers among the attributes."""
    if "modifiers" in parsed.column_names:
        return parsed
    return parsed.append_column("modifiers", pa.array([[]] * parsed.num_rows, pa.list_(pa.null())))


def _held_out(source: Source, captions: Sequence[str]) -> np.ndarray:
    share, seed = source.config.heads.held_out, source.config.seed
    return np.array([is_held_out(caption, share, seed) for caption in captions], bool)


def make_pair(shard: str, key: str, caption: str, *, held_out: bool) -> Pair:
    """Make a pair, its caption cut."""
    return Pair(shard=shard, key=key, caption=caption[:LONGEST_TEXT], caption_chars=len(caption), held_out=held_out)


def _labelled(
    pair: Pair, row: int, tie: int, kinds: Mapping[str, tuple[ConceptLabels, Any, Any]], vocabularies: Vocabularies
) -> LabelledPair:
    labels, named = {}, {}
    for kind, (concepts, ids, probs) in kinds.items():
        own = concepts.ids[concepts.indptr[row] : concepts.indptr[row + 1]].tolist()
        shares = {int(i): 100 * float(p) for i, p in zip(ids, probs, strict=True) if p > 0}
        names = vocabularies[kind]
        labels[kind] = [Label(name=names[i].name, share=share, named=i in own) for i, share in shares.items()]
        named[kind] = [Label(name=names[i].name, share=shares.get(i), named=True) for i in own]
    return LabelledPair(pair=pair, tie=tie, labels=labels, named=named)


def _first_distinct(rows: np.ndarray, captions: Sequence[str]) -> list[int]:
    """Return the first `SAMPLES` rows whose captions differ."""
    return [int(rows[place]) for place in islice(_distinct(captions[row] for row in rows), SAMPLES)]


def _distinct(captions: Iterable[str]) -> Iterator[int]:
    """Yield the places of captions that did not come before, but for case and spaces."""
    seen: set[str] = set()
    for place, caption in enumerate(captions):
        if (folded := folded_caption(caption)) not in seen:
            seen.add(folded)
            yield place


def folded_caption(caption: str) -> str:
    """Return what captions have in common that count as the same."""
    return " ".join(caption.lower().split())


def _first_samples(samples: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Return the first `SAMPLES` of the held-out ones, and of the others, no caption twice."""
    ordered = sorted(samples, key=lambda sample: (sample.tie, sample.pair.shard))
    ordered = [ordered[place] for place in _distinct([sample.pair.caption for sample in ordered])]
    held_out = [sample for sample in ordered if sample.pair.held_out]
    trained = [sample for sample in ordered if not sample.pair.held_out]
    return held_out[:SAMPLES] + trained[:SAMPLES]


def chosen_samples(samples: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Return `SAMPLES` of what was gathered: half of them held out, more of one part if the other lacks."""
    held_out = [sample for sample in samples if sample.pair.held_out]
    trained = [sample for sample in samples if not sample.pair.held_out]
    half = max(SAMPLES // 2, SAMPLES - len(trained))
    held_out = held_out[:half]
    return held_out + trained[: SAMPLES - len(held_out)]


def read_pairs(source: Source, shards: Sequence[str], wanted: Mapping[str, Collection[int]]) -> dict[Place, Pair]:
    """Read keys and captions of some rows of the labels, one shard in memory at a time."""
    found: dict[Place, Pair] = {}
    for shard in shards:
        rows = sorted(wanted.get(shard, ()))
        if not rows:
            continue
        keys = source.labels.shard(shard, ["key"])["key"].take(rows).to_pylist()
        texts = _captions(source.parsed.shard(shard, ["key", "caption"]), keys)["caption"].to_pylist()
        for row, key, text, held_out in zip(rows, keys, texts, _held_out(source, texts), strict=True):
            found[shard, row] = make_pair(shard, key, text, held_out=bool(held_out))
    return found
