"""From stored parses to the two vocabularies, and from a caption's names to concept ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillroom.artifacts import StageOutput
from stillroom.concepts.caption_names import CaptionNames, Lists, as_lists, read_names, replaced
from stillroom.concepts.choosing import Choice, choose
from stillroom.concepts.collocations import free_names
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.examples import example_captions
from stillroom.concepts.names import describes, resolve, spelt
from stillroom.concepts.vocabulary import Concept, read_stop_list, read_vocabulary
from stillroom.concepts.wordnet import load_first_senses
from stillroom.errors import ConfigError

log = logging.getLogger("stillroom")
KINDS = ("objects", "attributes")
COLUMNS = ["objects", "attributes", "modifiers"]
SHOWN = 5  # names that no caption has, in a message
Vocabularies = Mapping[str, Sequence[Concept]]


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
    """Count and choose both vocabularies, or take those of `config.vocabulary` and count them anew.

    Either way a concept's count is the number of captions of `parsed` that get it from `concept_ids`.

    Raises:
        ConfigError: no concept of either kind is frequent enough, or the vocabulary that was given is empty.
    """
    if config.vocabulary is not None:
        given = {kind: read_vocabulary(Path(config.vocabulary) / f"{kind}.csv") for kind in KINDS}
        if not any(given.values()):
            raise ConfigError(f"both vocabularies in {config.vocabulary} are empty; put in at least one name")
        captions = _read(parsed)
        counted = {kind: _count_given(captions, kind, given, config) for kind in KINDS}
    else:
        captions = _read(parsed)
        counted = _choose_both(captions, config)
    return {kind: _with_examples(parsed, captions, kind, counted, config) for kind in KINDS}


def _read(parsed: StageOutput) -> CaptionNames:
    return read_names(table for _, table in parsed.tables(COLUMNS))


def _choose_both(captions: CaptionNames, config: ConceptsConfig) -> dict[str, list[Concept]]:
    senses = load_first_senses() if config.fold_synonyms else {}
    stop = stop_list("objects", config)
    objects = choose(
        captions.object_rows,
        list(captions.objects),
        stop,
        min_count=config.min_count,
        max_size=config.max_objects,
        free=partial(free_names, captions, stop=stop, min_count=config.min_count),
        sense=senses.get("objects"),
    )
    # Objects come first: which words are attributes depends on which compounds are objects of their own.
    chosen = {"objects": _concepts(objects)}
    attributes = choose(
        captions.word_rows,
        _attribute_names(captions, naming("objects", chosen["objects"], config)),
        stop_list("attributes", config),
        min_count=config.min_count,
        max_size=config.max_attributes,
        sense=senses.get("attributes"),
    )
    chosen["attributes"] = _concepts(attributes)
    if not any(chosen.values()):
        raise ConfigError(
            f"no concept occurs in min_count = {config.min_count} captions, the most frequent one occurs in "
            f"{max(objects.most, attributes.most)}: lower it with --set min_count=N, or give more pairs"
        )
    return chosen


def _concepts(choice: Choice) -> list[Concept]:
    return [
        Concept(name=name, count=count, examples=(), also=also)
        for name, count, also in zip(choice.names, choice.counts, choice.also, strict=True)
    ]


def _attribute_names(captions: CaptionNames, objects: Naming) -> list[str | None]:
    """Return for each word its name, or None if it is part of the name of an object that `objects` has.

    "fire" is an attribute in "fire truck" only if there is no object "fire truck".
    """
    return [
        word.name if word.object is None or describes(word.object, word.place, objects.ids, objects.stop) else None
        for word in captions.words
    ]


def _count_given(captions: CaptionNames, kind: str, given: Vocabularies, config: ConceptsConfig) -> list[Concept]:
    counts = np.zeros(len(given[kind]), np.int64)
    for rows in _concept_rows(captions, kind, given, config):
        counts += np.bincount(rows.numbers, minlength=len(counts))
    concepts = [
        Concept(name=old.name, count=count, examples=(), also=old.also)
        for old, count in zip(given[kind], counts.tolist(), strict=True)
    ]
    _report_unmatched(kind, [concept.name for concept in concepts if not concept.count], len(concepts))
    return concepts


def _report_unmatched(kind: str, names: Sequence[str], size: int) -> None:
    if names:
        some = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        plural = any(name.endswith("s") for name in names)
        hint = "; names are lemmas: 'car' counts for 'cars', and 'cars' for nothing" if plural else ""
        log.warning("concepts: no caption has %s of the %s %s given: %s%s", len(names), size, kind, some, hint)


def _with_examples(
    parsed: StageOutput, captions: CaptionNames, kind: str, chosen: Vocabularies, config: ConceptsConfig
) -> list[Concept]:
    texts = (table["caption"].to_pylist() for _, table in parsed.tables(["caption"]))
    rows = _concept_rows(captions, kind, chosen, config)
    examples = example_captions(zip(texts, rows, strict=True), len(chosen[kind]))
    return [
        Concept(name=concept.name, count=concept.count, examples=found, also=concept.also)
        for concept, found in zip(chosen[kind], examples, strict=True)
    ]


def stop_list(kind: str, config: ConceptsConfig) -> frozenset[str]:
    """Return the names that are never concepts of a kind: the package's list and the config's."""
    extra = config.extra_stop_objects if kind == "objects" else config.extra_stop_attributes
    return read_stop_list(kind).union(map(spelt, extra))


def naming(kind: str, vocabulary: Sequence[Concept], config: ConceptsConfig) -> Naming:
    """Return how names become concepts of a vocabulary."""
    ids = {name: place for place, concept in enumerate(vocabulary) for name in (concept.name, *concept.also)}
    return Naming(ids=ids, stop=stop_list(kind, config) - ids.keys())


def concept_ids(table: pa.Table, kind: str, vocabularies: Vocabularies, config: ConceptsConfig) -> list[list[int]]:
    """Return for each row of a parsed shard the ids of its concepts of a kind, rising."""
    (rows,) = _concept_rows(read_names([table]), kind, vocabularies, config)
    starts, numbers = rows.starts.tolist(), rows.numbers.tolist()
    return [numbers[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def _concept_rows(
    captions: CaptionNames, kind: str, vocabularies: Vocabularies, config: ConceptsConfig
) -> Iterator[Lists]:
    """Yield for each shard the ids of the concepts of its captions."""
    own = naming(kind, vocabularies[kind], config)
    if kind == "objects":
        rows, names = captions.object_rows, list[str | None](captions.objects)
    else:
        objects = naming("objects", vocabularies["objects"], config)
        rows, names = captions.word_rows, _attribute_names(captions, objects)
    by = as_lists([[own.ids[found] for found in resolve([name] if name else [], own.ids, own.stop)] for name in names])
    for shard in rows:
        yield replaced(shard, by)
