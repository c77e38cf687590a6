"""Benchmarks answered in words and right by the share of people who agree: OKVQA and VizWiz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.scorers import AGREEING, grouped, percent, vqa_accuracy
from minigpt4.evaluation.rows import Row, each, optional_text, read_people, repeated


def votes(answers: Iterable[str]) -> str:
    """Return the human answers, the most frequent first, as one text."""
    return ", ".join(f"{answer} ({number})" for answer, number in Counter(answers).most_common())


@registry.register_benchmark("okvqa")
class OKVQA(Benchmark):
    """OK-VQA test, with the official VQA accuracy; `eval_file_path` is the folder of its three files.

    The reference of a question is its annotation.
    """

    result_file = "okvqa.json"
    is_graded = True
    source = "OK-VQA: the evaluation dataset, and COCO2014 validation images; see Evaluation in the README"
    answers_by_id = True
    fields: ClassVar = {"question_id": (int, str), "question": str, "image_id": int}
    question_file = "okvqa_test_split.json"
    annotation_file = "mscoco_val2014_annotations_clean.json"
    annotation_fields: ClassVar = {"question_id": (int, str), "question_type": str, "answer_type": str, "answers": list}

    def questions(self) -> list[Question]:
        annotations = self.eval_file / self.annotation_file
        found = self.rows(annotations, key="annotations")
        rows = each(found, self._annotation, lambda number: f"{self.name}: {annotations}: annotation {number}")
        if twice := repeated(row["question_id"] for row in rows):
            raise ValueError(f"{self.name}: {annotations}: has several annotations of question {twice[0]}")
        people = {row["question_id"]: row for row in rows}

        def ask(number: int, row: Row) -> Question:
            if row["question_id"] not in people:
                raise ValueError(f"{self.annotation_file} holds no annotation of question {row['question_id']}")
            annotation = people[row["question_id"]]
            return Question(
                id=row["question_id"],
                prompt=SHORT_ANSWER.format(row["question"]),
                image=(self.img_dir / f"COCO_val2014_{row['image_id']:012}.jpg",),
                type=annotation["question_type"],
                truth=votes(person["answer"] for person in annotation["answers"]),
                reference=annotation,
            )

        path = self.eval_file / self.question_file
        return self.ask_each(self.rows(path), ask, path=path)

    def _annotation(self, number: int, row: Row) -> Row:
        require(row, self.annotation_fields)
        read_people(row)
        return row

    def clean(self, answer: str) -> str:
        return super().clean(answer).lower()

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return {"answer": answer, "question_id": question.id}

    def score_one(self, question: Question, answer: str) -> float | None:
        return vqa_accuracy(answer, question.reference["answers"])

    def is_valid(self, answer: str) -> bool:
        return bool(answer)

    def score(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the usual counts, and the accuracies by question and answer type, all rounded as officially."""
        scored = super().score(predictions)
        scored["accuracy"] = None if scored["accuracy"] is None else round(scored["accuracy"], 2)
        rights = [(q.reference["answer_type"], vqa_accuracy(a, q.reference["answers"])) for q, a in predictions]
        by_answer_type: dict[str, Any] = {kind: percent(group) for kind, group in grouped(rights).items()}
        for name, shares in (("question", scored.get("accuracy_by_type", {})), ("answer", by_answer_type)):
            scored[f"accuracy_by_{name}_type"] = {kind: round(share, 2) for kind, share in shares.items()}
        return scored


@registry.register_benchmark("vizwiz")
class VizWiz(Benchmark):
    """VizWiz validation: right by a third for each person who gave the answer. These are a question's reference."""

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
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        people = [person["answer"] for person in read_people(row)] if self.label in row else None
        return Question(
            id=number,
            prompt=self.template.format(row["question"]),
            image=(self.img_dir / row["image"],),
            type=optional_text(row, "answer_type"),
            truth=None if people is None else votes(people),
            reference=people,
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return {"answer": answer}

    def score_one(self, question: Question, answer: str) -> float | None:
        if question.reference is None:
            return None
        agreeing: int = sum(person.strip().lower() == answer.lower() for person in question.reference)
        return min(agreeing / AGREEING, 1.0)

    def is_valid(self, answer: str) -> bool:
        return bool(answer)
