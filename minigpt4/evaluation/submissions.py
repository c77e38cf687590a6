"""From result files to what is reported: SEED's accuracies and MMBench's sheet for its server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmarks.choice import SeedBench
from minigpt4.evaluation.rows import NUM_SHOWN, each, optional_text, read_rows
from minigpt4.evaluation.tables import need
from minigpt4.evaluation.tsv import read_tsv

NO_ANSWER, UNKNOWN = "questions without an answer", "answers to no question"
REPEATED = "questions answered more than once"
NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
"""Columns of MMBench's TSV that its server does not want."""
PREDICTION_AT = 6
"""Zero-based place of the column `prediction`, right after D."""


class Result(NamedTuple):
    """An answer of a result file."""

    id: str
    text: str


def read_results(path: Path) -> list[Result]:
    """Return the answers of a result file. Raises: ValueError that names file and row of what is no answer."""

    def result(number: int, row: Any) -> Result:
        require(row, {"question_id": (int, str)})
        if "text" not in row:
            raise ValueError("has no text")
        return Result(str(row["question_id"]), optional_text(row, "text") or "")

    return each(read_rows(path, any_text=True), result, lambda number: f"{path}: row {number + 1}")


def seed_report(annotation: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Return the lines of SEED's report: an accuracy a question type, the total, and that of the images.

    A question without an answer counts as wrong; of repeated answers the last counts.
    """
    answers = {result.id: result.text for result in results}
    right: Counter[Any] = Counter()
    asked: Counter[Any] = Counter()
    for question in annotation["questions"]:
        answer = answers.get(str(question["question_id"]), "")
        hit = SeedBench.score_answer(answer, question["answer"]) == 1
        for group in (_type_key(question["question_type_id"]), question["data_type"], "total"):
            asked[group] += 1
            right[group] += hit

    def line(title: str, group: Any) -> str:
        return f"{title}: {100 * right[group] / max(asked[group], 1):.2f}%"

    types = sorted(annotation["question_type"].items(), key=lambda item: item[1])
    groups = [(name, _type_key(number)) for name, number in types]
    listed = {key for _, key in groups}
    groups += [(f"type {key[1]}", key) for key in asked if isinstance(key, tuple) and key not in listed]
    return [
        *(line(name, key) for name, key in groups),
        line("Total accuracy", "total"),
        line("image accuracy", "image"),
    ]


def _type_key(number: int | str) -> tuple[str, str]:
    """Return what questions of one type share; some files write the same number as text."""
    return "type", str(number)


def mmbench_table(table: Any, results: Sequence[Result]) -> Any:
    """Return MMBench's DataFrame as its server wants it, with the answers in a column `prediction`.

    Of repeated answers the last counts; a row without an answer stays empty.
    """
    pandas = need("pandas", "the mmbench converter")
    answers = {result.id: result.text.capitalize() for result in results}
    table = table.drop(columns=[name for name in NOT_SUBMITTED if name in table])
    predictions = pandas.Series([answers.get(str(index)) for index in table["index"]], index=table.index, dtype=object)
    table.insert(min(PREDICTION_AT, table.shape[1]), "prediction", predictions)
    return table


def read_mmbench(path: Path, *, as_text: bool = False) -> Any:
    """Return MMBench's TSV as a DataFrame. Raises: ValueError that names the lines and rows that are broken."""
    return read_tsv(path, "the mmbench converter", columns=("index",), as_text=as_text)


def check_ids(expected: Sequence[str], results: Sequence[Result]) -> dict[str, list[str]]:
    """Return what is wrong with the ids of a result file -> the ids; of repeated answers the last counts."""
    given, wanted = Counter(result.id for result in results), set(expected)
    return {
        NO_ANSWER: [name for name in expected if name not in given],
        UNKNOWN: [name for name in given if name not in wanted],
        REPEATED: [name for name, number in given.items() if number > 1],
        "empty answers": [result.id for result in results if not result.text.strip()],
    }


def remarks(expected: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Return a line for each thing that is wrong with the ids of a result file."""
    return [f"{len(names)} {what}: {some(names)}" for what, names in check_ids(expected, results).items() if names]


def some(names: Sequence[str]) -> str:
    """Return the first names as text that a terminal can show."""
    shown = [name if name.isprintable() else repr(name) for name in names[:NUM_SHOWN]]
    return ", ".join(shown) + (", .." if len(names) > NUM_SHOWN else "")
