"""`stillroom check`: what is in a data set and what is broken, before hours are spent on it."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from stillroom.data import reasons
from stillroom.data.config import DataConfig
from stillroom.data.images import ImageError, decode_image
from stillroom.data.source import Shard, ShardHead, open_data
from stillroom.data.tables import TableShard
from stillroom.errors import printable
from stillroom.parallel import map_unordered
from stillroom.progress import progress
from stillroom.records import Fault, Sample

LISTED = 50
# 8 bytes of BLAKE2b: among a billion different captions the chance that any two share one is 3%.
DIGEST_BYTES = 8


@dataclass(kw_only=True)
class ShardCheck:
    """What one shard holds; arrays, not objects, so that a large data set stays small in memory."""

    name: str
    samples: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    listed: list[Fault] = field(default_factory=list)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    sides: array[int] = field(default_factory=lambda: array("L"))

    def add_fault(self, fault: Fault) -> None:
        """Count a fault and list it while there is room."""
        self.faults[fault.reason] += 1
        if len(self.listed) < LISTED:
            self.listed.append(fault)

    def add(self, sample: Sample, *, decode: bool) -> None:
        """Count a pair; decode its picture in full where asked."""
        self.samples += 1
        text = " ".join(sample.caption.split())
        if not text:
            self.add_fault(Fault(shard=self.name, key=sample.key, reason=reasons.CAPTION_EMPTY))
        else:
            digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=DIGEST_BYTES).digest()
            self.digests.append(int.from_bytes(digest, "little"))
            self.lengths.append(len(text))
        if decode and sample.image is not None:
            try:
                self.sides.append(max(decode_image(sample.image).size))
            except ImageError as error:
                self.add_fault(Fault(shard=self.name, key=sample.key, reason=error.reason, detail=str(error)))


def check_shard(shard: Shard, *, decode: bool) -> ShardCheck:
    """Read one shard to its end."""
    found = ShardCheck(name=shard.name)
    for item in shard.samples(images=decode):
        if isinstance(item, Fault):
            found.add_fault(item)
        else:
            found.add(item, decode=decode)
    return found


def run(data: str, config: DataConfig | None = None, *, workers: int = 1, decode: bool = True) -> dict[str, Any]:
    """Read the whole data set and return a JSON-able report.

    Args:
        data: DATA, see `stillroom.data.open_data`.
        config: column names and block size.
        workers: processes.
        decode: decode every picture; without it only headers of tars and tables are read.

    Raises:
        DataError: the data cannot be opened at all.
    """
    shards = open_data(data, config)
    done: list[ShardCheck] = []
    pairs = 0
    with progress("check", len(shards), "shards") as shown:
        for found in map_unordered(partial(check_shard, decode=decode), shards, workers):
            done.append(found)
            pairs += found.samples
            shown.advance(1, f"{pairs:,} pairs")
    order = {shard.name: index for index, shard in enumerate(shards)}
    return _report(data, shards, sorted(done, key=lambda one: order[one.name]))


def _report(data: str, shards: Sequence[Shard], checks: Sequence[ShardCheck]) -> dict[str, Any]:
    faults: Counter[str] = sum((one.faults for one in checks), Counter())
    listed = [fault for one in checks for fault in one.listed][:LISTED]
    repeats = np.unique(_joined([one.digests for one in checks]), return_counts=True)[1]
    return {
        "data": data,
        "shards": len(shards),
        "samples": sum(one.samples for one in checks),
        "faults": dict(sorted(faults.items())),
        "listed_faults": [{"shard": f.shard, "key": f.key, "reason": f.reason, "detail": f.detail} for f in listed],
        "captions": {
            "distinct": len(repeats),
            "repeats": int(repeats.sum()) - len(repeats),
            "most_frequent": int(repeats.max(initial=0)),
            "characters": _quantiles(_joined([one.lengths for one in checks])),
        },
        "longest_side": _quantiles(_joined([one.sides for one in checks])),
        "table": _table(shards),
        "mend": [f"{count:,} {reason}: {reasons.ADVICE[reason]}" for reason, count in sorted(faults.items())],
    }


def _joined(arrays: Sequence[array[int]]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.uint64), *(np.array(one, dtype=np.uint64) for one in arrays)])


def _quantiles(values: np.ndarray) -> dict[str, int]:
    if not len(values):
        return {}
    names = ("min", "5%", "median", "95%", "max")
    return {
        name: int(value)
        for name, value in zip(names, np.quantile(values, [0, 0.05, 0.5, 0.95, 1], method="nearest"), strict=True)
    }


def _table(shards: Sequence[Shard]) -> dict[str, Any] | None:
    whole = (shard.shard if isinstance(shard, ShardHead) else shard for shard in shards)
    table = next((shard for shard in whole if isinstance(shard, TableShard)), None)
    if table is None:
        return None
    used = {
        "image_column": table.config.image_column,
        "caption_column": table.config.caption_column,
        "key_column": table.config.key_column or "(row number)",
    }
    return {"columns": list(table.columns), "separator": table.separator or None, **used}


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the report as lines for a terminal."""
    captions = report["captions"]
    lines = [
        f"{report['samples']:,} pairs in {report['shards']:,} shards",
        f"captions: {captions['distinct']:,} distinct, {captions['repeats']:,} repeats, "
        f"the most frequent {captions['most_frequent']:,} times; characters {_spread(captions['characters'])}",
    ]
    if report["longest_side"]:
        lines.append(f"pictures: longest side {_spread(report['longest_side'])} pixels")
    if report["table"]:
        table = report["table"]
        columns = printable(", ".join(table["columns"]))
        separator = {"\t": "tab", ",": "comma", None: "(Parquet)"}.get(table["separator"], repr(table["separator"]))
        lines.append(
            f"table: separator {separator}; pictures from '{table['image_column']}', captions from "
            f"'{table['caption_column']}', keys from '{table['key_column']}'; columns {columns}"
        )
    if not report["mend"]:
        return [*lines, "nothing to mend"]
    lines.append("to mend:")
    lines += [f"  {line}" for line in report["mend"]]
    lines += [
        printable(f"    {fault['shard']}/{fault['key']}: {fault['reason']} {fault['detail']}").rstrip()
        for fault in report["listed_faults"][:10]
    ]
    more = sum(report["faults"].values()) - 10
    return [*lines, f"    ... and {more:,} more (--json lists the first {LISTED})"] if more > 0 else lines


def _spread(quantiles: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in quantiles.items()) or "none"
