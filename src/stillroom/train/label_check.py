"""Whether pseudo-labels fit the pairs of a run, told before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.artifacts import StageOutput, open_stage
from stillroom.concepts.features import read_faults
from stillroom.concepts.join import PseudoLabels, missing_line
from stillroom.concepts.steps import FEATURES
from stillroom.data import Shard
from stillroom.data.reasons import IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNREADABLE
from stillroom.errors import ArtifactError, DataError
from stillroom.train.memory import MemorySource
from stillroom.train.slots import SlotCounts

# Faults that show only when a picture is decoded, so the pair is counted before.
DECODING = (IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNREADABLE)


def check_shards(labels: PseudoLabels, slots: SlotCounts, shards: Sequence[Shard]) -> None:
    """Raise a `DataError` if a shard with pairs has no labels at all."""
    used = [shard.name for shard, count in zip(shards, slots.counts, strict=True) if count]
    known = set(labels.stage.shards)
    lost = [name for name in used if name not in known]
    if lost:
        raise DataError(missing_line(len(lost), len(used), [(lost[0],)], what="shards"))


def check_pairs(labels: PseudoLabels, source: MemorySource) -> None:
    """Raise a `DataError` if a pair in memory has no labels."""
    pairs = list(zip(source.shards, source.keys, strict=True))
    lost = [pair for pair in pairs if not labels.has(*pair)]
    if lost:
        raise DataError(missing_line(len(lost), len(pairs), lost[:5]))


def check_stream(labels: PseudoLabels, slots: SlotCounts) -> None:
    """Raise a `DataError` if slots of a stream have no labels.

    Pairs whose pictures the teacher could not decode have none, and will not be trained on either: those that
    `features/` lists are allowed for, or as many as the summary counts where that folder was deleted.

    Args:
        labels: of the concepts; check_shards has found all shards in them.
        slots: counted with the `LabelKeys` of these labels.
    """
    lost = sum(number for _, _, number in slots.unlabelled)
    if open_features(labels.stage) is None:
        lost -= sum(labels.stage.summary.get("faults", {}).get(reason, 0) for reason in DECODING)
    if lost > 0:
        raise DataError(missing_line(lost, slots.total, [slots.unlabelled[0][:2]]))


@dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """From a shard's name to the keys that have labels, or cannot have: their pictures are broken. Made by `open`.

    Attributes:
        labels: output of the concepts stage, for workers.
        features: of its features; None where they were deleted.
        absent: shards of DATA without labels.
    """

    labels: StageOutput
    features: StageOutput | None
    absent: frozenset[str]

    @classmethod
    def open(cls, labels: PseudoLabels, shards: Sequence[Shard]) -> LabelKeys:
        """Open labels for data with these shards."""
        features = open_features(labels.stage)
        return cls(
            labels=labels.stage.for_workers(),
            features=None if features is None else features.for_workers(),
            absent=frozenset(shard.name for shard in shards) - frozenset(labels.stage.shards),
        )

    def __call__(self, shard: str) -> set[str]:
        """Return the keys of a shard."""
        if shard in self.absent:
            return set()
        found = set(self.labels.shard(shard, ["key"])["key"].to_pylist())
        if self.features is not None:
            faults = read_faults(self.features.shard(shard, ["key"]), shard)
            found |= {fault.key for fault in faults if fault.reason in DECODING}
        return found


def open_features(labels: StageOutput) -> StageOutput | None:
    """Open the features that labels were made from; None if they are gone."""
    try:
        return open_stage(labels.path / "features", FEATURES)
    except ArtifactError:
        return None
