"""Plots of the page as inline SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito: told apart with every kind of colour vision.
COLORS = ("#8a8f98", "#0072B2", "#D55E00", "#009E73")
# With all of them None matplotlib writes no metadata, whose addresses would be the only ones on the page.
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
TERMS = {"contrastive": "contrastive loss", "objects": "object distillation", "attributes": "attribute distillation"}


def svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element; equal figures give equal text."""
    import matplotlib

    sink = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "stillroom", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(sink, format="svg", metadata=NO_METADATA, transparent=True)
    text = sink.getvalue()
    return text[text.index("<svg") :]


def training_curves(runs: Mapping[str, Path]) -> str:
    """Draw each loss term over samples, a panel a term and a line a run, from the runs' `metrics.jsonl`."""
    from matplotlib.figure import Figure

    rows = {name: _read_log(path / "metrics.jsonl") for name, path in runs.items()}
    panels = [term for term in TERMS if any(term in log[-1] for log in rows.values() if log)]
    figure = Figure(figsize=(3.3 * len(panels), 2.7), layout="constrained")
    for axes, term in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for color, (name, log) in zip(COLORS, rows.items(), strict=False):
            if log and term in log[-1]:
                axes.plot([row["samples"] / 1000 for row in log], [row[term] for row in log], color=color, label=name)
        axes.set_title(TERMS[term], fontsize=10)
        axes.set_xlabel("thousand samples")
        axes.spines[["top", "right"]].set_visible(False)
        if term == panels[0]:
            axes.legend(frameon=False, fontsize=9)
    return svg(figure)


def _read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score_bars(rows: Sequence[Any], names: Sequence[str], labels: Mapping[str, str]) -> str:
    """Draw scores in percent, a group of bars a row of `comparison_rows`, a tick at chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 0.8 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        ys = [index + (place - (len(names) - 1) / 2) * height for index in range(len(rows))]
        scores = [100 * (row.scores[place] or 0) for row in rows]
        bars = axes.barh(ys, scores, height=0.9 * height, color=COLORS[place], label=name)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    for index, row in enumerate(rows):
        if row.chance is not None:
            reach = [index - 0.42, index + 0.42]
            axes.plot(
                [100 * row.chance] * 2, reach, color="black", linewidth=1.6, label="chance" if index == 0 else None
            )
    axes.set_yticks(
        range(len(rows)), [f"{row.task.replace('_', ' ')}, {labels[row.metric]}" for row in rows], fontsize=9
    )
    axes.invert_yaxis()
    axes.set_xlabel("percent")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return svg(figure)
