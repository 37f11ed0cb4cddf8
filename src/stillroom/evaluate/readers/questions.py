"""Questions about pictures, answered by ranking statements: VQAv2 and SNLI-VE.

How candidates are chosen and worded is our choice; the papers that report zero-shot numbers differ in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, FileSource, Item, Question
from stillroom.evaluate.readers.files import existing, field, inside, read_json, read_jsonl, read_lines


@dataclass(frozen=True, kw_only=True)
class Vqa:
    """VQAv2: a file of questions and a file of ten answers each.

    The candidates of a question are the `candidates` answers that are given most often to its question type ("what
    color is the", ...) in the annotation file itself; equal counts are broken by the alphabet. So a model is told which
    answers occur, and scores are comparable only between models ranked over the same candidates.

    Attributes:
        questions: {"questions": [{"question_id", "image_id", "question"}]}.
        annotations: {"annotations": [{"question_id", "question_type", "multiple_choice_answer", "answers"}]}.
        pictures: path of a picture; `{}` is the image's id.
        digits: to how many digits the id is padded with zeros.
        candidates: answers per question type.
        answers: a file of candidate answers, one a line, which all questions then share; if it is there it is used.
    """

    questions: str
    annotations: str
    pictures: str
    digits: int = 12
    candidates: int = 10
    answers: str = "answers.txt"

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the files do not hold what they should."""
        path = existing(root, self.questions)
        truths = self._annotations(existing(root, self.annotations))
        shared = self._shared(root)
        by_type = {} if shared else most_frequent(truths.values(), self.candidates)
        found = []
        for number, row in enumerate(field(read_json(path), "questions", list, path)):
            where = f"{path}: question {number}"
            truth = truths.get(field(row, "question_id", int, where))
            if truth is None:
                raise DataError(f"{where} has no annotation in {self.annotations}")
            image_id = str(field(row, "image_id", int, where)).zfill(self.digits)
            found.append(
                Question(
                    picture=inside(self.pictures.replace("{}", image_id), where),
                    text=field(row, "question", str, where).strip(),
                    choices=shared or by_type[truth[0]],
                    references=truth[2],
                )
            )
        return question_set(root, found, path)

    def _shared(self, root: Path) -> tuple[str, ...]:
        path = root / inside(self.answers, "task file")
        return tuple(dict.fromkeys(read_lines(path))) if path.is_file() else ()

    def _annotations(self, path: Path) -> dict[int, tuple[str, str, tuple[str, ...]]]:
        """Return question type, most frequent answer and all answers by question id."""
        truths = {}
        for number, row in enumerate(field(read_json(path), "annotations", list, path)):
            where = f"{path}: annotation {number}"
            answers = tuple(field(one, "answer", str, where) for one in field(row, "answers", list, where))
            if not answers:
                raise DataError(f"{where} has no answers")
            kind = field(row, "question_type", str, where)
            first = field(row, "multiple_choice_answer", str, where)
            truths[field(row, "question_id", int, where)] = (kind, first, answers)
        return truths


def most_frequent(truths: Iterable[tuple[str, str, Any]], count: int) -> dict[str, tuple[str, ...]]:
    """Return the answers given most often to each question type, most frequent first, then by the alphabet."""
    counters: dict[str, Counter[str]] = {}
    for kind, answer, _ in truths:
        counters.setdefault(kind, Counter())[answer] += 1
    ranked = {kind: sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])) for kind, counter in counters.items()}
    return {kind: tuple(answer for answer, _ in pairs[:count]) for kind, pairs in ranked.items()}


@dataclass(frozen=True, kw_only=True)
class SnliVe:
    """SNLI-VE: a JSON object a line with a hypothesis about a Flickr30K picture and its gold label.

    Ranked are three statements that the template makes of the hypothesis and a word for each label.

    Attributes:
        annotations: lines with `sentence2`, `gold_label` and `Flikr30kID` (the data set's spelling; `Flickr30kID` and
            `Flickr30K_ID` are read too).
        pictures: path of a picture; `{}` is its Flickr30K id.
        words: for "entailment", "neutral" and "contradiction".
    """

    annotations: str
    pictures: str
    words: tuple[str, str, str] = ("true", "possible", "false")

    def read(self, root: Path) -> EvalDataset:
        """Open the data set; raises `DataError` where the file does not hold what it should."""
        path = existing(root, self.annotations)
        words = dict(zip(("entailment", "neutral", "contradiction"), self.words, strict=True))
        found = []
        for where, row in read_jsonl(path):
            label = field(row, "gold_label", str, where)
            if label == "-":  # the annotators of SNLI did not agree
                continue
            if label not in words:
                raise DataError(f"{where}: gold_label is '{label[:40]}'; allowed: {', '.join(words)}")
            key = next((key for key in ("Flikr30kID", "Flickr30kID", "Flickr30K_ID") if key in row), "Flikr30kID")
            image_id = field(row, key, str, where).removesuffix(".jpg")
            found.append(
                Question(
                    picture=inside(self.pictures.replace("{}", image_id), where),
                    text=field(row, "sentence2", str, where).strip(),
                    choices=self.words,
                    references=(words[label],),
                )
            )
        return question_set(root, found, path)


def question_set(root: Path, questions: list[Question], path: Path) -> EvalDataset:
    """Make a data set of questions; each picture is in it once, however many questions it has."""
    if not questions:
        raise DataError(f"{path} holds no questions")
    pictures = dict.fromkeys(question.picture for question in questions)
    items = tuple(Item(shard="", key=name) for name in pictures)
    return EvalDataset(name="", kind="vqa", source=FileSource(root=root, items=items), questions=tuple(questions))
