"""Rows of evaluation files, read as those of training files and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import ROW_ERRORS, is_number, reason_of, require, shown

NUM_SHOWN = 5
"""The number of examples of a mistake that a message lists."""
NUM_DIGITS = 18
Row = dict[str, Any]
Made = TypeVar("Made")


def read_rows(path: Path, *, key: str | None = None, any_text: bool = False) -> list[Any]:
    """Return the rows of a JSON or JSONL file, those under `key` of one object. Raises: ValueError naming the file."""
    records = JsonRecords(path, key=key, unique_keys=True, any_text=any_text)
    rows = list(records)
    if records.items:
        raise ValueError(f"{path}: holds one object, not a list of rows")
    return rows


def each(rows: Iterable[Any], make: Callable[[int, Any], Made], place: Callable[[int], str]) -> list[Made]:
    """Return `make(number, row)` of each row; `place(number)` is the beginning of messages.

    Raises: ValueError that counts and shows the bad rows.
    """
    made: list[Made] = []
    problems = []
    for number, row in enumerate(rows):
        try:
            made.append(make(number, row))
        except ROW_ERRORS as error:
            problems.append(f"{place(number)}: {reason_of(error)}")
    if problems:
        raise ValueError(first_few(problems, "bad rows"))
    return made


def first_few(problems: Sequence[str], what: str) -> str:
    """Return the first problems, each on its line, with their number where there are more."""
    lines = list(problems[:NUM_SHOWN])
    if len(problems) > NUM_SHOWN:
        lines.append(f"and {len(problems) - NUM_SHOWN:,} more; {len(problems):,} {what} in all")
    return "\n  ".join(lines)


def read_label(row: Mapping[str, Any], key: str = "label") -> int:
    """Return a label 0 or 1, also from true, false or a text of the digit. Raises: ValueError."""
    value = row[key]
    if value in ("0", "1"):
        return int(value)
    if not is_number(value) and not isinstance(value, bool):
        raise ValueError(f"'{key}' should be a number, not {shown(value)}")
    if value not in (0, 1):
        raise ValueError(f"'{key}' should be 0 or 1, not {shown(value)}")
    return int(value)


def optional_text(row: Mapping[str, Any], key: str) -> str | None:
    """Return an optional text of a row, None where it is missing. Raises: ValueError for another type."""
    if row.get(key) is not None:
        require(row, {key: str})
    return row.get(key)


def read_people(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the human answers of a row: one object or more with a text `answer`. Raises: ValueError."""
    people = row["answers"]
    if not isinstance(people, list) or not people:
        raise ValueError(f"'answers' should be a list of one or more objects with a text 'answer', not {shown(people)}")
    for number, person in enumerate(people):
        try:
            require(person, {"answer": str}, what="person's answer")
        except ValueError as error:
            raise ValueError(f"'answers'[{number}]: {error}") from error
    return people


def id_number(value: Any) -> int | None:
    """Return an id that is a number or a text of at most 18 digits, else None."""
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= NUM_DIGITS else None


def repeated(ids: Iterable[Any]) -> list[Any]:
    """Return the repeated ids, in their order."""
    seen: set[Any] = set()
    twice: dict[Any, None] = {}
    for name in ids:
        if name in seen:
            twice[name] = None
        seen.add(name)
    return list(twice)


def some(names: Sequence[str]) -> str:
    """Return the first names as text that a terminal can show."""
    first = [name if name.isprintable() else repr(name) for name in names[:NUM_SHOWN]]
    return ", ".join(first) + (", .." if len(names) > NUM_SHOWN else "")
