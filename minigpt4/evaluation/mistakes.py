"""wrong.jsonl: every wrong answer with its question type, options, truth and picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minigpt4.common.files import write_bytes, write_text
from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import NUMBER, require
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question, picture_bytes
from minigpt4.evaluation.benchmarks.scorers import RIGHT_FROM
from minigpt4.evaluation.rows import each

WRONG = "wrong.jsonl"
PICTURES = "wrong_pictures"
"""Folder of the pictures of wrong answers whose questions have them as text."""


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
        """Return the mistake of a row, without keys that it does not know. Raises: ValueError that names the key."""
        fields = {"benchmark": str, "question_id": (int, str), "prompt": str, "answer": str, "right": NUMBER}
        require(row, fields)
        optional = {"type": str, "type_accuracy": NUMBER, "options": (dict, list), "truth": str, "image": str}
        require(row, {key: kind for key, kind in optional.items() if row.get(key) is not None})
        return cls(**{key: row.get(key) for key in (*fields, *optional)})


def load_mistakes(path: Path) -> list[Mistake]:
    """Return the mistakes of a wrong.jsonl. Raises: ValueError that names file and line of a bad row."""
    if path.is_file() and not path.stat().st_size:  # nothing was wrong
        return []
    lines = [(number, row) for number, _, _, row in JsonRecords(path, unique_keys=True, any_text=True).scan()]
    return each(lines, lambda at, line: Mistake.from_json(line[1]), lambda at: f"{path}: line {lines[at][0]}")


def write_mistakes(save_path: Path, found: Mapping[str, Sequence[Mistake]]) -> list[Mistake]:
    """Put the mistakes of some benchmarks into wrong.jsonl, in place of their earlier ones; return all rows of it."""
    path = save_path / WRONG
    kept = [one for one in load_mistakes(path) if one.benchmark not in found] if path.is_file() else []
    rows = [*kept, *(one for mistakes in found.values() for one in mistakes)]
    write_text(path, "".join(json.dumps(one.to_json()) + "\n" for one in rows))
    return rows


def mistakes(
    benchmark: Benchmark, predictions: Sequence[Prediction], by_type: Mapping[str, float], *, save_path: Path
) -> list[Mistake]:
    """Return each wrong answer; pictures that come as text are written below `save_path`."""
    found = []
    for prediction in predictions:
        right, question = benchmark.score_one(*prediction), prediction.question
        if right is None or right >= RIGHT_FROM:
            continue
        place = picture_file(question, save_path / PICTURES / benchmark.name)
        found.append(
            Mistake(
                benchmark=benchmark.name,
                question_id=question.id,
                type=question.type,
                type_accuracy=None if question.type is None else by_type.get(question.type),
                prompt=question.prompt,
                options=dict(question.options) if question.options else list(question.choices) or None,
                truth=question.truth,
                answer=prediction.text,
                right=right,
                image=None if place is None else str(place),
            )
        )
    return found


def picture_file(question: Question, folder: Path) -> Path | None:
    """Return the file of a question's picture; one that comes as text is written to `folder`, named by its content."""
    if question.image is None:
        return None
    if not isinstance(question.image, str):
        return next((path for path in question.image if path.is_file()), question.image[0])
    try:
        content = picture_bytes(question.image)
    except ValueError:  # asking would have failed; a score alone needs no picture
        content = b""
    suffix = ".png" if content.startswith(b"\x89PNG") else ".jpg"
    path = folder / (hashlib.blake2b(content, digest_size=12).hexdigest() + suffix)
    if not path.is_file():
        write_bytes(path, content)
    return path
