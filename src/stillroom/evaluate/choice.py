"""Questions answered by ranking statements against a picture: VQAv2, SNLI-VE; and Winoground's pairs.

A template makes a statement of a question and each of its choices; the statement nearest to the picture is the answer.
Scores closer than rounding tie, and a tie is resolved against the model: the worst answer of those in front is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stillroom.errors import DataError
from stillroom.evaluate.items import Question
from stillroom.evaluate.metrics.vqa import vqa_accuracy, winoground_scores
from stillroom.evaluate.retrieval import TIE

QUESTIONS_AT_A_TIME = 1024

Truth = Callable[[str, tuple[str, ...]], float]


def choice_values(
    questions: Sequence[Question],
    template: str,
    truth: Truth,
    images: NDArray[np.float32],
    rows: NDArray[np.int64],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the model's answer to each question is worth, (Q,), and what a random one is, (Q,).

    Args:
        questions: Q questions.
        template: with `{q}` for the question and `{a}` for a choice.
        truth: what an answer is worth, given the references: `exact` or `human`.
        images: (P, D) rows of length 1.
        rows: (Q,) row in `images` of each question's picture.
        embed: texts to rows of length 1; called with the statements of some questions at a time.
    """
    values, chances = [], []
    for start in range(0, len(questions), QUESTIONS_AT_A_TIME):
        block = questions[start : start + QUESTIONS_AT_A_TIME]
        texts = [statement(template, question.text, choice) for question in block for choice in question.choices]
        ends = np.cumsum([len(question.choices) for question in block])
        pictures = np.repeat(rows[start : start + len(block)], [len(question.choices) for question in block])
        scores = np.einsum("td,td->t", embed(texts), images[pictures])
        for question, part in zip(block, np.split(scores, ends[:-1]), strict=True):
            worth = np.array([truth(choice, question.references) for choice in question.choices])
            values.append(worth[part >= part.max() - np.float32(TIE)].min())
            chances.append(worth.mean())
    return np.array(values), np.array(chances)


def statement(template: str, question: str, answer: str) -> str:
    """Fill in a template; nothing within the question or the answer is taken for a place to fill."""
    return "".join({"{q}": question, "{a}": answer}.get(part, part) for part in _parts(template))


@lru_cache(maxsize=8)
def _parts(template: str) -> tuple[str, ...]:
    if "{q}" not in template or "{a}" not in template:
        raise DataError(f"template '{template[:60]}' needs {{q}} for the question and {{a}} for the answer")
    spaced = template.replace("{q}", "\0{q}\0").replace("{a}", "\0{a}\0")
    return tuple(spaced.split("\0"))


def exact(answer: str, references: tuple[str, ...]) -> float:
    """Return 1 for an answer that is among the references, else 0."""
    return float(answer in references)


@lru_cache(maxsize=2**18)
def human(answer: str, references: tuple[str, ...]) -> float:
    """Return the official VQA accuracy of one answer; see `metrics.vqa_accuracy`."""
    return vqa_accuracy([answer], [references])


def winoground_metrics(
    images: NDArray[np.float32], texts: NDArray[np.float32], pairs: NDArray[np.int64]
) -> dict[str, float]:
    """Return Winoground's text, image and group score.

    Args:
        images: (P, D) rows of length 1.
        texts: (P, D) rows of length 1; text i is the caption of picture i.
        pairs: (E, 2) rows of each example's two pictures.
    """
    scores = np.einsum("ecd,epd->ecp", texts[pairs], images[pairs])  # example, caption, picture
    # Against the model: a right pair has to win by more than rounding.
    scores[:, [0, 1], [0, 1]] -= np.float32(TIE)
    return {f"winoground_{name}_score": value for name, value in winoground_scores(scores)._asdict().items()}


WINOGROUND_CHANCE = {
    "winoground_text_score": 1 / 4,
    "winoground_image_score": 1 / 4,
    "winoground_group_score": 1 / 6,
}
