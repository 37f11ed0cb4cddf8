"""Evaluations side by side: a table and a plot of several models' results, one's own and published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillroom.errors import ArtifactError
from stillroom.evaluate.published import PREFIX, find_published, published_notes
from stillroom.evaluate.results import read_results
from stillroom.evaluate.tasks import RETRIEVAL_METRICS

Results = Mapping[str, Mapping[str, Any]]

# What stands for a task in files that do not say it, such as CLIP_benchmark's own.
HEADLINES = (
    *RETRIEVAL_METRICS.values(),
    *(metric.replace("@1", "@5") for metric in RETRIEVAL_METRICS.values()),
    "acc1",
    "mean_average_precision",
    "hit@1",
)
SHOWN = {
    "acc1": "accuracy",
    "acc5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "mean_average_precision": "mAP",
    "mean_average_precision_11_point": "mAP, 11-point",
    "roc_auc": "ROC AUC",
    "vqa_accuracy": "VQA accuracy",
    **{f"image_retrieval_recall@{k}": f"text to image R@{k}" for k in (1, 5, 10)},
    **{f"text_retrieval_recall@{k}": f"image to text R@{k}" for k in (1, 5, 10)},
}
KIND_NAMES = {"vqa": "VQA", "open_vocabulary": "open vocabulary"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one task: a score per model (None where it was not evaluated), and what guessing scores."""

    task: str
    metric: str
    n: int | None
    chance: float | None
    scores: tuple[float | None, ...]
    kind: str = field(default="", compare=False)

    @property
    def best(self) -> tuple[int, ...]:
        """Places of the models with the highest score; none if only one model was evaluated."""
        known = [score for score in self.scores if score is not None]
        return tuple(i for i, score in enumerate(self.scores) if len(known) > 1 and score == max(known))

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each later model's score minus the first one's; None if either is missing."""
        first = self.scores[0]
        return tuple(None if first is None or score is None else score - first for score in self.scores[1:])

    @property
    def difference(self) -> float | None:
        """The last model's score minus the first one's; None if either is missing."""
        return self.differences[-1] if self.differences else None


@dataclass(frozen=True, kw_only=True)
class Wins:
    """On how many of `of` rows a model is ahead of another, and how many are ties."""

    ahead: int
    ties: int
    of: int


def comparison_rows(results: Sequence[Results], metrics: Sequence[str] | None = None) -> list[Row]:
    """Line up the results of several models.

    Args:
        results: for each model, results by data set, as `read_results` gives them.
        metrics: names to list; None lists what stands for a task, as the results say; for files of CLIP_benchmark's own
            accuracy, or recall@1 in both directions (@5 where it has no recall@1).

    Returns:
        Rows sorted by task, in the order of the metrics.

    Raises:
        ArtifactError: one task was evaluated on different data (another number of pictures, or another version).
    """
    rows = []
    for task in sorted({task for result in results for task in result}):
        found = [result.get(task) for result in results]
        _check_comparable(task, found)
        for metric in metrics if metrics is not None else _headlines(found):
            scores = tuple(None if result is None else result["metrics"].get(metric) for result in found)
            if any(score is not None for score in scores):
                rows.append(_row(task, metric, scores, found))
    return rows


Found = Sequence[Mapping[str, Any] | None]


def _row(task: str, metric: str, scores: tuple[float | None, ...], found: Found) -> Row:
    known = [result for result in found if result is not None]
    abouts = [result.get("stillroom", {}) for result in known]
    chances = [about.get("chance", {}).get(metric) for about in abouts]
    return Row(
        task=task,
        metric=metric,
        n=next((about["n"] for about in abouts if about.get("n") is not None), None),
        chance=next((chance for chance in chances if chance is not None), None),
        scores=scores,
        kind=next((about["kind"] for about in abouts if "kind" in about), known[0]["task"].removeprefix("zeroshot_")),
    )


def _headlines(found: Found) -> list[str]:
    known = [result for result in found if result is not None]
    stated = [metric for result in known for metric in result.get("stillroom", {}).get("headline", ())]
    if stated:
        return list(dict.fromkeys(stated))
    names = {metric for result in known for metric in result["metrics"]}
    return [m for m in HEADLINES if m in names and not (m.endswith("@5") and m.replace("@5", "@1") in names)]


def _check_comparable(task: str, found: Found) -> None:
    for key in ("n", "texts", "classes", "questions", "task_version"):
        values = {about[key] for r in found if r is not None and key in (about := r.get("stillroom", {}))}
        if len(values) > 1:
            shown = " and ".join(str(value) for value in sorted(values))
            raise ArtifactError(f"task '{task}' has {key} {shown} in these results: not the same data; evaluate again")


def mean_row(rows: Sequence[Row], kind: str = "") -> Row | None:
    """Return the mean over the rows that every model has, of one kind if one is named; None if there are none."""
    rows = [row for row in rows if not kind or row.kind == kind]
    whole = [row for row in rows if all(score is not None for score in row.scores)]
    if not whole:
        return None
    columns = zip(*(row.scores for row in whole), strict=True)
    means = tuple(sum(score for score in column if score is not None) / len(whole) for column in columns)
    chances = [row.chance for row in whole if row.chance is not None]
    chance = sum(chances) / len(whole) if len(chances) == len(whole) else None
    label = f"mean of {len(whole)} {KIND_NAMES.get(kind, kind)}".rstrip()
    return Row(task=label, metric="", n=None, chance=chance, scores=means, kind=kind)


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the mean of each kind, where there are several, and the mean of all; none for a single row."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    by_kind = [mean_row(rows, kind) for kind in kinds if kind] if len(kinds) > 1 else []
    means = [*by_kind, mean_row(rows)] if len(rows) > 1 else []
    return [mean for mean in means if mean is not None]


def wins(rows: Sequence[Row]) -> list[Wins]:
    """Count, for each model after the first, the rows on which it is ahead of the first, of those that both have."""
    columns = zip(*(row.differences for row in rows), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return [Wins(ahead=sum(v > 0 for v in vs), ties=sum(v == 0 for v in vs), of=len(vs)) for vs in known]


def load(sources: Sequence[Path | str]) -> tuple[list[str], list[dict[str, dict[str, Any]]]]:
    """Read result folders and `published:NAME`; return a short name for each, and their results.

    Raises:
        ArtifactError: a folder without results.
        ConfigError: no published scores of that name.
    """
    names, results = [""] * len(sources), []
    folders: dict[int, Path] = {}
    for place, source in enumerate(sources):
        text = source.as_posix() if isinstance(source, Path) else source
        if text.startswith(PREFIX):
            published = find_published(text.removeprefix(PREFIX))
            names[place] = f"{published.name} (published)"
            results.append(published.results())
        else:
            folders[place] = Path(source)
            results.append(read_results(Path(source)))
    for depth in range(1, 1 + max([0, *(len(folder.resolve().parts) for folder in folders.values())])):
        short = {place: "/".join(folder.resolve().parts[-depth:]) for place, folder in folders.items()}
        names = [short.get(place, name) for place, name in enumerate(names)]
        if len(set(short.values())) == len(short):
            break
    return names, results


def table(rows: Sequence[Row], names: Sequence[str], notes: Sequence[str] = ()) -> Any:
    """Return a rich table in percent, the best score of each row in bold, means and wins below, then the notes."""
    from rich.table import Table
    from rich.text import Text

    caption = Text("\n".join(notes)) if notes else None
    drawn = Table("task", "metric", title="scores in percent", caption=caption, caption_justify="left")
    several = len(names) > 1
    for column in ("n", "chance", *names, *(["difference" if len(names) == 2 else "last - first"] if several else [])):
        drawn.add_column(Text(column), justify="right")
    means = mean_rows(rows)
    for row in [*rows, *means]:
        if means and row is means[0]:
            drawn.add_section()
        cells = [
            Text(_percent(score), style="bold" if place in row.best else "") for place, score in enumerate(row.scores)
        ]
        last = [Text("" if row.difference is None else f"{100 * row.difference:+.1f}")] if several else []
        number = "" if row.n is None else f"{row.n:,}"
        metric = SHOWN.get(row.metric, row.metric)
        drawn.add_row(
            Text(row.task), Text(metric), number, "" if row.chance is None else _percent(row.chance), *cells, *last
        )
    if several and rows:
        drawn.add_section()
        counts = [Text(f"{w.ahead} of {w.of}" + (f", {w.ties} tied" if w.ties else "")) for w in wins(rows)]
        drawn.add_row(Text(f"wins against {names[0]}"), "", "", "", "", *counts, "")
    return drawn


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def compare_folders(
    folders: Sequence[Path | str], plot_path: Path | None = None, metrics: Sequence[str] | None = None
) -> Any:
    """Return the table of several result folders or `published:NAME`, and draw the plot if a path is given.

    Args:
        folders: of `stillroom evaluate`, or `published:NAME`; differences are to the first.
        plot_path: of the plot, see `difference_plot.plot`.
        metrics: as `comparison_rows`.

    Raises:
        ArtifactError: a folder without results, or results of different data.
        ConfigError: an unknown published name, or a plot that cannot be drawn.
    """
    from stillroom.evaluate.difference_plot import plot

    names, results = load(folders)
    rows = comparison_rows(results, metrics)
    if not rows:
        raise ArtifactError("these results share no metric that stillroom knows")
    if plot_path is not None:
        plot(rows, names, plot_path, shown=SHOWN)
    return table(rows, names, published_notes(results))
