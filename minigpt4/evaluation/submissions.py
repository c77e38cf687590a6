"""Published files: reads their answers, scores SEED-Bench, writes MMBench's sheet, checks before a submission."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpt4.common.json_records import read_json
from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.benchmarks.choice import MMBench, SeedBench, seed_questions
from minigpt4.evaluation.benchmarks.scorers import LETTERS, leading_letter
from minigpt4.evaluation.rows import each, optional_text, read_rows, some
from minigpt4.evaluation.tables import need

_ANSWERS = ("ranks", "text", "answer", "pred")
"""The keys of an answer in the published formats."""
_IDS = ("question_id", "index", "img_id", "sents", "gt")
"""The keys that tell which question a row answers."""

NO_ANSWER, UNKNOWN = "questions without an answer", "answers to no question"
REPEATED = "questions answered more than once"
NO_COLUMN, EXTRA_COLUMN = "columns missing", "columns not wanted"
NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
"""Columns of MMBench's TSV that its server does not want."""
SHEET_COLUMNS = ("index", "question", *LETTERS, "prediction")
"""Columns that MMBench's server wants; a letter's column only where the TSV has it."""
PREDICTION_AT = 6
"""Zero-based place of the column `prediction`, right after D."""
NUM_CHARACTERS = 20
"""The number of characters of an odd answer that are shown."""
Problems = dict[str, list[str]]
"""A problem -> the ids or columns that have it."""


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


def predictions_of(questions: Sequence[Question], results: Sequence[Result]) -> list[Prediction]:
    """Return the questions with their last answers; where a question has none, its answer is empty."""
    answers = {result.id: result.text for result in results}
    return [Prediction(question, answers.get(str(question.id), "")) for question in questions]


def seed_report(annotation: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Return the lines of SEED's report: an accuracy for each question type, the total, and that of the images."""
    benchmark, predictions = SeedBench(name="seed"), predictions_of(seed_questions(annotation), results)
    images = [one for one in predictions if one.question.reference == "image"]
    score = benchmark.score(predictions)
    by_type = score.get("accuracy_by_type", {})
    names = [name for name, _ in sorted(annotation["question_type"].items(), key=lambda item: item[1])]
    rows = [(name, by_type.get(name)) for name in dict.fromkeys([*names, *by_type])]
    rows += [("Total accuracy", score["accuracy"]), ("image accuracy", benchmark.score(images)["accuracy"])]
    return [f"{name}: {accuracy or 0:.2f}%" for name, accuracy in rows]


def accuracy_lines(questions: Sequence[Question], results: Sequence[Result]) -> list[str]:
    """Return MMBench's accuracy where the truth is known, and the circular one where rows come rotated."""
    known = [question for question in questions if question.truth is not None]
    score = MMBench(name="mmbench").score(predictions_of(known, results))
    if score["accuracy"] is None:
        return ["accuracy: unknown, no row tells its answer"]
    lines = [f"accuracy: {score['accuracy']:.2f}% of {len(known)} rows that tell their answer"]
    circular = score.get("circular_accuracy")
    return lines if circular is None else [*lines, f"circular accuracy: {circular:.2f}%"]


def mmbench_questions(table: Any, file: str = "table") -> list[Question]:
    """Return the questions of MMBench's DataFrame, whose cells are texts, without prompt and image.

    `file` is the beginning of messages. Raises: ValueError that counts and shows the rows whose answer is no letter.
    """
    rows = table.to_dict("records")
    return each(rows, lambda number, row: MMBench.known(row), lambda number: f"{file}: row {number + 1}")


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


def check_ids(expected: Sequence[str], results: Sequence[Result]) -> Problems:
    """Return the problems with the ids of a result file."""
    given, wanted = Counter(result.id for result in results), set(expected)
    return {
        NO_ANSWER: [name for name in expected if name not in given],
        UNKNOWN: [name for name in given if name not in wanted],
        REPEATED: [name for name, number in given.items() if number > 1],
        "empty answers": [result.id for result in results if not result.text.strip()],
    }


def remarks(expected: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Return a line for each problem with the ids of a result file."""
    return [f"{len(names)} {what}: {some(names)}" for what, names in check_ids(expected, results).items() if names]


def check_answers(benchmark: Benchmark, questions: Sequence[Question], results: Sequence[Result]) -> Problems:
    """Return the problems with a result file, with empty lists where it has none."""
    asked = {str(question.id): question for question in questions}
    problems = check_ids(list(asked), results)
    lacking = problems[NO_ANSWER]
    videos = [name for name in lacking if asked[name].reference not in (None, "image")]
    outside: list[str] = []
    unclear: list[str] = []
    for result in results:
        if result.id in asked and result.text.strip() and not benchmark.parses(asked[result.id], result.text):
            group = unclear if leading_letter(result.text) is None else outside
            group.append(f"{result.id} {result.text[:NUM_CHARACTERS]!r}")
    return {
        **problems,
        NO_ANSWER: [name for name in lacking if name not in videos],
        "videos without an answer": videos,
        "letters out of range": outside,
        "answers that name no option": unclear,
    }


def check_columns(columns: Sequence[str], table_columns: Sequence[str]) -> Problems:
    """Return the columns that a sheet lacks, and those that the server does not want."""
    wanted = [name for name in SHEET_COLUMNS if name == "prediction" or name in table_columns]
    return {
        NO_COLUMN: [name for name in wanted if name not in columns],
        EXTRA_COLUMN: [name for name in columns if name in NOT_SUBMITTED],
    }


def report(
    results: Sequence[Result], questions: Sequence[Question], problems: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return a line for each check, with its number of problems."""
    lines = [f"rows: {len(results)}, questions: {len(questions)}"]
    return lines + [
        f"{what}: {len(names)}" + (f" ({some(names)})" if names else "") for what, names in problems.items()
    ]


def is_fit(problems: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a file can be submitted: its ids and columns fit, whatever the answers say."""
    return not any(problems.get(what) for what in (NO_ANSWER, UNKNOWN, REPEATED, NO_COLUMN, EXTRA_COLUMN))
