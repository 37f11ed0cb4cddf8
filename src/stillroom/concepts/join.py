"""Pseudo-labels for training, found by (shard, key), a few shards in memory at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillroom.artifacts import StageOutput, open_stage
from stillroom.concepts.features import fixed_lists
from stillroom.concepts.vocabulary import read_vocabulary, vocabulary_digest
from stillroom.errors import ArtifactError, DataError

KINDS = ("objects", "attributes")
# Column prefixes of the two kinds.
PREFIX = {"objects": "object", "attributes": "attribute"}
# About 300 bytes a row with its key, so half a gigabyte at the most.
ROWS_IN_MEMORY = 2_000_000


@dataclass(frozen=True, kw_only=True)
class ShardLabels:
    """The labels of one shard's n pictures.

    Attributes:
        row: key -> row.
        ids: kind -> (n, k) uint32, indices into the kind's names; padding has id 0 and probability 0.
        probs: kind -> (n, k) float16, falling, sums to 1 in a row (but for rounding).
    """

    row: Mapping[str, int]
    ids: Mapping[str, np.ndarray]
    probs: Mapping[str, np.ndarray]


class PseudoLabels:
    """A finished output of `stillroom concepts`; made by `load_pseudo_labels`.

    Attributes:
        names: kind -> its concepts' names, for kinds that have labels: a kind whose vocabulary is empty, or whose
            concepts no readable picture's caption names, has no head and all its labels are padding.
    """

    def __init__(self, stage: StageOutput, names: Mapping[str, tuple[str, ...]]) -> None:
        self.stage = stage
        self.names = dict(names)
        self._known = frozenset(stage.shards)
        self._held: OrderedDict[str, ShardLabels] = OrderedDict()

    @property
    def sizes(self) -> dict[str, int]:
        """Kind -> number of concepts."""
        return {kind: len(found) for kind, found in self.names.items()}

    def shard(self, name: str) -> ShardLabels | None:
        """Return a shard's labels, or None if it has none."""
        if name not in self._known:
            return None
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        table = self.stage.shard(name)
        found = ShardLabels(
            row={key: row for row, key in enumerate(table["key"].to_pylist())},
            ids={kind: fixed_lists(table, f"{PREFIX[kind]}_ids") for kind in self.names},
            probs={kind: fixed_lists(table, f"{PREFIX[kind]}_probs") for kind in self.names},
        )
        self._held[name] = found
        while len(self._held) > 1 and sum(len(labels.row) for labels in self._held.values()) > ROWS_IN_MEMORY:
            self._held.popitem(last=False)
        return found

    def has(self, shard: str, key: str) -> bool:
        """Whether a pair has labels."""
        labels = self.shard(shard)
        return labels is not None and key in labels.row

    def lookup(self, shards: Sequence[str], keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return kind -> ids (n, k) int64 and probabilities (n, k) float32 of n pairs.

        Raises:
            DataError: one has no labels.
        """
        places: dict[str, list[int]] = {}
        for place, shard in enumerate(shards):
            places.setdefault(shard, []).append(place)
        ids: dict[str, np.ndarray] = {}
        probs: dict[str, np.ndarray] = {}
        for shard, own in places.items():
            labels = self.shard(shard)
            lost = own if labels is None else [place for place in own if keys[place] not in labels.row]
            if labels is None or lost:
                raise DataError(missing_line(len(lost), len(keys), [(shard, keys[lost[0]])]))
            rows = [labels.row[keys[place]] for place in own]
            for kind in self.names:
                k = labels.ids[kind].shape[1]
                ids.setdefault(kind, np.empty((len(keys), k), np.int64))[own] = labels.ids[kind][rows]
                probs.setdefault(kind, np.empty((len(keys), k), np.float32))[own] = labels.probs[kind][rows]
        return {kind: (ids[kind], probs[kind]) for kind in ids}


def missing_line(missing: int, total: int, few: Sequence[tuple[str, ...]], *, what: str = "pairs") -> str:
    """Return what to tell the user of `what` without labels: pairs as (shard, key), or shards as (shard,)."""
    named = ", ".join("/".join(pair) for pair in few)
    return (
        f"{missing:,} of {total:,} {what} have no pseudo-labels, e.g. {named}: "
        "run 'stillroom concepts' on the same DATA and --keep as the training"
    )


def load_pseudo_labels(folder: Path) -> PseudoLabels:
    """Open a finished output of `stillroom concepts`.

    Raises:
        ArtifactError: absent, unfinished, of another stage, or its vocabulary was changed afterwards.
    """
    stage = open_stage(folder, "concepts")
    if not stage.shards:
        raise ArtifactError(f"{folder} holds no shards")
    names = {kind: _names(stage, kind) for kind in KINDS}
    heads = stage.summary.get("heads", KINDS)
    return PseudoLabels(stage, {kind: found for kind, found in names.items() if found and kind in heads})


def _names(stage: StageOutput, kind: str) -> tuple[str, ...]:
    path = stage.path / f"{kind}.csv"
    vocabulary = read_vocabulary(path)
    if vocabulary_digest(vocabulary) != stage.summary["vocabulary"][kind]["digest"]:
        raise ArtifactError(
            f"{path} is not the vocabulary its labels were made with; "
            f"to use an edited one run 'stillroom concepts' with --set vocabulary={stage.path} into another folder"
        )
    return tuple(concept.name for concept in vocabulary)
