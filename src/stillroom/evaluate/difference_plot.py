"""Plots of a comparison: differences per task, sorted, as in Figure 1 of DiHT; plain scores for a single model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.artifacts import write_bytes
from stillroom.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.evaluate.compare import Row

AHEAD, BEHIND = "#2b7bba", "#d9663b"
FORMATS = ("svg", "png", "pdf")
ROW_INCHES = 0.27


def plot(rows: Sequence[Row], names: Sequence[str], path: Path, *, shown: Mapping[str, str]) -> None:
    """Draw each later model's difference to the first, or the scores of a single model with ticks at chance level.

    Args:
        rows: one per bar, as `comparison_rows` gives them.
        names: of the models.
        path: ends in .svg, .png or .pdf.
        shown: metric -> what to call it.

    Raises:
        ConfigError: another ending, or nothing in common to draw.
    """
    from matplotlib.figure import Figure

    form = path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise ConfigError(f"cannot draw '{path}'; a plot ends in .svg, .png or .pdf")
    drawn = sorted_rows(rows) if len(names) > 1 else list(rows)
    if not drawn:
        raise ConfigError(f"cannot draw '{path}': no task has scores of '{names[0]}' and of another")
    panels = max(1, len(names) - 1)
    figure = Figure(figsize=(3.2 + 4.2 * panels, 1.0 + ROW_INCHES * len(drawn)), layout="constrained")
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    if len(names) == 1:
        _scores(axes[0], drawn, names[0])
    else:
        for place, panel in enumerate(axes, start=1):
            _differences(panel, drawn, place, names)
        every = [100 * value for row in drawn for value in row.differences if value is not None]
        _tidy(axes, min([0.0, *every]), max([0.0, *every]))
    labels = [f"{row.task}, {shown.get(row.metric, row.metric)}" for row in drawn]
    axes[0].set_yticks(range(len(drawn)), labels, fontsize=8)
    axes[0].set_ylim(len(drawn) - 0.4, -0.6)
    sink = io.BytesIO()
    figure.savefig(sink, format=form, dpi=150)
    write_bytes(path, sink.getvalue())


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a difference to draw, the largest of the last model's first, those it lacks at the end."""
    drawn = [row for row in rows if any(value is not None for value in row.differences)]
    return sorted(drawn, key=lambda row: -row.differences[-1] if row.differences[-1] is not None else float("inf"))


def _differences(axes: Any, rows: Sequence[Row], place: int, names: Sequence[str]) -> None:
    values = [row.differences[place - 1] for row in rows]
    known = [100 * value for value in values if value is not None]
    colours = [AHEAD if value is not None and value >= 0 else BEHIND for value in values]
    bars = axes.barh(range(len(rows)), [100 * (value or 0.0) for value in values], height=0.72, color=colours)
    axes.bar_label(bars, labels=[_signed(value) for value in values], padding=3, fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    ahead = sum(value > 0 for value in known)
    axes.set_title(f"{names[place]}\nahead on {ahead} of {len(known)}", fontsize=9)
    axes.set_xlabel(f"difference to {names[0]}, points", fontsize=8)
    for index, row in enumerate(rows):  # both scores at the right edge
        first, own = row.scores[0], row.scores[place]
        if first is not None and own is not None:
            text = f"{100 * first:.1f} \N{RIGHTWARDS ARROW} {100 * own:.1f}"
            axes.annotate(
                text, (1.01, index), xycoords=("axes fraction", "data"), va="center", fontsize=7, color="dimgray"
            )


def _scores(axes: Any, rows: Sequence[Row], name: str) -> None:
    values = [100 * (row.scores[0] or 0.0) for row in rows]
    bars = axes.barh(range(len(rows)), values, height=0.72, color=AHEAD)
    axes.bar_label(bars, labels=[f"{value:.1f}" for value in values], padding=3, fontsize=8)
    for index, row in enumerate(rows):
        if row.chance is not None:
            axes.plot([100 * row.chance] * 2, [index - 0.42, index + 0.42], color="black", linewidth=1.5)
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("score, percent; black: chance", fontsize=8)
    _tidy([axes], 0.0, max([*values, *(100 * (row.chance or 0.0) for row in rows)]))


def _tidy(panels: Sequence[Any], low: float, high: float) -> None:
    room = 0.16 * ((high - low) or 1.0)  # for the numbers behind the bars
    for axes in panels:
        axes.set_xlim(low - room if low < 0 else 0.0, high + room if high > 0 or low == 0 else 0.0)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"
