"""`slots.json` in a run's folder: what was counted when the run began, so that a restart counts nothing again.

The order of pairs is that of these numbers. A shard that has become unreadable since keeps its slots, and its pairs
become faults when their turn comes: a run of weeks goes on without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.artifacts import difference, read_json, write_json, write_table
from stillroom.data import Shard
from stillroom.data.config import DataConfig
from stillroom.errors import ArtifactError
from stillroom.train.slots import DAMAGE, SlotCounts

SLOTS, CAPTIONS = "slots.json", "slots_captions.parquet"


class SlotFile:
    """The slots of a run, on disk; for the first rank.

    Args:
        out: the run's folder.
        shards: of the data set, in their order.
        described: the run's inputs, with the `contents` of shards where they are known, and the digest of `keep`.
        data: how DATA is read.
    """

    def __init__(self, out: Path, shards: Sequence[Shard], *, described: Mapping[str, Any], data: DataConfig) -> None:
        self.path, self.captions = out / SLOTS, out / CAPTIONS
        self.begun = has_begun(out)
        contents = described.get("contents", {})
        self.shards = [{"name": shard.name, "contents": contents.get(shard.name)} for shard in shards]
        self.options = {"keep": described.get("keep"), "data": asdict(data)}

    def read(self, *, captions: bool) -> SlotCounts | None:
        """Return what was counted; None if there is nothing to go by.

        A run without a checkpoint may count anew, and does where DATA is another now, or could not all be read then.

        Args:
            captions: they are needed too.

        Raises:
            ArtifactError: the run has begun on other data, or a file is damaged.
        """
        if not self.path.exists() or (captions and not self.captions.exists() and not self.begun):
            return None
        found = read_json(self.path)
        try:
            options, rows, damaged = found["options"], found["shards"], found["damaged"]
            changed = self._changed(options, [{key: row[key] for key in ("name", "contents")} for row in rows])
            slots = SlotCounts(
                counts=tuple(int(row["slots"]) for row in rows),
                direct=tuple(bool(row["direct"]) for row in rows),
                unlabelled=tuple((str(shard), str(key), int(number)) for shard, key, number in found["unlabelled"]),
            )
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path} is damaged; start again in another folder") from None
        if changed and self.begun:
            raise ArtifactError(
                f"DATA is not what this run began on: {changed} ({self.path}), and the order of pairs would not go on; "
                "give the same DATA, or start again in another folder"
            )
        if not self.begun and (changed or damaged):
            return None
        return replace(slots, captions=self._read_captions()) if captions else slots

    def _changed(self, options: Any, rows: list[dict[str, Any]]) -> str | None:
        if options != self.options:
            return difference(options, self.options)
        for number, (then, now) in enumerate(zip_longest(rows, self.shards)):
            if then != now:
                return f"shard {number} was {_named(then)} and is {_named(now)} now"
        return None

    def _read_captions(self) -> list[str]:
        try:
            return list(pq.read_table(self.captions)["caption"].to_pylist())
        except (pa.ArrowException, OSError, KeyError) as error:
            why = " ".join(str(error).split())[:160]
            raise ArtifactError(f"{self.captions} cannot be read ({why}); start again in another folder") from None

    def write(self, slots: SlotCounts) -> None:
        """Keep what was counted; its faults must be on disk by now."""
        if slots.captions is not None:
            write_table(self.captions, pa.table({"caption": pa.array(slots.captions, pa.large_string())}))
        rows = zip(self.shards, slots.counts, slots.direct, strict=True)
        write_json(
            self.path,
            {
                "options": self.options,
                "shards": [{**shard, "slots": count, "direct": direct} for shard, count, direct in rows],
                "unlabelled": slots.unlabelled,
                "damaged": sorted({fault.shard for fault in slots.faults if fault.reason in DAMAGE}),
            },
        )


def has_begun(out: Path) -> bool:
    """Whether a run has been trained so far that it cannot begin on other data."""
    return any((out / "checkpoints").glob("step-*.pt"))


def run_inputs(out: Path) -> Mapping[str, Any]:
    """Return a run's inputs as its `run.json` says them; opening it has compared them with the present ones."""
    path = out / "run.json"
    return dict(read_json(path)["inputs"]) if path.exists() else {}


def _named(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "none"
    return f"'{row['name']}'" + (f" ({row['contents']})" if row["contents"] else "")
