"""Tables: MMBench's TSV files, empty cells, and sheets that hold any text.

A TSV is checked line by line, since pandas reads a broken one as fewer rows, and then read by pandas.
"""

from __future__ import annotations

import importlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpt4.common.paths import read_text
from minigpt4.common.row_checks import shown
from minigpt4.evaluation.rows import first_few, id_number, repeated

NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that a sheet cannot hold."""
MAX_CELL = 32767
"""Characters that one cell of a sheet holds."""
_CELL = re.compile(r'(?:"(?P<quoted>[^"]*(?:""[^"]*)*)(?P<close>"|\Z))?(?P<rest>[^\t\r\n]*)(?P<end>\t|\r\n|\r|\n|\Z)')
_INDEXED = re.compile(r"\s*\d+\t")
_LINE_END = re.compile(r"\r\n|\r|\n")


def need(module: str, user: str) -> Any:
    """Return an optional package. Raises: ImportError that says who needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module}: pip install {module}, or this project's extra [eval]") from error


def is_absent(value: Any) -> bool:
    """Return whether a cell of a table counts as empty: NaN, or the text nan or none in any case."""
    return (isinstance(value, float) and value != value) or str(value).lower() in ("nan", "none")


def write_sheet(table: Any, path: Path, user: str) -> int:
    """Write a DataFrame as the first sheet of an xlsx file and return the number of cells that were changed to fit.

    Text stays text: what begins with "=" is no formula.
    """
    need("openpyxl", user)
    pandas = need("pandas", user)
    cleaned = table.map(lambda value: NOT_IN_XML.sub("", value)[:MAX_CELL] if isinstance(value, str) else value)
    num_changed = int(((cleaned != table) & table.notna()).to_numpy().sum())
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.xlsx")
    with pandas.ExcelWriter(beside, engine="openpyxl") as writer:
        cleaned.to_excel(writer, index=False)
        for row in writer.book.active.iter_rows():
            for cell in row:
                if cell.data_type == "f":
                    cell.data_type = "s"
    beside.replace(path)
    return num_changed


class _Cell(NamedTuple):
    """A cell: the line where it begins, its text, the number of its line ends.

    `is_odd`: the quotation mark at its begin is not closed, or is closed in front of more text on a later line.
    """

    line: int
    text: str
    num_lines: int
    is_odd: bool


def read_tsv(path: Path, user: str, *, columns: Sequence[str] = ("index",), as_text: bool = False) -> Any:
    """Return a DataFrame of a tab-separated file, read with pandas' defaults (empty, NA, null.. become NaN).

    `columns` are those it must have, `index` among them; `as_text` keeps a column of numbers as text.
    Raises: ValueError that names the file, and the lines and rows that are broken.
    """
    pandas = need("pandas", user)
    text = read_text(path)
    index = check_lines(text, path, columns)
    if problems := _index_problems(index):
        raise ValueError(first_few([f"{path}: {problem}" for problem in problems], "bad rows"))
    try:
        table = pandas.read_csv(io.StringIO(text), sep="\t", dtype=str if as_text else None)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if len(table) != len(index):
        raise ValueError(f"{path}: has {len(index)} rows, but pandas reads {len(table)}; is a quotation mark wrong?")
    return table


def check_lines(text: str, path: Path, columns: Sequence[str]) -> list[str]:
    """Return the column `index` of a table. Raises: ValueError that names the lines that are no rows."""
    records = _records(text)
    names = [cell.text for cell in next(records, [])]
    lacking = [name for name in columns if name not in names]
    if lacking:
        commas = "; is it separated by commas instead of tabs?" if len(names) == 1 and "," in names[0] else ""
        raise ValueError(f"{path}: has no column {', '.join(lacking)}{commas}")
    if twice := repeated(names):
        raise ValueError(f"{path}: has the column '{twice[0]}' twice")
    problems, index = [], []
    for cells in records:
        broken = [found for place, cell in enumerate(cells) if (found := _quotation(cell, place, names))]
        if not broken and len(cells) != len(names):
            broken = [f"line {cells[0].line}: has {len(cells)} fields, though the first line has {len(names)}"]
        problems += broken
        index.append(cells[names.index("index")].text if not broken else "")
    if problems:
        raise ValueError(first_few([f"{path}: {problem}" for problem in problems], "bad lines"))
    return index


def _records(text: str) -> Iterator[list[_Cell]]:
    """Yield the cells of each record; lines of blanks alone are none, as for pandas."""
    line = 1
    cells: list[_Cell] = []
    for match in _CELL.finditer(text):
        quoted, rest = match["quoted"], match["rest"]
        whole = rest if quoted is None else quoted.replace('""', '"') + rest
        num_lines = len(_LINE_END.findall(quoted or ""))
        is_odd = quoted is not None and (not match["close"] or (num_lines > 0 and bool(rest)))
        cells.append(_Cell(line, whole, num_lines, is_odd))
        line += num_lines
        if match["end"] != "\t":
            if len(cells) > 1 or quoted is not None or rest.strip(" "):
                yield cells
            line, cells = line + 1, []


def _quotation(cell: _Cell, place: int, names: Sequence[str]) -> str | None:
    """Return the message about a quotation mark that is not closed, so that a cell holds further rows, else None."""
    is_odd = cell.is_odd
    if cell.num_lines and not is_odd:
        first, *inner, last = _LINE_END.split(cell.text)
        ends_a_row = first.count("\t") == len(names) - 1 - place
        rows = [line for line in inner if line.count("\t") == len(names) - 1]
        rows += [last] * (ends_a_row and last.count("\t") == place)
        is_odd = any(map(_INDEXED.match, rows))
    if not is_odd:
        return None
    name = names[place] if place < len(names) else f"field {place + 1}"
    taken = f"; {cell.num_lines} further lines would become part of it" if cell.num_lines else ""
    return f"line {cell.line}: the quotation mark that begins its '{name}' is not closed{taken}"


def _index_problems(index: Sequence[str]) -> list[str]:
    problems = []
    rows: dict[int, int] = {}
    for row, text in enumerate(index, 1):
        if (number := id_number(text)) is None:
            problems.append(f"row {row}: index {shown(text)} should be a number")
        elif rows.setdefault(number, row) != row:
            problems.append(f"row {row}: index {number} is that of row {rows[number]} too")
    return problems
