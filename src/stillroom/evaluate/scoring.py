"""From embeddings to the metrics of a task, with what guessing scores and what was counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import DataError
from stillroom.evaluate.choice import WINOGROUND_CHANCE, choice_values, exact, human, winoground_metrics
from stillroom.evaluate.embed import ImageEmbeddings
from stillroom.evaluate.encoder import Encoder
from stillroom.evaluate.items import EvalDataset
from stillroom.evaluate.metrics.detection import roc_auc
from stillroom.evaluate.multilabel import multilabel_metrics
from stillroom.evaluate.open_vocabulary import KS, flat_hit_at_k, hit_chance
from stillroom.evaluate.retrieval import retrieval_chance, retrieval_metrics
from stillroom.evaluate.synonyms import best_name_accuracy, best_name_hits
from stillroom.evaluate.tasks import Task
from stillroom.evaluate.zero_shot import classification_chance, classification_metrics

Scored = tuple[dict[str, float], dict[str, float], dict[str, int]]
LEFT_OUT = "_negatives_left_out"


def score(task: Task, encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings, caption: str) -> Scored:
    """Return (metrics, chance, counts) of a task's data set.

    Args:
        task: its kind and metric say how.
        encoder: embeds the texts.
        dataset: what the pictures and their truth are.
        embedded: the pictures that could be used.
        caption: prompt for the captions of retrieval, with `{}`.

    Raises:
        DataError: data that the task's metric cannot be computed of, or a model that gives NaN.
    """
    if task.kind == "retrieval":
        return score_retrieval(encoder, dataset, embedded, caption)
    return SCORE[task.kind, task.metric](encoder, dataset, embedded)


def score_classification(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings) -> Scored:
    """One label a picture: acc1, acc5, mean per-class recall."""
    labels = _labels(dataset, embedded)
    if dataset.synonyms == "best":
        metrics = best_name_accuracy(embedded.vectors, *encoder.name_weights(dataset), labels)
    else:
        metrics = dict(classification_metrics(embedded.vectors, encoder.class_weights(dataset), labels))
    classes = len(dataset.classnames)
    counts = {"n": len(labels), "classes": classes, "classes_with_pictures": len(np.unique(labels))}
    return metrics, classification_chance(classes), {**counts, "repeated_names": _repeated(dataset)}


def score_yes_or_no(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings) -> Scored:
    """Two classes: ROC AUC of how much nearer a picture is to the second than to the first, and accuracy."""
    if len(dataset.classnames) != 2:
        raise DataError(f"{dataset.name} has {len(dataset.classnames)} classes; ROC AUC needs two")
    metrics, chance, counts = score_classification(encoder, dataset, embedded)
    weights, begins = _weights(encoder, dataset)
    scores = np.maximum.reduceat(embedded.vectors @ weights, begins, axis=1)
    auc = roc_auc(scores[:, 1] - scores[:, 0], _labels(dataset, embedded))
    return {"roc_auc": auc, **metrics}, {"roc_auc": 0.5, **chance}, counts


def score_multilabel(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings) -> Scored:
    """Several labels a picture: mean average precision, all-point and 11-point."""
    if not dataset.positives:
        raise DataError(f"{dataset.name} has one label a picture; mean average precision needs all of them")
    weights, begins = _weights(encoder, dataset)
    metrics, chance, scored = multilabel_metrics(
        embedded.vectors, weights, begins, embedded.names, dataset.positives, dataset.known
    )
    return metrics, chance, {"n": len(embedded.names), "classes": len(begins), "classes_scored": scored}


def score_open_vocabulary(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings) -> Scored:
    """Flat hit@k over all classes, as it is published.

    Where people also marked classes as not in a picture, hit@k comes a second time, named `LEFT_OUT`, in which these
    take no place in the picture's ranking and so are never counted as wrong.
    """
    positives = [dataset.positives[name] for name in embedded.names]
    known, classes = dataset.known, len(dataset.classnames)
    negatives = [tuple(set(known[n]) - set(dataset.positives[n])) for n in embedded.names] if known is not None else []
    hits = _hits(encoder, dataset, embedded.vectors, positives)
    metrics, chance = hits(None), hit_chance(positives, classes)
    if any(negatives):
        metrics |= {name + LEFT_OUT: value for name, value in hits(negatives).items()}
        left_out = hit_chance(positives, classes, ignored=negatives)
        chance |= {name + LEFT_OUT: value for name, value in left_out.items()}
    counts = {
        "n": len(positives),
        "classes": classes,
        "classes_with_pictures": len({label for labels in positives for label in labels}),
        "repeated_names": _repeated(dataset),
        "verified_negatives": sum(len(labels) for labels in negatives),
    }
    return metrics, chance, counts


Sets = list[tuple[int, ...]]


def _hits(
    encoder: Encoder, dataset: EvalDataset, vectors: NDArray[np.float32], positives: Sets
) -> Callable[[Sets | None], dict[str, float]]:
    """Return a function from the classes that each picture's ranking leaves out to flat hit@k."""
    if dataset.synonyms == "best":
        weights, begins = encoder.name_weights(dataset)
        return lambda ignored: best_name_hits(vectors, weights, begins, positives, KS, ignored)
    rows = np.ascontiguousarray(encoder.class_weights(dataset).T)
    return lambda ignored: flat_hit_at_k(vectors, rows, positives, ignored=ignored)


