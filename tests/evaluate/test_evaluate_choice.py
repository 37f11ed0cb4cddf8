"""Ranking statements against a picture: against a slow version in float64, ties, and Winoground by hand."""

import numpy as np
import pytest

from stillroom.errors import DataError
from stillroom.evaluate import choice
from stillroom.evaluate.choice import choice_values, exact, human, statement, winoground_metrics
from stillroom.evaluate.items import Question


def _unit(rng, *shape):
    values = rng.standard_normal(shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_the_nearest_statement_is_the_answer(monkeypatch, block):
    monkeypatch.setattr(choice, "QUESTIONS_AT_A_TIME", block)
    rng = np.random.default_rng(0)
    images = _unit(rng, 4, 8)
    words = ["yes", "no", "red", "2"]
    questions, rows = [], rng.integers(0, 4, 10)
    for number in range(10):
        choices = tuple(words[: 2 + number % 3])
        references = tuple(rng.choice(words, size=10))
        questions.append(Question(picture="x", text=f"q{number}?", choices=choices, references=references))
    vectors = {
        statement("{q} {a}", question.text, word): _unit(rng, 8) for question in questions for word in question.choices
    }
    values, chances = choice_values(
        questions, "{q} {a}", human, images, rows, lambda texts: np.stack([vectors[text] for text in texts])
    )
    for number, question in enumerate(questions):
        scores = [vectors[f"{question.text} {word}"].astype(float) @ images[rows[number]] for word in question.choices]
        matches = question.references.count(question.choices[int(np.argmax(scores))])
        worth = (matches * min(1, (matches - 1) / 3) + (10 - matches) * min(1, matches / 3)) / 10
        assert values[number] == pytest.approx(worth)
        assert chances[number] == pytest.approx(
            np.mean([human(word, question.references) for word in question.choices])
        )


def test_a_tie_takes_the_worst_answer():
    question = Question(picture="x", text="q", choices=("right", "wrong"), references=("right",))
    image = np.array([[1, 0]], dtype=np.float32)
    for second, expected in [((1, 0), 0), ((1 - 3e-7, 0), 0), ((0.99, 0), 1)]:
        texts = np.array([(1, 0), second], dtype=np.float32)
        values, chances = choice_values([question], "{q}{a}", exact, image, np.array([0]), lambda _, t=texts: t)
        assert (values[0], chances[0]) == (expected, 0.5)


def test_statements_are_filled_in_once():
    assert statement("question: {q} answer: {a}", "what is {a}?", "{q}") == "question: what is {a}? answer: {q}"
    with pytest.raises(DataError, match="needs {q} for the question"):
        statement("answer: {a}", "x", "y")


def test_winoground_by_hand():
    # text and picture 0 fit; text 1 is nearer to picture 0 than to its own
    images = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    texts = np.array([[1, 0], [0.96, 0.28]], dtype=np.float32)
    found = winoground_metrics(images, texts, np.array([[0, 1]]))
    # text: 1 > .96 and .8 > .6; image: 1 > .6 but .8 < .96
    assert found == {"winoground_text_score": 1, "winoground_image_score": 0, "winoground_group_score": 0}
    same = np.ones((2, 2), dtype=np.float32) / np.float32(np.sqrt(2))
    assert set(winoground_metrics(same, same, np.array([[0, 1]])).values()) == {0}
