"""wrong.jsonl: every wrong answer with its question type, options, truth and picture, for whatever works on them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minigpt4.common.files import write_bytes, write_text
from minigpt4.common.row_checks import NUMBER, require
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.scorers import RIGHT_FROM
from minigpt4.evaluation.rows import each, read_rows

WRONG = "wrong.jsonl"
PICTURES = "wrong_pictures"
"""Folder of the pictures of wrong answers that lie in no file of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A wrong answer, a row of wrong.jsonl; `options` are texts, by letter where they have letters."""

    benchmark: str
    question_id: int | str
    type: str | None = None
    type_accuracy: float | None = None
    prompt: str
    options: dict[str, str] | list[str] | None = None
    truth: str | None = None
    answer: str
    right: float
    image: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row of wrong.jsonl."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> Mistake:
        """Return the mistake of a row, whose further keys are left out. Raises: ValueError that names the key."""
        fields = {"benchmark": str, "question_id": (int, str), "prompt": str, "answer": str, "right": NUMBER}
        require(row, fields)
        optional = {"type": str, "type_accuracy": NUMBER, "options": (dict, list), "truth": str, "image": str}
        require(row, {key: kind for key, kind in optional.items() if row.get(key) is not None})
        return cls(**{key: row.get(key) for key in (*fields, *optional)})


def load_mistakes(path: Path) -> list[Mistake]:
    """Return the mistakes of a wrong.jsonl. Raises: ValueError that names file and row of what is no mistake."""
    rows = read_rows(path, any_text=True) if path.stat().st_size else []
    return each(rows, lambda number, row: Mistake.from_json(row), lambda number: f"{path}: row {number + 1}")


def mistakes(
    benchmark: Benchmark, answered: Sequence[Prediction], by_type: Mapping[str, float], *, save_path: Path
) -> list[Mistake]:
    """Return each wrong answer; pictures that come as text are written below `save_path`."""
    rows = []
    for question, answer in answered:
        right = benchmark.score_one(question, answer)
        if right is None or right >= RIGHT_FROM:
            continue
        about = benchmark.metadata(question)
        place = picture_file(question, save_path / PICTURES / benchmark.name)
        rows.append(
            Mistake(
                benchmark=benchmark.name,
                question_id=question.id,
                type=about["type"],
                type_accuracy=by_type.get(about["type"]),
                prompt=question.prompt,
                options=about["options"],
                truth=about["truth"],
                answer=benchmark.display_answer(question, answer),
                right=right,
                image=None if place is None else str(place),
            )
        )
    return rows


def picture_file(question: Question, folder: Path) -> Path | None:
    """Return the file of a question's picture; one that comes as text is written to `folder`, named by its content."""
    if question.image is None:
        return None
    if not isinstance(question.image, str):
        return next((path for path in question.image if path.is_file()), question.image[0])
    try:
        content = base64.b64decode(question.image)
    except binascii.Error:  # asking would have failed; a score alone needs no picture
        content = b""
    suffix = ".png" if content.startswith(b"\x89PNG") else ".jpg"
    path = folder / (hashlib.blake2b(content, digest_size=12).hexdigest() + suffix)
    if not path.is_file():
        write_bytes(path, content)
    return path


def read_mistakes(save_path: Path) -> list[dict[str, Any]]:
    """Return the rows of wrong.jsonl, none where it is not there."""
    path = save_path / WRONG
    if not path.is_file():
        return []
    rows = read_rows(path, any_text=True) if path.stat().st_size else []
    return each(rows, _checked, lambda number: f"{path}: row {number + 1}")


def _checked(number: int, row: Any) -> dict[str, Any]:
    require(row, {"benchmark": str})
    return dict(row)


def write_mistakes(save_path: Path, benchmark: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put a benchmark's wrong answers into wrong.jsonl, in place of those it had there."""
    kept = [row for row in read_mistakes(save_path) if row["benchmark"] != benchmark]
    write_text(save_path / WRONG, "".join(json.dumps(row) + "\n" for row in [*kept, *rows]))