def score_retrieval(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings, caption: str) -> Scored:
    """Both directions, and Winoground's three scores where pictures come in pairs."""
    if len(embedded.captions) < 2:
        raise DataError(f"{dataset.name}: only one picture can be used; of one, recall is 1 whatever the model")
    captions = [caption.replace("{}", text) for group in embedded.captions for text in group]
    picture_of_text = np.repeat(np.arange(len(embedded.captions)), [len(group) for group in embedded.captions])
    texts = encoder.texts(captions)
    metrics = dict(retrieval_metrics(embedded.vectors, texts, picture_of_text))
    chance = retrieval_chance(picture_of_text)
    repeated = len(captions) - len(set(captions))
    counts = {"n": len(embedded.captions), "texts": len(captions), "repeated_texts": repeated}
    rows = {name: row for row, name in enumerate(embedded.names)}
    pairs = [(rows[first], rows[second]) for first, second in dataset.examples if first in rows and second in rows]
    if pairs:
        metrics |= winoground_metrics(embedded.vectors, texts, np.array(pairs))
        chance |= WINOGROUND_CHANCE
        counts["examples"] = len(pairs)
    return metrics, chance, counts


def score_choice(metric: str) -> Callable[[Encoder, EvalDataset, ImageEmbeddings], Scored]:
    """Questions with candidate answers, scored by exact truth or by what ten people said."""

    def scored(encoder: Encoder, dataset: EvalDataset, embedded: ImageEmbeddings) -> Scored:
        rows = {name: row for row, name in enumerate(embedded.names)}
        questions = [question for question in dataset.questions if question.picture in rows]
        places = np.array([rows[question.picture] for question in questions])
        truth = human if metric == "vqa_accuracy" else exact
        values, chances = choice_values(questions, dataset.templates[0], truth, embedded.vectors, places, encoder.texts)
        counts = {
            "n": len(rows),
            "questions": len(questions),
            "questions_without_picture": len(dataset.questions) - len(questions),
            "choices": max(len(question.choices) for question in questions),
        }
        return {metric: float(values.mean())}, {metric: float(chances.mean())}, counts

    return scored


SCORE: dict[tuple[str, str], Callable[[Encoder, EvalDataset, ImageEmbeddings], Scored]] = {
    ("classification", "acc1"): score_classification,
    ("classification", "roc_auc"): score_yes_or_no,
    ("classification", "mean_average_precision"): score_multilabel,
    ("classification", "mean_average_precision_11_point"): score_multilabel,
    ("open_vocabulary", "hit@1"): score_open_vocabulary,
    ("vqa", "acc1"): score_choice("acc1"),
    ("vqa", "vqa_accuracy"): score_choice("vqa_accuracy"),
}


def _weights(encoder: Encoder, dataset: EvalDataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return class weights, or those of all names where the best counts, and the first column of each class."""
    if dataset.synonyms == "best":
        return encoder.name_weights(dataset)
    return encoder.class_weights(dataset), np.arange(len(dataset.classnames))


def _repeated(dataset: EvalDataset) -> int:
    """Return how many class names were there before: such classes tie, and ties go against the model."""
    return len(dataset.classnames) - len(set(dataset.classnames))


def _labels(dataset: EvalDataset, embedded: ImageEmbeddings) -> NDArray[np.int64]:
    if len(embedded.labels) != len(embedded.names):
        raise DataError(f"{dataset.name} has several labels a picture; accuracy needs one")
    return np.array(embedded.labels, dtype=np.int64)
