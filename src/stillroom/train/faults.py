"""Pairs that could not be used in training: counted by reason, each listed once, whatever epoch, rank or restart."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json, write_json
from stillroom.records import Fault

LISTED = 50


class FaultList:
    """The faults of a rank, written to `faults-rankN.jsonl` as they come, so that a killed run keeps them.

    Args:
        out: the run's folder.
        rank: of this process.
    """

    def __init__(self, out: Path, rank: int) -> None:
        self.out = out
        self.path = out / f"faults-rank{rank}.jsonl"
        self._seen: set[int] = set()

    def add(self, faults: Iterable[Fault]) -> None:
        """Take note of faults; one that was there before (a picture fails in every epoch) is no new one."""
        new = []
        for fault in faults:
            mark = hash((fault.shard, fault.key, fault.reason))
            if mark not in self._seen:
                self._seen.add(mark)
                new.append(json.dumps(asdict(fault)) + "\n")
        if new:
            with self.path.open("ab+") as file:
                # A line that a killed process has cut off is ended, so that it does not spoil the next.
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write("".join(new).encode())


def collect_faults(out: Path) -> dict[str, Any]:
    """Put all ranks' faults into `faults.json`; return what the summary says. To be called when no rank writes.

    What stands in `faults.json` already stays: a run that is killed between this and its summary has no other list.
    """
    before = out / "faults.json"
    listed = read_json(before) if before.exists() else []
    found = {(fault["shard"], fault["key"], fault["reason"]): fault for fault in listed}
    paths = sorted(out.glob("faults-rank*.jsonl"))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a line that is cut off was of a rank that was killed, and is found again
                fault = json.loads(line)
                found.setdefault((fault["shard"], fault["key"], fault["reason"]), fault)
    listed = [found[place] for place in sorted(found)]
    write_json(before, listed)
    for path in paths:
        path.unlink()
    reasons = Counter(fault["reason"] for fault in listed)
    return {"faults": dict(sorted(reasons.items())), "listed_faults": listed[:LISTED]}
