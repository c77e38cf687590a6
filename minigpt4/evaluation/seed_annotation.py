"""SEED-Bench's annotation: its question types, and the options and truth of its questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.json_records import read_json
from minigpt4.common.row_checks import require, shown
from minigpt4.evaluation.benchmark import Question
from minigpt4.evaluation.benchmarks.scorers import LETTERS
from minigpt4.evaluation.rows import each


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
