"""Text queries over a test set: what each model ranks first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.encoder import make_encoder
from stillroom.evaluate.tasks import find_tasks
from stillroom.records import Fault
from stillroom.report.pictures import data_uri

# Chosen before any model was trained, by what people look for; never by what comes out.
QUERIES = (
    "a cat",
    "a red heart",
    "something to eat",
    "a musical instrument",
    "a vehicle with wheels",
    "bad weather",
    "a happy face",
    "a tool for building",
)
FIRST = 5


def ranked(scores: np.ndarray, count: int = FIRST) -> np.ndarray:
    """Return the rows of the highest scores, best first; equal scores in order of their row."""
    return np.argsort(-scores, kind="stable")[:count]


def search(
    models: Mapping[str, tuple[Any, Any, Any]], task: str, config: EvaluateConfig, queries: Sequence[str] = QUERIES
) -> list[dict[str, Any]]:
    """Return per query and model the first pictures of a retrieval task, each with its own caption and a data URI."""
    found = find_tasks((task,))[0]
    dataset = open_task(found, config.data_root)
    hits: dict[str, np.ndarray] = {}
    captions: tuple[tuple[str, ...], ...] = ()
    names: tuple[str, ...] = ()
    for name, loaded in models.items():
        encoder = make_encoder(loaded, config, Path(config.cache or "embeddings"))
        embedded = encoder.images(dataset)
        names, captions = embedded.names, embedded.captions
        scores = encoder.texts(queries) @ embedded.vectors.T
        hits[name] = np.stack([ranked(row) for row in scores])
    wanted = {names[row] for rows in hits.values() for row in rows.ravel()}
    pictures = {
        item.name: data_uri(item.image) for item in dataset if not isinstance(item, Fault) and item.name in wanted
    }
    return [
        {
            "query": query,
            "models": {
                name: [{"uri": pictures[names[row]], "caption": captions[row][0]} for row in rows[place]]
                for name, rows in hits.items()
            },
        }
        for place, query in enumerate(queries)
    ]
