"""A histogram of whole numbers as inline SVG, in the colours of the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Values from here on share the last bar (our choice).
TAIL = 20
MOST_COUNTS = 12
WIDTH, HEIGHT = 360, 206
LEFT, RIGHT, TOP, BOTTOM = 40, 352, 40, 168


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A rule's limit: its name, and which side of it is dropped."""

    name: str
    value: int
    drops: str  # "below", or "from" the value on

    @property
    def fails(self) -> str:
        """The values that are dropped, as text."""
        if self.drops == "from":
            return f"≥ {self.value}"
        return f"< {self.value}" if self.value else "none"

    def dropped(self, value: int) -> bool:
        """Whether a measured value fails."""
        return value < self.value if self.drops == "below" else value >= self.value


def histogram(
    bars: Sequence[Mapping[str, int]], title: str, threshold: Threshold | None, *, lower_bounds: int = 0
) -> str:
    """Draw counts of whole values on a log axis, with a dashed line at the threshold.

    Args:
        bars: {"value", "pairs"}, in any order, at least one.
        title: what is counted, as text.
        threshold: of the rule that reads the value, or None if it is off.
        lower_bounds: how many of the values that fail are lower bounds; their bars are then hatched.
    """
    counts, cut = _binned(bars)
    step = (RIGHT - LEFT) / len(counts)
    decades = math.log10(max(*counts, 10)) + 1
    parts = [_grid(decades)]
    for value, pairs in enumerate(counts):
        tail = cut and value == len(counts) - 1
        name = f"{value}+" if tail else str(value)
        middle = LEFT + (value + 0.5) * step
        if len(counts) <= MOST_COUNTS or tail or (value % 2 == 0 and not (cut and value == len(counts) - 2)):
            parts.append(svg_text(middle, BOTTOM + 15, name))
        if pairs:
            failed = threshold is not None and threshold.dropped(value)
            look = ("drop hatched" if lower_bounds else "drop") if failed else "keep"
            height = (math.log10(pairs) + 1) / decades * (BOTTOM - TOP)
            parts.append(_bar(middle, height, 0.84 * step, look, f"{title} {name}: {pairs:,} pairs"))
            if len(counts) <= MOST_COUNTS:
                parts.append(svg_text(middle, BOTTOM - height - 4, compact(pairs), "count"))
    parts.append(svg_text((LEFT + RIGHT) / 2, HEIGHT - 6, title))
    if threshold is not None:
        parts.append(_line(threshold, len(counts), step))
    label = html.escape(f"Histogram of {title}")
    hatch = (
        '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="drop" width="5" height="5"/><rect class="gap" width="1.6" height="5"/></pattern></defs>'
    )
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{hatch if lower_bounds else ''}{''.join(parts)}</svg>"
    )


def _binned(bars: Sequence[Mapping[str, int]]) -> tuple[list[int], bool]:
    """Return the pairs of the values 0, 1, ...; the last one stands for itself and all above if the tail was cut."""
    top = max(bar["value"] for bar in bars)
    counts = [0] * (min(top, TAIL) + 1)
    for bar in bars:
        counts[min(bar["value"], TAIL)] += bar["pairs"]
    return counts, top > TAIL


def compact(number: int) -> str:
    """Return a count in at most five characters: 950, 1.2k, 15k, 3.4M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2g}{unit}" if number < 9.95 * size else f"{number // size}{unit}"
    return str(number)


def _grid(decades: float) -> str:
    lines = []
    for power in range(int(decades)):
        y = BOTTOM - (power + 1) / decades * (BOTTOM - TOP)
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        lines.append(svg_text(LEFT - 5, y + 3, compact(10**power), "end"))
    return "".join(lines) + f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>'


def _bar(middle: float, height: float, width: float, look: str, told: str) -> str:
    return (
        f'<rect class="{look}" x="{middle - width / 2:.1f}" y="{BOTTOM - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"><title>{html.escape(told)}</title></rect>'
    )


def _line(threshold: Threshold, bars: int, step: float) -> str:
    """Draw the line between the last value that passes and the first that fails, or the other way round."""
    beyond = threshold.value > bars
    x = LEFT + min(threshold.value, bars) * step
    side = "start" if x < (LEFT + RIGHT) / 2 else "end"
    told = f"{threshold.name} {threshold.value}: {threshold.fails} dropped" + (" →" if beyond else "")
    shift = 4 if side == "start" else -4
    return f'<path class="limit" d="M{x:.1f} 14V{BOTTOM}"/>' + svg_text(x + shift, 22, told, f"limit-name {side}")


def svg_text(x: float, y: float, text: str, look: str = "") -> str:
    """Return a text element; `look` are classes of the style sheet."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{look}">{html.escape(text)}</text>'
