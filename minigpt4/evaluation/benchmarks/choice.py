"""Benchmarks answered by one of the options given: SEED-Bench and MMBench by letter, IconQA by rank."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require
from minigpt4.conversation.prompt_templates import choice_question
from minigpt4.evaluation.benchmark import MODEL_ID, SHORT_ANSWER, Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.scorers import LETTERS, circular_percent, first_letter, read_letter
from minigpt4.evaluation.rows import NUM_SHOWN, Row, each, id_number, read_id
from minigpt4.evaluation.seed_annotation import read_seed
from minigpt4.evaluation.tables import is_absent
from minigpt4.evaluation.tsv import read_tsv, true_letter

logger = logging.getLogger(__name__)

_DATA_URL = re.compile(r"\s*data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)


@registry.register_benchmark("seed")
class SeedBench(Benchmark):
    """SEED-Bench, images only; right is the first letter, as in the converter."""

    result_file = "seed.jsonl"
    text_key = "text"
    source = "SEED-Bench: https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    annotation_file = "SEED-Bench-image.json"
    answers_by_id = True
    fields: ClassVar = {"image": str, "text": str, "question_id": (int, str)}

    def questions(self) -> list[Question]:
        """Return a question a line; the truth comes from the annotation beside the file, where it is there."""
        rows, truth = self.rows(), self._truth()

        def ask(number: int, row: Row, **about: Any) -> Question:
            name = read_id(row, "question_id")
            return Question(
                id=name,
                prompt=f"[vqa] {row['text']}",
                image=tuple(place / row["image"] for place in (self.img_dir, self.img_dir.parent)),
                extra=truth.get(name, {}),
            )

        questions = self.ask_each(rows, ask)
        if truth and (unknown := [question.id for question in questions if question.id not in truth]):
            what = f"{len(unknown)} questions are not in {self.annotation_file}, so their truth is not known"
            logger.warning("%s: %s: %s", self.name, what, ", ".join(map(str, unknown[:NUM_SHOWN])))
        return questions

    def _truth(self) -> dict[int | None, dict[str, Any]]:
        path = self.eval_file.with_name(self.annotation_file)
        if not path.is_file():
            logger.warning("%s: %s is not there, so no accuracy is known; %s", self.name, path, self.source)
            return {}
        try:
            annotation = read_seed(path, need_answers=False)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        names = {number: name for name, number in annotation["question_type"].items()}
        return {
            id_number(q["question_id"]): {
                "truth": q.get("answer"),
                "type": names.get(q["question_type_id"], "unknown"),
                "options": {k: q[f"choice_{k.lower()}"] for k in LETTERS if f"choice_{k.lower()}" in q},
            }
            for q in annotation["questions"]
        }

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the converter reads."""
        head = {"text": answer, "prompt": question.prompt, "question_id": question.id}
        return {**head, "model_id": MODEL_ID, "metadata": {}}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return whether the first letter is the truth."""
        truth = question.extra.get("truth")
        return None if truth is None else self.score_answer(answer, truth)

    @staticmethod
    def score_answer(answer: str, truth: str) -> float:
        """Return whether the first letter is the true one, as evaluation and converter count."""
        return float(first_letter(answer) == truth.upper())

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the first letter could be right."""
        return first_letter(answer) in LETTERS


