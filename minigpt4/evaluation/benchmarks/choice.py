"""Benchmarks answered by one of the options given: SEED-Bench and MMBench by letter, IconQA by rank."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from minigpt4.common.json_records import read_json
from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require, shown
from minigpt4.conversation.prompt_templates import choice_question
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.scorers import LETTERS, circular_percent, first_letter, read_letter
from minigpt4.evaluation.rows import NUM_SHOWN, Row, each, id_number
from minigpt4.evaluation.tables import is_absent, read_tsv

logger = logging.getLogger(__name__)

_DATA_URL = re.compile(r"^\s*data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)


def _row(question: Question, answer: str, **options: list[str]) -> dict[str, Any]:
    """Return the row that the published converters read."""
    head = {"text": answer, "prompt": question.prompt, "question_id": question.id}
    return {**head, **options, "model_id": "minigpt4-v2", "metadata": {}}


@registry.register_benchmark("seed")
class SeedBench(Benchmark):
    """SEED-Bench, images only; right is the first letter. The truth comes from the annotation beside the file."""

    result_file = "seed.jsonl"
    text_key = "text"
    source = "SEED-Bench: https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    annotation_file = "SEED-Bench-image.json"
    answers_by_id = True
    fields: ClassVar = {"image": str, "text": str, "question_id": (int, str)}

    def questions(self) -> list[Question]:
        rows, known = self.rows(), self._known()

        def ask(number: int, row: Row) -> Question:
            name = id_number(row["question_id"])
            if name is None:
                raise ValueError(f"'question_id' should be a number, not {shown(row['question_id'])}")
            image = tuple(place / row["image"] for place in (self.img_dir, self.img_dir.parent))
            asked = known.get(name, Question(id=name, prompt=""))
            return replace(asked, id=name, prompt=f"[vqa] {row['text']}", image=image)

        questions = self.ask_each(rows, ask)
        if known and (unknown := [question.id for question in questions if question.id not in known]):
            what = f"{len(unknown)} questions are not in {self.annotation_file}, so their truth is not known"
            logger.warning("%s: %s: %s", self.name, what, ", ".join(map(str, unknown[:NUM_SHOWN])))
        return questions

    def _known(self) -> dict[int | str | None, Question]:
        """Return id -> question of the annotation, nothing where it is missing."""
        path = self.eval_file.with_name(self.annotation_file)
        if not path.is_file():
            logger.warning("%s: %s is not there, so no accuracy is known; %s", self.name, path, self.source)
            return {}
        annotation = self.read(path, lambda file: read_seed(file, need_answers=False))
        return {id_number(question.id): question for question in seed_questions(annotation)}

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return _row(question, answer)

    def score_one(self, question: Question, answer: str) -> float | None:
        return None if question.truth is None else float(first_letter(answer) == question.truth.upper())

    def is_valid(self, answer: str) -> bool:
        return first_letter(answer) in LETTERS


def read_seed(path: Path, *, need_answers: bool = True) -> dict[str, Any]:
    """Return SEED's annotation; without answers, where they are not needed and no question has one.

    Raises: ValueError that names the file, and the questions and keys that do not fit.
    """
    annotation = read_json(path)
    if not isinstance(annotation, dict) or not {"question_type", "questions"} <= set(annotation):
        raise ValueError(f"{path} is no SEED annotation: it holds no question_type or no questions")
    types, questions = annotation["question_type"], annotation["questions"]
    kinds = set(map(type, types.values())) if isinstance(types, dict) else {dict}
    if kinds not in (set(), {int}, {str}):
        raise ValueError(f"{path}: 'question_type' should be an object with a number for each name")
    if not isinstance(questions, list):
        raise ValueError(f"{path}: 'questions' should be a list, not {shown(questions)}")
    is_labelled = need_answers or any(isinstance(row, dict) and "answer" in row for row in questions)

    def check(number: int, row: Any) -> None:
        require(row, {"question_id": (int, str), "question_type_id": (int, str), "data_type": str})
        if is_labelled:
            require(row, {"answer": str})
            if row["answer"].upper() not in LETTERS:
                raise ValueError(f"'answer' should be one of {', '.join(LETTERS)}, not {shown(row['answer'])}")

    each(questions, check, lambda number: f"{path}: question {number + 1}")
    return annotation


def seed_questions(annotation: Mapping[str, Any]) -> list[Question]:
    """Return the questions of an annotation without prompt and image; the reference is `data_type`, image or video."""
    names = {str(number): name for name, number in annotation["question_type"].items()}  # some files have it as text
    return [
        Question(
            id=row["question_id"],
            prompt="",
            type=names.get(str(row["question_type_id"]), f"type {row['question_type_id']}"),
            options={k: row[f"choice_{k.lower()}"] for k in LETTERS if f"choice_{k.lower()}" in row},
            truth=row.get("answer"),
            reference=row["data_type"],
        )
        for row in annotation["questions"]
    ]


@registry.register_benchmark("mmbench")
class MMBench(Benchmark):
    """MMBench dev; its server gives the final number, the accuracy here counts the rows with an answer in the TSV."""

    result_file = "mmbench.jsonl"
    source = "MMBench: https://mmbench.opencompass.org.cn"

    def questions(self) -> list[Question]:
        """Return a question for each row; the pictures stay in base64, one copy each, until a question needs them."""
        columns = ("index", "question", "image")
        table = self.read(
            self.eval_file, lambda path: read_tsv(path, "the mmbench benchmark", columns=columns, as_text=True)
        )
        rows = table.to_dict("records")
        images = {int(row["index"]): row["image"] for row in rows}
        pictures: dict[str, str] = {}

        def ask(number: int, row: Row) -> Question:
            image = _picture(row["image"], images)
            if is_absent(row["question"]) or not row["question"].strip():
                raise ValueError("holds no question in this row")
            known = self.known(row)
            if not known.options:
                raise ValueError(f"holds no option in this row, in none of the columns {', '.join(LETTERS)}")
            lines = [] if is_absent(hint := row.get("hint")) else [str(hint)]
            lines.append(choice_question(row["question"], known.options))
            return replace(known, prompt="\n".join(lines), image=pictures.setdefault(image, image))

        questions = each(rows, ask, lambda number: f"{self.name}[{rows[number]['index']}]: {self.eval_file}")
        for remark in _remarks(table.columns, questions):
            logger.warning("%s: %s: %s", self.name, self.eval_file, remark)
        return questions

    @staticmethod
    def known(row: Mapping[str, Any]) -> Question:
        """Return id, type, options and truth of a row, without prompt and image.

        Raises: ValueError where the answer is no letter.
        """
        truth, category = row.get("answer"), row.get("category")
        if not is_absent(truth) and truth not in LETTERS:
            raise ValueError(f"'answer' should be one of {', '.join(LETTERS)}, not {shown(truth)}")
        return Question(
            id=int(row["index"]),
            prompt="",
            type=None if is_absent(category) else category,
            options={letter: row[letter] for letter in LETTERS if not is_absent(row.get(letter))},
            truth=None if is_absent(truth) else truth,
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        options = question.options or {}
        return _row(question, answer, options=list(options.values()), option_char=list(options))

    def score_one(self, question: Question, answer: str) -> float | None:
        if question.truth is None:
            return None
        return float(read_letter(answer, question.options or {}) == question.truth)

    def is_valid(self, answer: str) -> bool:
        return bool(answer)

    def parses(self, question: Question, answer: str) -> bool:
        return read_letter(answer, question.options or {}) is not None

    def score(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the usual counts and, where questions come rotated, the accuracy over whole rotations."""
        rights = [(int(question.id), self.score_one(question, answer)) for question, answer in predictions]
        circular = circular_percent((index, right) for index, right in rights if right is not None)
        return {**super().score(predictions), **({} if circular is None else {"circular_accuracy": circular})}


