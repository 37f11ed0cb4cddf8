"""Write the demo's page: read the stages' outputs, fill the template, one file without any link to elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillroom import __version__, load_model
from stillroom.artifacts import open_stage, read_json, write_bytes
from stillroom.data import DataConfig, open_data
from stillroom.evaluate.compare import SHOWN, comparison_rows, mean_row
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.results import read_results
from stillroom.probe.plot import curve_figure
from stillroom.report.charts import score_bars, svg, training_curves
from stillroom.report.filtering import funnel_rows, histograms
from stillroom.report.labels import frequent, labelled
from stillroom.report.pictures import thumbnails
from stillroom.report.samples import examples
from stillroom.report.search import search
from stillroom.report.template import fill


def write_report(
    out: Path,
    *,
    data: str,
    reader: DataConfig,
    data_root: Path,
    models: Sequence[str],
    metrics: Sequence[str],
    search_task: str,
    seed: int,
) -> Path:
    """Make `out/index.html` of the outputs below `out` and return its path.

    Args:
        out: the demo's folder: filter/, concepts/, train/MODEL/, evaluate/MODEL/, probe/ and check.json.
        data: DATA of the run, for the pictures.
        reader: how it was read.
        data_root: folder that the tasks' paths are relative to.
        models: names of the runs, the baseline first.
        metrics: that stand for the tasks, in this order.
        search_task: retrieval task whose pictures the text queries search.
        seed: of the examples drawn.
    """
    page = render(
        {
            "version": __version__,
            "check": read_json(out / "check.json"),
            "data": [Path(part).parent.name for part in data.split("::")],
            **_filter_part(out / "filter", seed),
            **_concepts_part(out, seed),
            **_scores_part(out / "evaluate", models, metrics),
            "curves": training_curves({name: out / "train" / name for name in models}),
            "runs": {name: read_json(out / "train" / name / "summary.json") for name in models},
            "queries": _search_part(out, data_root, models, search_task),
            "search_task": search_task,
            **_probe_part(out / "probe"),
        },
        data=data,
        reader=reader,
    )
    write_bytes(out / "index.html", page.encode())
    return out / "index.html"


def render(context: dict[str, Any], *, data: str, reader: DataConfig) -> str:
    """Fill the template, with the pictures of the pairs that it shows."""
    places = [(card.shard, card.key) for card in context["cards"]] + [card["place"] for card in context["labelled"]]
    return fill("page.html.j2", {**context, "pictures": thumbnails(open_data(data, reader), places)})


def _filter_part(folder: Path, seed: int) -> dict[str, Any]:
    output = open_stage(folder, "filter")
    summary = output.summary
    return {
        "funnel": funnel_rows(summary),
        "filter": summary,
        "cards": examples(output, seed),
        "histograms": histograms(summary),
    }


def _concepts_part(out: Path, seed: int) -> dict[str, Any]:
    output = open_stage(out / "concepts", "concepts")
    captions = {
        (shard, row["key"]): row["caption"] or ""
        for shard, table in open_stage(out / "filter", "filter").tables(["key", "caption"])
        for row in table.to_pylist()
    }
    return {
        "concepts": output.summary,
        "frequent": {kind: frequent(out / "concepts" / f"{kind}.csv") for kind in ("objects", "attributes")},
        "labelled": labelled(output, captions, seed),
    }


def _scores_part(folder: Path, models: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    rows = comparison_rows([read_results(folder / name) for name in models], metrics)
    return {
        "scores": [
            {
                "task": row.task.replace("_", " "),
                "metric": SHOWN.get(row.metric, row.metric),
                "n": row.n,
                "chance": row.chance,
                "scores": [{"value": score, "best": place in row.best} for place, score in enumerate(row.scores)],
            }
            for row in rows
        ],
        "mean": mean_row(rows),
        "bars": score_bars(rows, models, {row.metric: SHOWN.get(row.metric, row.metric) for row in rows}),
        "models": list(models),
    }


def _search_part(out: Path, data_root: Path, models: Sequence[str], task: str) -> list[dict[str, Any]]:
    config = EvaluateConfig(data_root=str(data_root), cache=str(out / "embeddings"), batch_size=256)
    loaded: Mapping[str, Any] = {name: load_model(str(out / "train" / name)) for name in models}
    return search(loaded, task, config)


def _probe_part(folder: Path) -> dict[str, Any]:
    curve = read_json(folder / "curve.json")
    return {"probe": curve, "few_shot": svg(curve_figure(curve["points"], chance=curve["chance"]))}
