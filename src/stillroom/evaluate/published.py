"""Scores that others published, as rows to compare one's own results with; the numbers are in `published.yaml`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import ConfigError

PREFIX = "published:"
# Metric -> kind of task; the first of a kind stands for its tasks, both directions do for retrieval.
KINDS = {
    "acc1": "classification",
    "image_retrieval_recall@1": "retrieval",
    "text_retrieval_recall@1": "retrieval",
    "hit@1": "open_vocabulary",
    "hit@5": "open_vocabulary",
    "hit@10": "open_vocabulary",
}
_STANDING = ("acc1", "image_retrieval_recall@1", "text_retrieval_recall@1", "hit@1")


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """What one source says about one model.

    Attributes:
        name: of the model.
        source: title and URL of where the scores are published.
        note: what is known to differ from how stillroom scores.
        scores: task -> metric -> fraction in [0, 1].
    """

    name: str
    source: str
    note: str
    scores: Mapping[str, Mapping[str, float]]

    def results(self) -> dict[str, dict[str, Any]]:
        """Return the scores as results by task, in the schema of `results.make_result`, without counts or chance."""
        return {task: self._result(task, metrics) for task, metrics in self.scores.items()}

    def _result(self, task: str, metrics: Mapping[str, float]) -> dict[str, Any]:
        architecture, _, tag = self.name.rpartition("/")
        kind = KINDS[next(iter(metrics))]
        return {
            "dataset": task,
            "model": architecture or tag,
            "pretrained": tag if architecture else "",
            "task": f"zeroshot_{kind}",
            "metrics": dict(metrics),
            "language": "en",
            "stillroom": {
                "kind": kind,
                "headline": [metric for metric in metrics if metric in _STANDING],
                "published": {"source": self.source, "note": self.note},
            },
        }


@functools.cache
def published_models() -> Mapping[str, PublishedScores]:
    """Return all published scores by model."""
    import yaml

    values = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    found = {}
    for name, about in values["models"].items():
        source = values["sources"][about["source"]]
        found[name] = PublishedScores(
            name=name,
            source=f"{source['title']}, {source['url']}",
            note=source["note"],
            scores={
                task: {metric: percent / 100 for metric, percent in metrics.items()}
                for task, metrics in about["scores"].items()
            },
        )
    return found


def find_published(name: str) -> PublishedScores:
    """Return a model's published scores by its name, or by the beginning of one name only.

    Raises:
        ConfigError: no such name; the message lists those there are.
    """
    models = published_models()
    if name in models:
        return models[name]
    beginning = [other for other in models if name and other.startswith(name)]
    if len(beginning) == 1:
        return models[beginning[0]]
    close = beginning or difflib.get_close_matches(name, models, n=3)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"no published scores of '{name}'{meant}; allowed: {', '.join(models)}")


def published_notes(results: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a line for each source of published scores: where they are from, and that they may be made otherwise."""
    found = {}
    for result in results:
        for about in result.values():
            if published := about.get("stillroom", {}).get("published"):
                found[published["source"]] = published["note"]
    return [f"published: {source} ({note}). The protocol may differ." for source, note in found.items()]
