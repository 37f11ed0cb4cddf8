"""The few-shot curve as a picture: accuracy against shots, from zero-shot on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, told apart with every kind of colour vision; markers serve print in grey.
STYLES: dict[str, tuple[str, str, str]] = {
    "prompt_probe": ("DiHT probe", "#0072B2", "o"),
    "prompt_penalty": ("L2 penalty to prompts", "#56B4E9", "v"),
    "interpolation": ("zero-shot/probe interpolation", "#009E73", "s"),
    "cache_model": ("cache model (Tip-Adapter)", "#E69F00", "D"),
    "logistic_regression": ("logistic regression from scratch", "#D55E00", "^"),
}
FROM_SCRATCH = "logistic_regression"  # knows nothing of the prompts, so its line does not start at zero-shot
GREY = "#555555"


def curve_figure(points: Sequence[Mapping[str, Any]], *, title: str = "", chance: float | None = None) -> Figure:
    """Draw the records of `few_shot_curve`.

    Args:
        points: one per method and number of shots, zero-shot among them with 0 shots.
        title: above the plot.
        chance: accuracy of guessing, named below the axis.

    Returns:
        A figure of 7 x 4.4 inches: a line per method with a band of one standard deviation over draws.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    _draw_curve(axes, points, title, chance)
    axes.set_ylabel("accuracy on the test pictures, %")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], frameon=False, fontsize=9, loc="best")
    return figure


def curve_bytes(
    points: Sequence[Mapping[str, Any]],
    kind: Literal["svg", "png"],
    *,
    title: str = "",
    chance: float | None = None,
) -> bytes:
    """Return the drawn curve as an SVG or PNG file; equal points give equal bytes."""
    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "stillroom", "svg.fonttype": "none"}):
        figure = curve_figure(points, title=title, chance=chance)
        if kind == "svg":
            figure.savefig(sink, format="svg", metadata={"Date": None})
        else:
            figure.savefig(sink, format="png", dpi=160, metadata={"Software": None})
    return sink.getvalue()


def _draw_curve(axes: Axes, points: Sequence[Mapping[str, Any]], title: str, chance: float | None) -> None:
    zero = next(point["accuracy"] for point in points if point["method"] == "zero_shot")
    shots = sorted({point["shots"] for point in points if point["shots"] > 0})
    origin = shots[0] / 2 if shots else 0.5  # a log axis has no 0: zero-shot stands one doubling before the first
    axes.axhline(100 * zero, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    # the probe is drawn last, on top, and listed first
    for method in reversed(STYLES):
        own = sorted((p for p in points if p["method"] == method), key=lambda p: p["shots"])
        if own:
            _draw_method(axes, method, own, None if method == FROM_SCRATCH else (origin, zero))
    axes.plot(
        [origin], [100 * zero], marker="*", markersize=13, color="#000000", linestyle="", zorder=6, label="zero-shot"
    )
    # as words: a line so far below would take most of the plot's height
    guess = "" if chance is None else f"; chance {100 * chance:.3g}%"
    axes.set_xlabel(f"pictures per class (0: zero-shot{guess})")
    _style(axes, [origin, *shots], ["0", *map(str, shots)], title)


def _draw_method(
    axes: Axes, method: str, points: Sequence[Mapping[str, Any]], start: tuple[float, float] | None
) -> None:
    label, color, marker = STYLES[method]
    places = [p["shots"] for p in points]
    means = [100 * p["accuracy"] for p in points]
    spreads = [100 * p["spread"] for p in points]
    front = method == "prompt_probe"
    order = 5 if front else 3
    if start is not None:
        places, means, spreads = [start[0], *places], [100 * start[1], *means], [0.0, *spreads]
    low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(places, low, high, color=color, alpha=0.2 if front else 0.1, linewidth=0, zorder=order - 1)
    marked = list(range(0 if start is None else 1, len(places)))
    axes.plot(
        places,
        means,
        color=color,
        marker=marker,
        markevery=marked,
        markersize=5.5,
        linewidth=2.4 if front else 1.5,
        zorder=order,
        label=label,
    )


def _style(axes: Axes, ticks: Sequence[float], labels: Sequence[str], title: str) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
