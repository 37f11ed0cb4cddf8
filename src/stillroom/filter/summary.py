"""What the filter did, rule by rule: counted from the verdicts, and as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stillroom.data.reasons import ADVICE
from stillroom.filter.config import FilterConfig
from stillroom.filter.rules import rules_on

UNUSABLE = "unusable"
LISTED_FAULTS = 50
COUNTED = ["key", "complexity", "actions", "text_overlap", "text_overlap_exact", "text_skipped", "reasons", "detail"]


@dataclass(kw_only=True)
class Tally:
    """Counts over all rows seen so far; its size does not grow with them."""

    pairs: int = 0
    kept: int = 0
    first: Counter[str] = field(default_factory=Counter)
    any: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, str]] = field(default_factory=list)
    complexity: Counter[int] = field(default_factory=Counter)
    actions: Counter[int] = field(default_factory=Counter)
    overlap: Counter[int] = field(default_factory=Counter)
    lower_bounds: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, shard: str, table: pa.Table) -> None:
        """Count one shard's rows (columns `COUNTED`)."""
        rows = table.select(COUNTED).to_pylist()
        for row in rows:
            self._add_faults(shard, row)
            if row["key"] == "":  # the rest of a shard, not a pair
                continue
            self.pairs += 1
            self.kept += not row["reasons"]
            if row["reasons"]:
                first = row["reasons"][0]
                self.first[UNUSABLE if first in ADVICE else first] += 1
                self.any.update({UNUSABLE if reason in ADVICE else reason for reason in row["reasons"]})
            self._add_values(row)

    def _add_values(self, row: dict[str, Any]) -> None:
        if row["complexity"] is not None:
            self.complexity[row["complexity"]] += 1
        if row["actions"] is not None:
            self.actions[len(row["actions"])] += 1
        if row["text_overlap"] is not None:
            self.overlap[row["text_overlap"]] += 1
            self.lower_bounds += not row["text_overlap_exact"]
        if row["text_skipped"] is not None:
            self.skipped[row["text_skipped"]] += 1

    def _add_faults(self, shard: str, row: dict[str, Any]) -> None:
        for reason in row["reasons"]:
            if reason in ADVICE:
                self.faults[reason] += 1
                if len(self.listed) < LISTED_FAULTS:
                    detail = row["detail"] or ""
                    self.listed.append({"shard": shard, "key": row["key"], "reason": reason, "detail": detail})


def summarise(
    tables: Iterable[tuple[str, pa.Table]], config: FilterConfig, *, whole_set_alone: Mapping[str, int]
) -> dict[str, Any]:
    """Count the verdicts of all shards.

    Args:
        tables: (shard, verdicts) in the order of the data.
        config: what the verdicts were made with.
        whole_set_alone: for each rule over the whole set, pairs that it alone would drop.

    Returns:
        JSON-able counts. `funnel` says what each rule dropped of what the ones before it left; `alone`, with
        `measure_all`, how many pairs fail each rule, whatever else they fail, and is None otherwise.
    """
    tally = Tally()
    for shard, table in tables:
        tally.add(shard, table)
    steps = [UNUSABLE, *(rule.reason for rule in rules_on(config))]
    funnel, left = [], tally.pairs
    for step in steps:
        left -= tally.first[step]
        funnel.append({"rule": step, "dropped": tally.first[step], "left": left})
    assert left == tally.kept
    alone = {step: tally.any[step] for step in steps} | dict(whole_set_alone) if config.measure_all else None
    return {
        "preset": config.preset,
        "thresholds": {
            rule.reason: {name: getattr(config, name) for name in rule.thresholds} for rule in rules_on(config)
        },
        "pairs": tally.pairs,
        "kept": tally.kept,
        "funnel": funnel,
        "alone": alone,
        "histograms": {
            "complexity": _histogram(tally.complexity),
            "actions": _histogram(tally.actions),
            "text_overlap": _histogram(tally.overlap),
        },
        "text": {"lower_bounds": tally.lower_bounds, "skipped": dict(sorted(tally.skipped.items()))},
        "faults": {"counts": dict(sorted(tally.faults.items())), "listed": tally.listed},
    }


def _histogram(counts: Counter[int]) -> list[dict[str, int]]:
    return [{"value": value, "pairs": counts[value]} for value in sorted(counts)]


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return a summary as lines for a terminal: the funnel as a table, what was not measured, what is broken."""
    pairs, kept, alone = summary["pairs"], summary["kept"], summary["alone"]
    names = {step["rule"]: _label(step["rule"], summary["thresholds"]) for step in summary["funnel"]}
    width = max(len(name) for name in names.values())
    share = f" ({kept / pairs:.1%})" if pairs else ""
    lines = [
        f"preset {summary['preset']}: {kept:,} of {pairs:,} pairs kept{share}",
        f"  {'rule':<{width}}  {'dropped':>11}  {'left':>11}" + (f"  {'fail alone':>11}" if alone else ""),
    ]
    for step in summary["funnel"]:
        line = f"  {names[step['rule']]:<{width}}  {step['dropped']:>11,}  {step['left']:>11,}"
        lines.append(line + (f"  {alone[step['rule']]:>11,}" if alone else ""))
    skipped = summary["text"]["skipped"]
    if skipped:
        why = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in skipped.items())
        lines.append(f"not searched for lettering: {why}")
    lines += [f"{count:,} {reason}: {ADVICE[reason]}" for reason, count in summary["faults"]["counts"].items() if count]
    return lines


def _label(rule: str, thresholds: dict[str, dict[str, Any]]) -> str:
    limits = [f"{name}={value}" for name, value in thresholds.get(rule, {}).items() if value is not None]
    return f"{rule} ({', '.join(limits)})" if limits else rule