def _remarks(columns: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """Return warnings about a file that can be asked."""
    found = []
    if further := [name for name in columns if re.fullmatch("[E-Z]", name)]:
        names = ", ".join(further)
        found.append(f"has options in the columns {names} too; a question shows {', '.join(LETTERS)} alone")
    lost = [q.id for q in questions if q.truth is not None and q.truth not in (q.options or {})]
    if lost:
        rows = ", ".join(map(str, lost[:NUM_SHOWN]))
        found.append(f"{len(lost)} rows tell an answer whose option is empty, so no answer is right: {rows}")
    return found


def _picture(text: Any, images: Mapping[int, Any]) -> str:
    """Return the base64 text of a row's picture, which may lie in the row whose index the text is.

    Raises: ValueError with the reason where there is none.
    """
    if is_absent(text):
        raise ValueError("holds no image in this row")
    if (index := id_number(text)) is not None:
        text = images.get(index)
        if text is None:
            raise ValueError(f"its image names the row of index {index}, which is not there")
        if is_absent(text) or id_number(text) is not None:
            raise ValueError(f"its image names the row of index {index}, which holds no picture itself")
    if text.startswith("["):
        raise ValueError("its image is a list of pictures; a question has one")
    return _DATA_URL.sub("", text, count=1)


@registry.register_benchmark("iconvqa")
class IconQA(Benchmark):
    """IconQA, choosing a text: the choices are ranked by their losses; an answer is the choices' indices, best first.

    The reference of a question is the place of the true choice, and the key of its id in the published file.
    """

    result_file = "iconvqa.json"
    source = "IconQA: https://iconqa.github.io"
    answers_by_id = True
    fields: ClassVar = {"image_id": (int, str), "question": str, "choices": list[str]}
    label = "answer"

    def questions(self) -> list[Question]:
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        if "question_id" in row:
            require(row, {"question_id": (int, str)})
        if self.label in row:
            require(row, {"answer": int})
            last = len(row["choices"]) - 1
            if not 0 <= row["answer"] <= last:
                raise ValueError(f"'answer' should be the place of a choice, 0 to {last}, not {row['answer']}")
        place = row.get("answer")
        return Question(
            id=row.get("question_id", number),
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / str(row["image_id"]) / "image.png",),
            choices=tuple(row["choices"]),
            truth=None if place is None else row["choices"][place],
            reference=(place, "question_id" if "question_id" in row else "index"),
        )

    def export(self, question: Question, answer: Sequence[int]) -> dict[str, Any]:
        place, key = question.reference
        return {key: question.id, "pred": answer[0], "gt": place, "ranks": list(answer)}

    def score_one(self, question: Question, answer: Sequence[int]) -> float | None:
        place, _ = question.reference
        return None if place is None else float(answer[0] == place)

    def is_valid(self, answer: Sequence[int]) -> bool:
        return bool(answer)
