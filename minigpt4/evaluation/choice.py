"""Benchmarks answered by one of the options given: SEED-Bench and MMBench by letter, IconQA by rank."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from minigpt4.common.registry import registry
from minigpt4.evaluation.benchmark import MODEL_ID, SHORT_ANSWER, Answered, Benchmark, Question, read_json
from minigpt4.evaluation.scorers import circular_percent, first_letter, read_letter
from minigpt4.evaluation.tables import is_absent, read_tsv

logger = logging.getLogger(__name__)

LETTERS = "ABCD"
BY_LETTER = "Answer with the option's letter from the given choices directly."


@registry.register_benchmark("seed")
class SeedBench(Benchmark):
    """SEED-Bench, images only; right is the first letter, as in the converter."""

    result_file = "seed.jsonl"
    source = "SEED-Bench: https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    annotation_file = "SEED-Bench-image.json"

    def questions(self) -> list[Question]:
        """Return a question a line; the truth comes from the annotation beside the file, where it is there."""
        rows, truth = self.rows("image", "text", "question_id"), self._truth()
        places = (self.img_dir, self.img_dir.parent)
        return [
            Question(
                id=self._number(row["question_id"]),
                prompt=f"[vqa] {row['text']}",
                image=tuple(place / row["image"] for place in places),
                extra=truth.get(str(row["question_id"]), {}),
            )
            for row in rows
        ]

    def _number(self, question_id: Any) -> int:
        if not str(question_id).isdecimal():
            raise ValueError(f"{self.name}: {self.eval_file} holds the question_id {question_id!r}, expected a number")
        return int(question_id)

    def _truth(self) -> dict[str, dict[str, Any]]:
        path = self.eval_file.with_name(self.annotation_file)
        if not path.is_file():
            logger.warning("%s: %s is not there, so no accuracy is known; %s", self.name, path, self.source)
            return {}
        annotation = read_json(path)
        names = {number: name for name, number in annotation["question_type"].items()}
        return {
            str(q["question_id"]): {
                "truth": q["answer"],
                "type": names.get(q["question_type_id"], "unknown"),
                "options": {k: q[f"choice_{k.lower()}"] for k in LETTERS if f"choice_{k.lower()}" in q},
            }
            for q in annotation["questions"]
        }

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the converter reads."""
        head = {"text": answer, "prompt": question.prompt, "question_id": question.id}
        return {**head, "model_id": MODEL_ID, "metadata": {}}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether the first letter is the truth."""
        truth = question.extra.get("truth")
        return None if truth is None else float(first_letter(answer) == truth.upper())

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the first letter could be right."""
        return first_letter(answer) in tuple(LETTERS)


@registry.register_benchmark("mmbench")
class MMBench(Benchmark):
    """MMBench dev; the server has the last word, the accuracy here counts the rows whose answer the TSV tells."""

    result_file = "mmbench.jsonl"
    source = "MMBench: https://mmbench.opencompass.org.cn"

    def questions(self) -> list[Question]:
        """Return a question a row; the pictures stay in base64, one copy each, until they are asked about."""
        if not self.eval_file.is_file():
            raise ValueError(self.missing(self.eval_file))
        table = read_tsv(self.eval_file, "the mmbench benchmark", as_text=True)
        lacking = [key for key in ("index", "question", "image") if key not in table]
        if lacking:
            raise ValueError(f"{self.name}: {self.eval_file} has no column {', '.join(lacking)}")
        pictures: dict[str, str] = {}
        return [self._question(row, pictures) for row in table.to_dict("records")]

    def _question(self, row: Mapping[str, Any], pictures: dict[str, str]) -> Question:
        if is_absent(row["image"]):
            raise ValueError(f"{self.name}[{row['index']}]: {self.eval_file} holds no image in this row")
        options = {letter: row[letter] for letter in LETTERS if not is_absent(row.get(letter))}
        hint = row.get("hint")
        lines = [] if is_absent(hint) else [str(hint)]
        lines += [f"[vqa] {row['question']}", *(f"{k}. {v}" for k, v in options.items()), BY_LETTER]
        truth, category = row.get("answer"), row.get("category")
        return Question(
            id=int(row["index"]),
            prompt="\n".join(lines),
            image=pictures.setdefault(row["image"], row["image"]),
            extra={
                "options": options,
                "truth": None if is_absent(truth) else truth,
                "type": None if is_absent(category) else category,
            },
        )

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the converter reads."""
        options = question.extra["options"]
        head = {"text": answer, "prompt": question.prompt, "question_id": question.id}
        lists = {"options": list(options.values()), "option_char": list(options)}
        return {**head, **lists, "model_id": MODEL_ID, "metadata": {}}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether the answer means the true option."""
        truth = question.extra["truth"]
        return None if truth is None else float(read_letter(answer, question.extra["options"]) == truth)

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer means one of the options."""
        return read_letter(answer, question.extra["options"]) is not None

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """Return the usual counts and, where questions come rotated, the accuracy of those right in every rotation."""
        rights = [(int(question.id), self.correctness(question, answer)) for question, answer in answered]
        circular = circular_percent((index, right) for index, right in rights if right is not None)
        return {**super().score(answered), **({} if circular is None else {"circular_accuracy": circular})}


@registry.register_benchmark("iconvqa")
class IconQA(Benchmark):
    """IconQA, choosing a text: the choices are ranked by their losses; an answer is the choices' places, best first."""

    result_file = "iconvqa.json"
    source = "IconQA: https://iconqa.github.io"

    def questions(self) -> list[Question]:
        """Return a question a row with its choices."""
        return [
            Question(
                id=row.get("question_id", number),
                prompt=SHORT_ANSWER.format(row["question"]),
                image=(self.img_dir / str(row["image_id"]) / "image.png",),
                choices=tuple(row["choices"]),
                extra={"truth": row["answer"], "key": "question_id" if "question_id" in row else "index"},
            )
            for number, row in enumerate(self.rows("image_id", "question", "choices", "answer"))
        ]

    def result(self, question: Question, answer: Sequence[int]) -> dict[str, Any]:
        """Return the best choice beside the true one, and all in order."""
        best = {"pred": answer[0], "gt": question.extra["truth"]}
        return {question.extra["key"]: question.id, **best, "ranks": list(answer)}

    def correctness(self, question: Question, answer: Sequence[int]) -> float | None:
        """Return whether the best choice is the true one."""
        return float(answer[0] == question.extra["truth"])

    def answer(self, entry: Mapping[str, Any]) -> list[int]:
        """Return the places of the choices, best first."""
        return entry["ranks"]

    def words(self, question: Question, answer: Sequence[int]) -> str:
        """Return the best choice, or its place where another's file names one that is not there."""
        return question.choices[answer[0]] if self.parses(question, answer) else str(answer[0])

    def parses(self, question: Question, answer: Sequence[int]) -> bool:
        """Return whether the best choice is one of those given."""
        return answer[0] < len(question.choices)

    def about(self, question: Question) -> dict[str, Any]:
        """Return the choices, and the true one in words."""
        return {**super().about(question), "truth": question.choices[question.extra["truth"]]}
