"""Tables: optional packages, empty cells, and sheets that hold any text."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that a sheet cannot hold."""
MAX_CELL = 32767
"""Characters that one cell of a sheet holds."""


def need(module: str, user: str) -> Any:
    """Return an optional package. Raises: ImportError that says who needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module}: pip install {module}, or this project's extra [eval]") from error


def is_absent(value: Any) -> bool:
    """Return whether a cell of a table counts as empty: NaN, or a text that reads nan or none."""
    return (isinstance(value, float) and value != value) or str(value).lower() in ("nan", "none")


def clean_cell(text: str) -> str:
    """Return the text without what a sheet cannot hold, at most `MAX_CELL` characters."""
    return NOT_IN_XML.sub("", text)[:MAX_CELL]


def write_sheet(table: Any, path: Path, user: str) -> int:
    """Write a DataFrame as the first sheet of an xlsx file and return how many cells had to be changed to fit.

    Text stays text: what begins with "=" is no formula.
    """
    need("openpyxl", user)
    pandas = need("pandas", user)
    cleaned = table.map(lambda value: clean_cell(value) if isinstance(value, str) else value)
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
