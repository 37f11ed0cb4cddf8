"""The filter's part of a page: the funnel, the histograms, and what each reason means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.data.reasons import ADVICE
from stillroom.report.histogram import Threshold, histogram

HISTOGRAMS = (
    ("complexity", "complexity (relations)", "min_complexity", "below"),
    ("actions", "actions (verbs)", "min_actions", "below"),
    ("text_overlap", "characters shared with lettering", "text_overlap", "from"),
)
MEANING = {
    "kept": "passes every rule",
    "unusable": "broken, or without picture or caption",
    "caption_length": "the caption is too short or too long",
    "watermark": "the metadata call a watermark likely",
    "unsafe": "the metadata call the picture unsafe",
    "nsfw": "the metadata mark the picture as not safe for work",
    "similarity": "the metadata say that picture and caption do not fit",
    "picture_size": "the picture's shorter side is too short",
    "aspect_ratio": "the picture is too long for its width, or too wide for its height",
    "language": "the caption is in another language",
    "complexity": "the caption relates too few things",
    "action": "too few verbs act in the caption",
    "text": "the picture spells its caption out",
    "model_similarity": "a model finds that picture and caption do not fit",
    "near_duplicate": "the picture nearly repeats an earlier one",
    "caption_frequency": "enough earlier pairs have the same caption",
}


def meaning(reason: str) -> str:
    """Return what a reason says of a pair, in words."""
    return MEANING.get(reason) or ADVICE.get(reason) or reason.replace("_", " ")


def limits(summary: Mapping[str, Any], rule: str) -> str:
    """Return the thresholds of a rule that are on, as text: "min complexity 1"."""
    there = summary["thresholds"].get(rule, {})
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in there.items() if value is not None)


def funnel_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the funnel's bars: all pairs first, then what each rule leaves and takes, widths in percent of all."""
    total, alone = max(summary["pairs"], 1), summary.get("alone") or {}
    rows = [{"rule": "all pairs", "name": "all pairs", "limits": "", "left": summary["pairs"], "dropped": 0}]
    for step in summary["funnel"]:
        rule, shown = step["rule"], limits(summary, step["rule"])
        name = rule.replace("_", " ") + (f" ({shown})" if shown else "")
        row = {"rule": rule, "name": name, "limits": shown, "left": step["left"], "dropped": step["dropped"]}
        rows.append({**row, "alone": alone.get(rule)})
    for row in rows:
        row.update(width=100 * row["left"] / total, lost=100 * row["dropped"] / total)
    return rows


def histograms(summary: Mapping[str, Any]) -> list[str]:
    """Draw what was measured as SVG, each with its rule's threshold."""
    values = {name: value for rule in summary["thresholds"].values() for name, value in rule.items()}
    drawn = []
    for name, title, option, drops in HISTOGRAMS:
        bars, value = summary["histograms"].get(name), values.get(option)
        if not bars:
            continue
        threshold = None if value is None else Threshold(name=option, value=value, drops=drops)
        lower_bounds = summary["text"]["lower_bounds"] if name == "text_overlap" else 0
        drawn.append(histogram(bars, title, threshold, lower_bounds=lower_bounds))
    return drawn
