"""Reads the answers of published files, also those of another tool or of an earlier version."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpt4.common.json_records import read_json
from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.rows import each, optional_text, read_rows, some
from minigpt4.evaluation.tables import need

_ANSWERS = ("ranks", "text", "answer", "pred")
"""The keys of an answer in the published formats."""
_IDS = ("question_id", "index", "img_id", "sents", "gt")
"""The keys that tell which question a row answers."""


class Result(NamedTuple):
    """An answer of a result file."""

    id: str
    text: str


def read_results(path: Path) -> list[Result]:
    """Return the answers of a result file. Raises: ValueError that names file and row where there is no answer."""

    def result(number: int, row: Any) -> Result:
        require(row, {"question_id": (int, str)})
        if "text" not in row:
            raise ValueError("has no text")
        return Result(str(row["question_id"]), optional_text(row, "text") or "")

    return each(read_rows(path, any_text=True), result, lambda number: f"{path}: row {number + 1}")


def read_answers(path: Path) -> tuple[list[Result], list[str]]:
    """Return the answers of a result file or of a sheet (.xlsx), and a sheet's columns.

    Raises: ValueError that names the file when it is neither.
    """
    if path.suffix != ".xlsx":
        return read_results(path), []
    pandas = need("pandas", "reading a sheet")
    need("openpyxl", "reading a sheet")
    try:
        sheet = pandas.read_excel(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not {"index", "prediction"} <= set(sheet):
        raise ValueError(f"{path} needs the columns index and prediction; it has {some(list(sheet))}")
    pairs = zip(sheet["index"], sheet["prediction"], strict=True)
    return [Result(str(index), str(text)) for index, text in pairs], list(sheet)


def read_predictions(benchmark: Benchmark, questions: Sequence[Question], path: Path) -> list[Prediction]:
    """Return the questions with the answers of a published file, row by row.

    Raises: ValueError that names the file and the row that does not fit its question.
    """
    rows = read_json(path, any_text=True)
    if not isinstance(rows, list) or len(rows) != len(questions):
        held = len(rows) if isinstance(rows, list) else "no list of"
        raise ValueError(f"{benchmark.name}: {path} holds {held} answers to {len(questions)} questions")
    predictions = []
    for number, (question, row) in enumerate(zip(questions, rows, strict=True)):
        try:
            answer = _answer(benchmark, question, row)
            expected = benchmark.export(question, answer)
        except (KeyError, StopIteration, TypeError, IndexError) as error:
            raise ValueError(f"{benchmark.name}: {path}, row {number}: no answer in {str(row)[:100]}") from error
        odd = [key for key in _IDS if key in row and str(row[key]) != str(expected.get(key))]
        if odd:
            raise ValueError(
                f"{benchmark.name}: {path}, row {number} answers another question: its {odd[0]} is {row[odd[0]]}, "
                f"expected {expected.get(odd[0])}"
            )
        predictions.append(Prediction(question, answer))
    return predictions


def _answer(benchmark: Benchmark, question: Question, row: Any) -> Any:
    """Return the answer of a row. Raises: KeyError, StopIteration or TypeError where it holds none."""
    key = next(key for key in _ANSWERS if key in row)
    answer = row[key]
    if question.choices:
        is_answer = isinstance(answer, list) and bool(answer) and all(type(place) is int for place in answer)
    else:
        if type(answer) is int:  # yes and no may be published as numbers
            answer = next(word for word in ("yes", "no") if benchmark.export(question, word).get(key) == answer)
        is_answer = isinstance(answer, str)
    if not is_answer:
        raise TypeError(f"{answer} is no answer")
    return answer
