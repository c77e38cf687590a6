"""Checking a result file, ours or another's, before it is submitted: ids, letters, columns, known accuracy."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt4.evaluation.benchmarks.choice import MMBench
from minigpt4.evaluation.benchmarks.scorers import (
    LETTERS,
    circular_percent,
    first_letter,
    leading_letter,
    percent,
    read_letter,
)
from minigpt4.evaluation.rows import each
from minigpt4.evaluation.submissions import (
    NO_ANSWER,
    NOT_SUBMITTED,
    REPEATED,
    UNKNOWN,
    Result,
    check_ids,
    read_results,
    some,
)
from minigpt4.evaluation.tables import is_absent, need
from minigpt4.evaluation.tsv import true_letter

NO_COLUMN, EXTRA_COLUMN = "columns missing", "columns not wanted"
NUM_CHARACTERS = 20
"""How much of an odd answer is shown."""
SHEET_COLUMNS = ("index", "question", *LETTERS, "prediction")
"""Columns that MMBench's server wants; a letter's column only where the TSV has it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a question allows: its options by letter, and the true letter where it is known; videos need no answer."""

    options: Mapping[str, str]
    truth: str | None = None
    is_video: bool = False


def seed_asked(annotation: Mapping[str, Any]) -> dict[str, Reference]:
    """Return id -> what is asked of SEED's annotation."""
    return {
        str(question["question_id"]): Reference(
            options={letter: str(question.get(f"choice_{letter.lower()}", "")) for letter in LETTERS},
            truth=question["answer"],
            is_video=question["data_type"] != "image",
        )
        for question in annotation["questions"]
    }


def mmbench_asked(table: Any, file: str = "table") -> dict[str, Reference]:
    """Return id -> what is asked of MMBench's DataFrame, whose cells are texts.

    `file` is the beginning of messages. Raises: ValueError that counts and shows the rows whose answer is no letter.
    """
    rows = table.to_dict("records")

    def asked(number: int, row: Any) -> tuple[str, Reference]:
        options = {letter: row[letter] for letter in LETTERS if not is_absent(row.get(letter))}
        return str(int(row["index"])), Reference(options, true_letter(row))

    return dict(each(rows, asked, lambda number: f"{file}: row {number + 1}"))


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


def check_answers(
    asked: Mapping[str, Reference], results: Sequence[Result], *, by_first_letter: bool
) -> dict[str, list[str]]:
    """Return what is wrong -> the ids it is wrong with; empty lists where nothing is."""
    problems = check_ids(list(asked), results)
    lacking = problems[NO_ANSWER]
    outside: list[str] = []
    unclear: list[str] = []
    for result in results:
        if result.id not in asked or not result.text.strip():
            continue
        options = asked[result.id].options
        letter = first_letter(result.text) if by_first_letter else read_letter(result.text, options)
        if letter not in options:
            group = unclear if leading_letter(result.text) is None else outside
            group.append(f"{result.id} {result.text[:NUM_CHARACTERS]!r}")
    return {
        **problems,
        NO_ANSWER: [name for name in lacking if not asked[name].is_video],
        "videos without an answer": [name for name in lacking if asked[name].is_video],
        "letters out of range": outside,
        "answers that name no option": unclear,
    }


def check_columns(columns: Sequence[str], table_columns: Sequence[str]) -> dict[str, list[str]]:
    """Return which columns a sheet lacks and which ones the server does not want."""
    wanted = [name for name in SHEET_COLUMNS if name == "prediction" or name in table_columns]
    return {
        NO_COLUMN: [name for name in wanted if name not in columns],
        EXTRA_COLUMN: [name for name in columns if name in NOT_SUBMITTED],
    }


def accuracy_lines(asked: Mapping[str, Reference], results: Sequence[Result]) -> list[str]:
    """Return the accuracy over the rows whose truth is known, and the circular one where rows come rotated."""
    answers = {result.id: result.text for result in results}
    rights = {
        name: MMBench.score_answer(answers.get(name, ""), question.truth, question.options)
        for name, question in asked.items()
        if question.truth is not None
    }
    plain = percent(list(rights.values()))
    if plain is None:
        return ["accuracy: unknown, no row tells its answer"]
    lines = [f"accuracy: {plain:.2f}% of {len(rights)} rows that tell their answer"]
    circular = circular_percent((int(name), right) for name, right in rights.items())
    return lines if circular is None else [*lines, f"circular accuracy: {circular:.2f}%"]


def report(
    results: Sequence[Result], asked: Mapping[str, Reference], problems: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the lines that say what was checked, each with its number."""
    lines = [f"rows: {len(results)}, questions: {len(asked)}"]
    return lines + [
        f"{what}: {len(names)}" + (f" ({some(names)})" if names else "") for what, names in problems.items()
    ]


def is_fit(problems: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a file can be submitted: its ids and columns fit, whatever the answers say."""
    return not any(problems.get(what) for what in (NO_ANSWER, UNKNOWN, REPEATED, NO_COLUMN, EXTRA_COLUMN))
