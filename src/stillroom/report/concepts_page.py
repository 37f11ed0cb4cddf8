"""Write a concepts output's own page: vocabulary, how well it is found, pictures of both; one file without links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom import __version__
from stillroom.artifacts import StageOutput, open_stage, write_bytes
from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.join import KINDS, load_pseudo_labels
from stillroom.concepts.labels import load_heads
from stillroom.concepts.steps import FEATURES, PARSED
from stillroom.concepts.vocabulary import read_vocabulary
from stillroom.config_io import build
from stillroom.report.concept_candidates import STRIPS
from stillroom.report.concept_pairs import (
    SHOWN,
    Gathered,
    LabelledPair,
    Pair,
    Place,
    Source,
    chosen_samples,
    folded_caption,
    gather,
    read_pairs,
)
from stillroom.report.concept_rows import ALL_EXAMPLES, LEAST_HELD_OUT, SORTS, ConceptRow, choose, concept_rows
from stillroom.report.pictures import pictures_of_run
from stillroom.report.quality_plots import calibration_plot, recall_plot
from stillroom.report.samples import preferred_shards
from stillroom.report.template import fill

SCRIPTS = ("cards.js", "table.js")
MOST_ROWS = 10_000
SIDE = 112
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A pair in a strip.

    `share` is the concept's probability divided by that of the pair's labels together, in percent, None if it is not
    known; `label` says whether the concept is one of them.
    """

    pair: Pair
    share: float | None
    label: bool


@dataclass(frozen=True, kw_only=True)
class ConceptCard:
    """A concept with its strips, and the sorts of concept it stands for."""

    row: ConceptRow
    sorts: Sequence[str]
    strips: Mapping[str, Sequence[Shown]]


def write_concepts_page(out: Path) -> Path:
    """Make `out/report.html` of a finished concepts output and return its path.

    Of many shards a few are read, for captions and labels and for pictures (`samples.preferred_shards`), so the page
    takes a time that does not grow with the data. If DATA cannot be opened any more, the page is written without
    pictures and says so.

    Raises:
        ArtifactError: `out` is no finished concepts output, its tables cannot be read or were changed afterwards.
    """
    labels = load_pseudo_labels(out)
    output = labels.stage
    features = open_stage(out / "features", FEATURES) if (out / "features").exists() else None
    source = Source(
        labels=output,
        kinds=tuple(labels.names),
        features=features,
        heads={} if features is None else load_heads(out / "heads.safetensors"),
        parsed=open_stage(out / "parsed", PARSED),
        vocabularies={kind: read_vocabulary(out / f"{kind}.csv") for kind in KINDS},
        config=build(ConceptsConfig, output.run["config"], source=str(out / "run.json")),
        seed=SEED,
    )
    rows = {kind: concept_rows(out, kind) for kind, vocabulary in source.vocabularies.items() if vocabulary}
    gathered = gather(source, preferred_shards(output.shards, SEED))
    cards = _cards(source, gathered, rows)
    samples = chosen_samples(gathered.samples)
    pairs = [shown.pair for card in cards for strip in card.strips.values() for shown in strip]
    wanted = {(pair.shard, pair.key) for pair in [*pairs, *(sample.pair for sample in samples)]}
    pictures, problem = pictures_of_run(output, sorted(wanted), SIDE)
    context = {
        **_context(output, rows, gathered, cards, samples),
        "pictures": pictures,
        "ranked": features is not None,
        "notice": problem or _notice(output.shards, gathered.shards),
    }
    path = out / "report.html"
    # A path that is no UTF-8 reaches the page as lone surrogates.
    page = fill("concepts_page.html.j2", context, SCRIPTS)
    write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def _context(
    output: StageOutput,
    rows: Mapping[str, Sequence[ConceptRow]],
    gathered: Gathered,
    cards: Sequence[ConceptCard],
    samples: Sequence[LabelledPair],
) -> dict[str, Any]:
    summary = output.summary
    heads = {kind: summary["heads"][kind] for kind in rows if kind in summary["heads"]}
    sorts = list(dict.fromkeys(sort for kind in SORTS.values() for sort in kind))
    return {
        "version": __version__,
        "data": output.run["inputs"]["data"],
        "summary": summary,
        "faults": sum(summary["faults"].values()),
        "rows": {kind: found[:MOST_ROWS] for kind, found in rows.items()},
        "all_examples": ALL_EXAMPLES,
        "sizes": {kind: len(found) for kind, found in rows.items()},
        "heads": heads,
        **_plots(rows, heads, summary["top_k"]),
        "measured": any(row.training is not None for found in rows.values() for row in found),
        "groups": {kind: [card for card in cards if card.row.kind == kind] for kind in rows},
        "chips": [(sort, sum(sort in card.sorts for card in cards)) for sort in sorts],
        "cards": len(cards),
        "least_held_out": LEAST_HELD_OUT,
        "samples": samples,
        "named_mass": {kind: mass / pairs for kind, (mass, pairs) in gathered.mass.items() if pairs},
        "read": gathered.pairs,
    }