@registry.register_benchmark("mmbench")
class MMBench(Benchmark):
    """MMBench dev; the server has the last word, the accuracy here counts the rows whose answer the TSV tells."""

    result_file = "mmbench.jsonl"
    source = "MMBench: https://mmbench.opencompass.org.cn"

    def questions(self) -> list[Question]:
        """Return a question a row; the pictures stay in base64, one copy each, until they are asked about."""
        if not os.path.exists(self.eval_file):
            raise ValueError(self.missing(self.eval_file))
        columns = ("index", "question", "image")
        try:
            table = read_tsv(self.eval_file, "the mmbench benchmark", columns=columns, as_text=True)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        rows = table.to_dict("records")
        images = {int(row["index"]): row["image"] for row in rows}
        pictures: dict[str, str] = {}

        def ask(number: int, row: Row) -> Question:
            image = _picture(row["image"], images)
            return self._question(row, pictures.setdefault(image, image))

        questions = each(rows, ask, lambda number: f"{self.name}[{rows[number]['index']}]: {self.eval_file}")
        for remark in _remarks(table.columns, questions):
            logger.warning("%s: %s: %s", self.name, self.eval_file, remark)
        return questions

    def _question(self, row: Mapping[str, Any], image: str) -> Question:
        if is_absent(row["question"]) or not row["question"].strip():
            raise ValueError("holds no question in this row")
        options = {letter: row[letter] for letter in LETTERS if not is_absent(row.get(letter))}
        if not options:
            raise ValueError(f"holds no option in this row, in none of the columns {', '.join(LETTERS)}")
        hint = row.get("hint")
        lines = [] if is_absent(hint) else [str(hint)]
        lines.append(choice_question(row["question"], options))
        truth, category = true_letter(row), row.get("category")
        return Question(
            id=int(row["index"]),
            prompt="\n".join(lines),
            image=image,
            extra={
                "options": options,
                "truth": truth,
                "type": None if is_absent(category) else category,
            },
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the converter reads."""
        options = question.extra["options"]
        head = {"text": answer, "prompt": question.prompt, "question_id": question.id}
        lists = {"options": list(options.values()), "option_char": list(options)}
        return {**head, **lists, "model_id": MODEL_ID, "metadata": {}}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return whether the answer means the true option."""
        truth = question.extra["truth"]
        return None if truth is None else self.score_answer(answer, truth, question.extra["options"])

    @staticmethod
    def score_answer(answer: str, truth: str, options: Mapping[str, str]) -> float:
        """Return whether the answer means the true option, as evaluation and `--validate` count."""
        return float(read_letter(answer, options) == truth)

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer means one of the options."""
        return read_letter(answer, question.extra["options"]) is not None

    def score(self, answered: Sequence[Prediction]) -> dict[str, Any]:
        """Return the usual counts and, where questions come rotated, the accuracy of those right in every rotation."""
        rights = [(int(question.id), self.score_one(question, answer)) for question, answer in answered]
        circular = circular_percent((index, right) for index, right in rights if right is not None)
        return {**super().score(answered), **({} if circular is None else {"circular_accuracy": circular})}


def _remarks(columns: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """Return what the user should know of a file that can be asked."""
    found = []
    if further := [name for name in columns if re.fullmatch("[E-Z]", name)]:
        names = ", ".join(further)
        found.append(f"has options in the columns {names} too; a question shows {', '.join(LETTERS)} alone")
    lost = [q.id for q in questions if q.extra["truth"] is not None and q.extra["truth"] not in q.extra["options"]]
    if lost:
        rows = ", ".join(map(str, lost[:NUM_SHOWN]))
        found.append(f"{len(lost)} rows tell an answer whose option is empty, so no answer is right: {rows}")
    return found


def _picture(text: Any, images: Mapping[int, Any]) -> str:
    """Return the base64 text of a row's picture, which may lie in the row whose index the text is.

    Raises: ValueError saying why there is none.
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
    found = _DATA_URL.match(text)
    return str(text[found.end() :] if found else text)


@registry.register_benchmark("iconvqa")
class IconQA(Benchmark):
    """IconQA, choosing a text: the choices are ranked by their losses; an answer is the choices' places, best first."""

    result_file = "iconvqa.json"
    source = "IconQA: https://iconqa.github.io"

    answers_by_id = True
    fields: ClassVar = {"image_id": (int, str), "question": str, "choices": list[str]}
    label = "answer"

    def questions(self) -> list[Question]:
        """Return a question a row with its choices."""
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        if "question_id" in row:
            require(row, {"question_id": (int, str)})
        if is_labelled:
            require(row, {"answer": int})
            last = len(row["choices"]) - 1
            if not 0 <= row["answer"] <= last:
                raise ValueError(f"'answer' should be the place of a choice, 0 to {last}, not {row['answer']}")
        return Question(
            id=row.get("question_id", number),
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / str(row["image_id"]) / "image.png",),
            choices=tuple(row["choices"]),
            extra={
                "truth": row["answer"] if is_labelled else None,
                "key": "question_id" if "question_id" in row else "index",
            },
        )

    def export(self, question: Question, answer: Sequence[int]) -> dict[str, Any]:
        """Return the best choice beside the true one, and all in order."""
        best = {"pred": answer[0], "gt": question.extra["truth"]}
        return {question.extra["key"]: question.id, **best, "ranks": list(answer)}

    def score_one(self, question: Question, answer: Sequence[int]) -> float | None:
        """Return whether the best choice is the true one."""
        truth = question.extra["truth"]
        return None if truth is None else float(answer[0] == truth)

    def is_valid(self, answer: Any) -> bool:
        """Return whether these are places of choices."""
        return isinstance(answer, list) and bool(answer) and all(type(place) is int for place in answer)

    def answer(self, entry: Mapping[str, Any]) -> list[int]:
        """Return the places of the choices, best first."""
        ranks: list[int] = entry["ranks"]
        return ranks

    def display_answer(self, question: Question, answer: Sequence[int]) -> str:
        """Return the best choice, or its place where another's file names one that is not there."""
        return question.choices[answer[0]] if self.parses(question, answer) else str(answer[0])

    def parses(self, question: Question, answer: Sequence[int]) -> bool:
        """Return whether the best choice is one of those given."""
        return 0 <= answer[0] < len(question.choices)

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the choices, and the true one in words."""
        truth = question.extra["truth"]
        return {**super().metadata(question), "truth": None if truth is None else question.choices[truth]}
