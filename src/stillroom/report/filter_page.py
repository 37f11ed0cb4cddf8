"""Write a filter output's own page: the funnel, what was measured, and samples by reason, one file without links."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from stillroom import __version__
from stillroom.artifacts import StageOutput, open_stage, write_bytes
from stillroom.report.example import Example
from stillroom.report.filtering import funnel_rows, histograms, limits, meaning
from stillroom.report.pictures import pictures_of_run
from stillroom.report.samples import KEPT, Draw, draw, opened_shards, read_examples, tag_order
from stillroom.report.template import fill

# With the size limits of pictures and texts this keeps the page below about 6 MB (our choice).
PER_REASON = 24
SIDE = 200
SEED = 0


def write_filter_page(out: Path) -> Path:
    """Make `out/report.html` of a finished filter output and return its path.

    The verdicts are read shard by shard; DATA is opened again for the samples' pictures, of which at most
    `DRAWN_SHARDS + FILL_SHARDS` shards are read (see `stillroom.report.samples`). If DATA cannot be opened any more,
    the page is written without pictures and says so.

    Raises:
        ArtifactError: `out` is no finished filter output, or its tables cannot be read.
    """
    output = open_stage(out, "filter")
    drawn = draw(output, seed=SEED, per_reason=PER_REASON)
    found = read_examples(output, drawn)
    opened = opened_shards(found, drawn.shards)
    pictures, problem = _pictures(output, found, opened)
    path = out / "report.html"
    context = {
        **_context(output, drawn, found),
        "pictures": pictures,
        "missing": lambda card: _missing(card, opened, problem=problem),
        "notice": problem or _notice(output.shards, opened),
    }
    # A path that is no UTF-8 reaches the page as lone surrogates.
    write_bytes(path, fill("filter_page.html.j2", context).encode("utf-8", "backslashreplace"))
    return path


def _context(output: StageOutput, drawn: Draw, found: Sequence[Example]) -> dict[str, Any]:
    summary, config = output.summary, output.run["config"]
    told = {tag: _told(output, tag) for tag in drawn.counts}
    groups = [
        {"tag": tag, "told": told[tag], "cards": list(cards)} for tag, cards in groupby(found, lambda card: card.tag)
    ]
    carried = {tag: sum(tag in (card.reasons or (KEPT,)) for card in found) for tag in drawn.counts}
    order = tag_order(summary, drawn.counts)
    return {
        "version": __version__,
        "data": output.run["inputs"]["data"],
        "summary": summary,
        "thresholds": {rule: limits(summary, rule) for rule in summary["thresholds"]},
        "faults": sum(summary["faults"]["counts"].values()),
        "funnel": funnel_rows(summary),
        "histograms": histograms(summary),
        "measure_all": bool(config.get("measure_all")),
        "per_reason": PER_REASON,
        "chips": [
            {"tag": tag, "told": told[tag], "pairs": drawn.counts[tag], "samples": carried[tag]} for tag in order
        ],
        "groups": groups,
        "samples": len(found),
    }


def _told(output: StageOutput, tag: str) -> str:
    shown = limits(output.summary, tag)
    return meaning(tag) + (f" ({shown})" if shown else "")


def _pictures(
    output: StageOutput, found: Sequence[Example], opened: set[str]
) -> tuple[dict[tuple[str, str], str], str | None]:
    """Return the pictures of the samples in the opened shards, or none and why DATA cannot be read."""
    wanted = {(card.shard, card.key) for card in found if card.usable}
    wanted |= {card.original for card in found if card.usable and card.original is not None}
    return pictures_of_run(output, [(shard, key) for shard, key in sorted(wanted) if shard in opened], SIDE)


def _notice(shards: Sequence[str], opened: set[str]) -> str | None:
    if len(opened) >= len(shards):
        return None
    return f"Pictures come from {len(opened)} of the {len(shards):,} shards, so that this page is soon made."


def _missing(card: Example, opened: set[str], *, problem: str | None) -> str:
    """Return what stands in place of a picture that is not there."""
    if problem is not None:
        return ""
    return "the picture cannot be read" if card.shard in opened else "its shard was not opened for pictures"
