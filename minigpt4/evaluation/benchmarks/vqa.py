"""Benchmarks answered in words and right by the share of people who agree: OKVQA and VizWiz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.scorers import percent_by
from minigpt4.evaluation.benchmarks.vqa_accuracy import AGREEING, vqa_accuracy
from minigpt4.evaluation.rows import Row, check_answers, each, optional_text, repeated


def votes(answers: Iterable[str]) -> str:
    """Return what people answered, the most frequent first, as one text."""
    return ", ".join(f"{answer} ({number})" for answer, number in Counter(answers).most_common())


@registry.register_benchmark("okvqa")
class OKVQA(Benchmark):
    """OK-VQA test, with the official VQA accuracy; `eval_file_path` is the folder of its three files."""

    result_file = "okvqa.json"
    is_graded = True
    source = "OK-VQA: the evaluation dataset, and COCO2014 validation images; see Evaluation in the README"

    answers_by_id = True
    fields: ClassVar = {"question_id": (int, str), "question": str, "image_id": int}
    question_file = "okvqa_test_split.json"
    annotation_file = "mscoco_val2014_annotations_clean.json"
    annotation_fields: ClassVar = {"question_id": (int, str), "question_type": str, "answer_type": str}

    def questions(self) -> list[Question]:
        """Return the questions of okvqa_test_split.json with the human answers of the annotation file."""
        annotations = self.eval_file / self.annotation_file
        found = self.rows(annotations, key="annotations")
        rows = each(found, self._annotation, lambda number: f"{self.name}: {annotations}: annotation {number}")
        if twice := repeated(row["question_id"] for row in rows):
            raise ValueError(f"{self.name}: {annotations}: has several annotations of question {twice[0]}")
        self._people = {row["question_id"]: row for row in rows}
        path = self.eval_file / self.question_file
        return self.ask_each(self.rows(path), self._question, path=path)

    def _annotation(self, number: int, row: Row) -> Row:
        require(row, self.annotation_fields)
        check_answers(row)
        return row

    def _question(self, number: int, row: Row, **about: Any) -> Question:
        if row["question_id"] not in self._people:
            raise ValueError(f"{self.annotation_file} holds no annotation of question {row['question_id']}")
        return Question(
            id=row["question_id"],
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / f"COCO_val2014_{row['image_id']:012}.jpg",),
            extra=self._people[row["question_id"]],
        )

    def clean(self, answer: str) -> str:
        """Return the answer in lower case."""
        return super().clean(answer).lower()

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the official evaluation reads."""
        return {"answer": answer, "question_id": question.id}

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the question type, and what people answered."""
        people = (person["answer"] for person in question.extra["answers"])
        return {"type": question.extra["question_type"], "options": None, "truth": votes(people)}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return the official accuracy."""
        return vqa_accuracy(answer, question.extra["answers"])

    def score(self, answered: Sequence[Prediction]) -> dict[str, Any]:
        """Return the usual counts, and the accuracies by question and answer type, all rounded as officially."""
        scored = super().score(answered)
        scored["accuracy"] = None if scored["accuracy"] is None else round(scored["accuracy"], 2)
        for kind in ("question_type", "answer_type"):
            rights = [(q.extra[kind], vqa_accuracy(answer, q.extra["answers"])) for q, answer in answered]
            scored[f"accuracy_by_{kind}"] = {name: round(value, 2) for name, value in percent_by(rights).items()}
        return scored


@registry.register_benchmark("vizwiz")
class VizWiz(Benchmark):
    """VizWiz validation: right by a third for each person who gave the answer."""

    result_file = "vizwiz.json"
    is_graded = True
    source = "VizWiz validation: https://vizwiz.org/tasks-and-datasets/vqa/"
    template = (
        "[vqa] The question is '{}' Based on the image, answer the question with a single word or phrase. "
        "and reply 'unanswerable' when the provided information is insufficient"
    )

    fields: ClassVar = {"image": str, "question": str}
    label = "answers"

    def questions(self) -> list[Question]:
        """Return a question a row, with its human answers."""
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        if is_labelled:
            check_answers(row)
        return Question(
            id=number,
            prompt=self.template.format(row["question"]),
            image=(self.img_dir / row["image"],),
            extra={
                "answers": [person["answer"] for person in row["answers"]] if is_labelled else None,
                "type": optional_text(row, "answer_type"),
            },
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer alone, in the order of the questions."""
        return {"answer": answer}

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the type of answer where the file tells it, and what people answered."""
        people = question.extra["answers"]
        return {**super().metadata(question), "truth": None if people is None else votes(people)}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return a third a person who agrees, at most 1."""
        if question.extra["answers"] is None:
            return None
        agreeing: int = sum(person.strip().lower() == answer.lower() for person in question.extra["answers"])
        return min(agreeing / AGREEING, 1.0)