def _plots(rows: Mapping[str, Sequence[ConceptRow]], heads: Mapping[str, Any], top_k: int) -> dict[str, Any]:
    recalls = [recall_plot(found, kind, top_k) for kind, found in rows.items()]
    calibrations = {kind: report.get("calibration") for kind, report in heads.items()}
    return {
        "recall_plots": [plot for plot in recalls if plot],
        "calibrations": [
            {"kind": kind, "ece": found["ece"], "plot": calibration_plot(found, kind)}
            for kind, found in calibrations.items()
            if found
        ],
    }


def _cards(source: Source, gathered: Gathered, rows: Mapping[str, Sequence[ConceptRow]]) -> list[ConceptCard]:
    """Choose concepts and, of their candidates, the first few with different captions."""
    chosen = []
    for kind, strips in gathered.strips.items():
        seen = set(strips["hardest"]["concept"].tolist())
        for row, sorts in choose(rows[kind], seen, SEED):
            places = {strip: _places(strips[strip], row.place, gathered.shards) for strip in STRIPS}
            chosen.append((row, sorts, places))
    wanted: dict[str, set[int]] = {}
    for _, _, places in chosen:
        for (shard, number), *_ in (found for strip in places.values() for found in strip):
            wanted.setdefault(shard, set()).add(number)
    pairs = read_pairs(source, gathered.shards, wanted)
    return [
        ConceptCard(row=row, sorts=sorts, strips={strip: _strip(found, pairs) for strip, found in places.items()})
        for row, sorts, places in chosen
    ]


def _places(candidates: Any, concept: int, shards: Sequence[str]) -> list[tuple[Place, float | None, bool]]:
    """Return places, shares in percent and whether it is a label, of a concept's candidates."""
    start, stop = candidates["concept"].searchsorted([concept, concept + 1])
    found = candidates[start:stop]
    shares = [100 * share if share > 0 else None for share in found["share"].tolist()]
    places = [(shards[shard], row) for shard, row in zip(found["shard"].tolist(), found["row"].tolist(), strict=True)]
    return list(zip(places, shares, found["label"].tolist(), strict=True))


def _strip(found: Sequence[tuple[Place, float | None, bool]], pairs: Mapping[Place, Pair]) -> list[Shown]:
    shown: dict[str, Shown] = {}
    for place, share, label in found:
        pair = pairs[place]
        shown.setdefault(folded_caption(pair.caption), Shown(pair=pair, share=share, label=label))
    return list(shown.values())[:SHOWN]


def _notice(shards: Sequence[str], read: Sequence[str]) -> str | None:
    if len(read) >= len(shards):
        return None
    return f"They come from {len(read)} of the {len(shards):,} shards, so that this page is soon made."
