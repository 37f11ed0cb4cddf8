"""Plots of how good a head is, as inline SVG: recall by frequency, and calibration."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillroom.report.concept_rows import ConceptRow
from stillroom.report.histogram import compact, svg_text

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 338, 12, 204
# Concepts drawn as points, those with the most held-out pictures; the line is of all.
MOST_POINTS = 600
# Smaller probabilities are not drawn: they are not among the ten labels of any picture that shows anything.
SMALLEST = 1e-3
# Bins of fewer pairs that the caption names are drawn hollow: their place is mostly chance.
FEW = 20


def recall_plot(rows: Sequence[ConceptRow], title: str, top_k: int) -> str | None:
    """Draw recall against the number of training pictures, log; None if no concept was measured.

    A point is a concept, its area the number of held-out pictures; the line joins the recalls of all pairs of
    concepts that are equally frequent within a factor of two.
    """
    measured = [row for row in rows if row.recall is not None and row.training is not None and row.held_out]
    if not measured:
        return None
    counts = [max(row.training or 0, 1) for row in measured]
    low, high = math.log10(min(counts) / 1.15), math.log10(max(counts) * 1.15)

    def x(count: float) -> float:
        return LEFT + (math.log10(count) - low) / (high - low) * (RIGHT - LEFT)

    def y(recall: float) -> float:
        return BOTTOM - recall * (BOTTOM - TOP)

    parts = [_line_y(y(share / 4), f"{25 * share}%") for share in range(5)]
    parts += [_line_x(x(tick), compact(tick)) for tick in _ticks(10**low, 10**high)]
    for row in sorted(measured, key=lambda row: (-(row.held_out or 0), row.place))[:MOST_POINTS]:
        area = min(1.6 + math.sqrt(row.held_out or 0) / 2.5, 7)
        told = f"{row.name}: recall {100 * (row.recall or 0):.0f}% of {row.held_out:,}, {row.training:,} in training"
        parts.append(_dot(x(max(row.training or 0, 1)), y(row.recall or 0), area, "point", told))
    line = [(x(count), y(recall)) for count, recall in pooled_recall(measured)]
    parts.append(_path(line, "trend"))
    parts.append(svg_text((LEFT + RIGHT) / 2, HEIGHT - 8, f"training pictures that name it ({title})"))
    return _svg(f"Recall at {top_k} of {title} by frequency", parts)


def pooled_recall(rows: Sequence[ConceptRow]) -> list[tuple[float, float]]:
    """Return (geometric mean of the frequencies, recall over all held-out pairs) for each factor of two."""
    groups: dict[int, list[ConceptRow]] = {}
    for row in rows:
        if row.recall is not None and row.held_out:
            groups.setdefault(max(row.training or 0, 1).bit_length(), []).append(row)
    found = []
    for _, group in sorted(groups.items()):
        middle = math.exp(sum(math.log(max(row.training or 0, 1)) for row in group) / len(group))
        pairs = sum(row.held_out or 0 for row in group)
        found.append((middle, sum((row.recall or 0) * (row.held_out or 0) for row in group) / pairs))
    return found


def calibration_plot(calibration: Mapping[str, Any], title: str) -> str:
    """Draw the mean target against the mean probability of each bin, both log, with the diagonal.

    Args:
        calibration: of `stillroom.concepts.quality.calibration`.
        title: the kind of concept.
    """

    def x(value: float) -> float:
        return LEFT + (1 - math.log10(max(value, SMALLEST)) / math.log10(SMALLEST)) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return BOTTOM - (1 - math.log10(max(value, SMALLEST)) / math.log10(SMALLEST)) * (BOTTOM - TOP)

    shares = (0.001, 0.01, 0.1, 1.0)
    parts = [_line_y(y(share), f"{100 * share:g}%") for share in shares]
    parts += [_line_x(x(share), f"{100 * share:g}%") for share in shares]
    parts.append(f'<path class="diagonal" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>')
    drawn = [part for part in calibration["bins"] if part["from"] > 0]
    parts.append(_path([(x(part["probability"]), y(part["target"])) for part in drawn], "curve"))
    for part in drawn:
        few = part["named"] * part["pairs"] < FEW
        told = (
            f"{part['pairs']:,} pairs: predicted {_percent(part['probability'])}, target {_percent(part['target'])}, "
            f"named in {_percent(part['named'])}"
        )
        parts.append(_dot(x(part["probability"]), y(part["target"]), 4, "hollow" if few else "solid", told))
    parts.append(svg_text((LEFT + RIGHT) / 2, HEIGHT - 8, f"predicted probability ({title})"))
    return _svg(f"Calibration of {title}", parts)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _ticks(low: float, high: float) -> Iterator[int]:
    """Yield 1, 2, 5 and their decades between two values; decades only where these would be many."""
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    for power in range(12):
        yield from (step * 10**power for step in steps if low <= step * 10**power <= high)


def _line_x(x: float, name: str) -> str:
    return f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>' + svg_text(x, BOTTOM + 15, name)


def _line_y(y: float, name: str) -> str:
    return f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>' + svg_text(LEFT - 5, y + 3, name, "end")


def _path(points: Sequence[tuple[float, float]], look: str) -> str:
    return f'<path class="{look}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>' if points else ""


def _dot(x: float, y: float, radius: float, look: str, told: str) -> str:
    return (
        f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{html.escape(told)}</title></circle>'
    )


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
