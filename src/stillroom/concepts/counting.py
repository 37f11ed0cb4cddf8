"""From stored parses to the two vocabularies, and from a caption's names to concept ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from stillroom.artifacts import StageOutput
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.vocabulary import (
    Concept,
    Tally,
    choose_vocabulary,
    count_concepts,
    describes,
    endings,
    fold_names,
    longest_names,
    merge_counts,
    read_stop_list,
    read_vocabulary,
    resolve,
)
from stillroom.concepts.wordnet import FirstSense, load_first_senses
from stillroom.errors import ConfigError

KINDS = ("objects", "attributes")
Vocabularies = Mapping[str, Sequence[Concept]]
# A shard's captions, each with the names of one kind in it.
NamedCaptions = Iterable[tuple[str, Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How names of one kind become concepts of a vocabulary.

    Attributes:
        ids: the id of each concept, under its name and under all of its other names.
        stop: names that are no concepts; stop words that a user put into the vocabulary are.
    """

    ids: Mapping[str, int]
    stop: frozenset[str]


def make_vocabularies(parsed: StageOutput, config: ConceptsConfig) -> Vocabularies:
    """Count and choose both vocabularies, or read those of `config.vocabulary`.

    Raises:
        ConfigError: no concept of either kind is frequent enough, or the vocabulary that was given is empty.
    """
    if config.vocabulary is not None:
        given = {kind: read_vocabulary(Path(config.vocabulary) / f"{kind}.csv") for kind in KINDS}
        if not any(given.values()):
            raise ConfigError(f"both vocabularies in {config.vocabulary} are empty; put in at least one name")
        return given
    chosen: dict[str, list[Concept]] = {}
    most = 0
    senses = load_first_senses() if config.fold_synonyms else {}
    # Objects come first: which words are attributes depends on which compounds are objects of their own.
    for kind, size in zip(KINDS, (config.max_objects, config.max_attributes), strict=True):
        objects = naming("objects", chosen.get("objects", ()), config)
        chosen[kind], frequency = _choose(
            partial(_captions, parsed, kind, objects),
            stop_list(kind, config),
            senses.get(kind),
            min_count=config.min_count,
            max_size=size,
        )
        most = max(most, frequency)
    if not any(chosen.values()):
        raise ConfigError(
            f"no concept occurs in min_count = {config.min_count} captions, the most frequent one occurs in {most}: "
            "lower it with --set min_count=N, or give more pairs"
        )
    return chosen


def _choose(
    shards: Callable[[], Iterator[NamedCaptions]],
    stop: frozenset[str],
    sense: FirstSense | None,
    *,
    min_count: int,
    max_size: int,
) -> tuple[list[Concept], int]:
    """Return a vocabulary, and how many captions hold the most frequent concept. The captions are read 2 or 3 times.

    Every count is of captions, also that of several names together, and adds up exactly over shards.
    """

    def count(concepts: Callable[[Sequence[str]], list[str]]) -> Mapping[str, Tally]:
        return merge_counts(count_concepts((caption, concepts(names)) for caption, names in rows) for rows in shards())

    def all_endings(names: Sequence[str]) -> list[str]:
        return [ending for name in names for ending in endings(name, stop)]

    # First every ending is counted, to learn which names are one, and which compounds are frequent enough to be whole.
    every = count(all_endings)
    also = {} if sense is None else fold_names(every, sense)
    concept = {name: first for first, others in also.items() for name in (first, *others)}
    united = count(lambda names: [concept.get(name, name) for name in all_endings(names)]) if also else every
    whole = {name for name in every if " " not in name or united[concept.get(name, name)].count >= min_count}
    counts = count(lambda names: [concept.get(name, name) for name in resolve(names, whole, stop)])
    chosen = choose_vocabulary(counts, min_count=min_count, max_size=max_size, also=also)
    return chosen, max((tally.count for tally in counts.values()), default=0)


def stop_list(kind: str, config: ConceptsConfig) -> frozenset[str]:
    """Return the names that are never concepts of a kind: the package's list and the config's."""
    extra = config.extra_stop_objects if kind == "objects" else config.extra_stop_attributes
    return read_stop_list(kind).union(extra)


def naming(kind: str, vocabulary: Sequence[Concept], config: ConceptsConfig) -> Naming:
    """Return how names become concepts of a vocabulary."""
    ids = {name: place for place, concept in enumerate(vocabulary) for name in (concept.name, *concept.also)}
    return Naming(ids=ids, stop=stop_list(kind, config) - ids.keys())


def names_in(table: pa.Table, kind: str, objects: Naming) -> list[list[str]]:
    """Return for each row of a parsed shard the names of a kind in its caption.

    A noun before a noun is an attribute unless it is part of the name of an object that `objects` has: "fire" is one in
    "fire truck" only if there is no object "fire truck".
    """
    rows = table[kind].to_pylist()
    if kind == "objects":
        return [longest_names(names) for names in rows]
    return [
        [*names, *(m["name"] for m in modifiers if describes(m["object"], m["place"], objects.ids, objects.stop))]
        for names, modifiers in zip(rows, table["modifiers"].to_pylist(), strict=True)
    ]


def _captions(parsed: StageOutput, kind: str, objects: Naming) -> Iterator[NamedCaptions]:
    columns = ["caption", kind] if kind == "objects" else ["caption", kind, "modifiers"]
    for _, table in parsed.tables(columns):
        yield zip(table["caption"].to_pylist(), names_in(table, kind, objects), strict=True)


def concept_ids(table: pa.Table, kind: str, vocabularies: Vocabularies, config: ConceptsConfig) -> list[list[int]]:
    """Return for each row of a parsed shard the ids of its concepts of a kind, rising."""
    own = naming(kind, vocabularies[kind], config)
    named = names_in(table, kind, naming("objects", vocabularies["objects"], config))
    return [sorted({own.ids[name] for name in resolve(names, own.ids, own.stop)}) for names in named]
