"""Rows of annotation files: the hooks that find them, and a table with the place of each row in its file."""

from __future__ import annotations

import json
import os
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np

from minigpt4.common.json_records import HALF, BadRecord, JsonRecords, holds_half_characters, parse_record
from minigpt4.common.row_checks import ROW_ERRORS, reason_of, require
from minigpt4.datasets.boxes import INSIDE
from minigpt4.datasets.lengths import TokenCosts, mean_chars

Row = dict[str, Any]

ROW = {
    "starts": np.int64,  # the first byte of the row's record
    "lengths": np.int32,  # the bytes of its record
    "parts": np.int32,  # its number among the rows of its record
    "images": np.int32,  # its number among the distinct image names
    "prompt_chars": np.uint16,  # the characters of its first question, at most 65,535
    "answer_chars": np.uint16,  # the characters after that question, at most 65,535
    "faults": np.uint8,  # the fault of its boxes, see datasets.boxes
}
"""The columns of the table."""
DTYPES = ROW | {
    "names": np.uint8,  # the distinct image names, UTF-8, a zero byte between them
    "blob": np.uint8,  # the records themselves where they came from no JSON file
}
_PACKED, _pack = np.dtype(list(ROW.items())), struct.Struct("<qiiiHHB").pack
MAX_CHARS = np.iinfo(np.uint16).max
IMAGE_SEPARATOR = "\n"
"""Joins the image names of a row with several images."""


class RowRules:
    """Finds the rows of annotation files. All answers but those of `box_fault_in` depend on the files alone."""

    fields: ClassVar[dict[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    other_files: Sequence[str] = ()
    """Further files that the rows depend on."""

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records of an annotation file; `JsonRecords` stay in the file, others are copied."""
        return JsonRecords(path)

    def rows_of(self, record: Any) -> Sequence[Row]:
        """Return the rows of a record, by default the record itself; [] leaves it out."""
        return [record]

    def remark(self, record: Any) -> str | None:
        """Return a remark about a record; the log counts equal ones."""
        return None

    def image_files(self, row: Row) -> list[str]:
        """Return the names of the row's images, below the image folder or absolute; [] for a row of text only.

        By default the row's `image`.
        """
        return [row["image"]]

    def text_chars(self, row: Row) -> tuple[int, int]:
        """Return about how many characters the first question has, and all that follows it.

        Images and the prompt template do not count. Balancing the ranks uses it. By default all texts of the row count
        as its answer.
        """
        images = self.image_files(row)
        values: list[list[Any]] = [value if isinstance(value, list) else [value] for value in map(row.get, self.fields)]
        answers = (texts for texts in values if all(isinstance(text, str) and text not in images for text in texts))
        return 0, sum(map(mean_chars, answers))

    def box_fault(self, row: Row) -> int:
        """Return the fault of the row's boxes, see `datasets.boxes`; by default it has none."""
        return INSIDE

    def box_fault_in(self, row: Row, image_size: tuple[int, int]) -> int:
        """Return the fault of a row whose `box_fault` is UNKNOWN, given its image's (width, height)."""
        raise NotImplementedError


class RowTable:
    """Finds each row in its file; a row's record is decoded when it is needed.

    `arrays` are those of DTYPES. `info` says how to read the file. Its `bad` has (row, number of its record, reason)
    for each unusable row, its `remarks` count remarks for the user. Another process calls `reopen` to get the table;
    without it the arrays travel.
    """

    def __init__(
        self,
        path: str,
        arrays: Mapping[str, np.ndarray],
        info: Mapping[str, Any],
        reopen: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
    ) -> None:
        self.path, self.arrays, self.info, self._reopen = path, arrays, info, reopen
        self.bad: list[tuple[int, int, str]] = info["bad"]
        self.remarks: dict[str, int] = info["remarks"]
        self._file: int | None = None

    @classmethod
    def scan(cls, path: str, records: Iterable[Any], rules: RowRules) -> RowTable:
        """Return the table of the rows that `rules` finds in the records."""
        found, blob, bad, remarks = bytearray(), bytearray(), [], Counter[str]()
        numbers: dict[str, int] = {}
        fields, in_file = rules.fields, isinstance(records, JsonRecords)
        for number, start, length, record in (
            records.scan() if isinstance(records, JsonRecords) else _kept(records, blob)
        ):
            try:
                if type(record) is BadRecord:
                    raise ValueError(record.error)
                if text := rules.remark(record):
                    remarks[text] += 1
                rows: Sequence[Any] = rules.rows_of(record)
            except ROW_ERRORS as error:  # it counts as one row
                rows = [BadRecord(reason_of(error))]
            for part, row in enumerate(rows):
                try:
                    if type(row) is BadRecord:
                        raise ValueError(row.error)
                    if fields:
                        require(row, fields)
                    names, chars, fault = rules.image_files(row), rules.text_chars(row), rules.box_fault(row)
                    joined = names[0] if len(names) == 1 else IMAGE_SEPARATOR.join(names)
                    if (image := numbers.get(joined)) is None:
                        image = _add_names(joined, len(names), numbers)
                except ROW_ERRORS as error:
                    bad.append((len(found) // _PACKED.itemsize, number, reason_of(error)))
                    image, chars, fault = numbers.setdefault("", len(numbers)), (0, 0), 0
                found += _pack(start, length, part, image, min(chars[0], MAX_CHARS), min(chars[1], MAX_CHARS), fault)
        packed = np.frombuffer(found, _PACKED)
        arrays: dict[str, np.ndarray] = {name: np.ascontiguousarray(packed[name]) for name in ROW}
        arrays["names"] = np.frombuffer("\0".join(numbers).encode(), np.uint8)
        arrays["blob"] = np.frombuffer(blob, np.uint8)
        unit, items = (records.unit, records.items) if isinstance(records, JsonRecords) else ("record", False)
        return cls(path, arrays, {"bad": bad, "remarks": remarks, "unit": unit, "items": items, "in_file": in_file})

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.arrays["starts"])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the record that holds a row, and the row's number in it. Raises: ValueError when it is no record."""
        start, length = int(self.arrays["starts"][index]), int(self.arrays["lengths"][index])
        in_file = self.info["in_file"]
        text = self._read(start, length) if in_file else self.arrays["blob"][start : start + length].tobytes()
        try:
            record = parse_record(b"{%b}" % text if self.info["items"] else text)
        except ValueError as error:
            place = self.place_of(index)
            reason = f"{place}: {error}" if place else f"{self.path}: has changed since it was read; start again"
            raise ValueError(reason) from error
        return record, int(self.arrays["parts"][index])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Leave out the open file: another process opens its own."""
        return self._reopen or (RowTable, (self.path, self.arrays, self.info))

    def num_bytes(self) -> int:
        """Return the memory that the arrays take."""
        return sum(array.nbytes for array in self.arrays.values())

    def image_names(self) -> list[str]:
        """Return the distinct images of the rows; several of one row are joined by IMAGE_SEPARATOR."""
        return bytes(self.arrays["names"]).decode().split("\0") if len(self) else []

    def bad_row_name(self, number: int) -> str:
        """Return the name of the n-th bad row in messages: its file and its number there."""
        return f"{self.path}: {self.info['unit']} {self.bad[number][1]}"

    def place_of(self, index: int) -> str | None:
        """Return the name of a row in messages, None if it is not a bad one."""
        number = bisect_left(self.bad, index, key=itemgetter(0))
        is_bad = number < len(self.bad) and self.bad[number][0] == index
        return self.bad_row_name(number) if is_bad else None

    def token_estimates(self, kept: np.ndarray | None, costs: TokenCosts, *, around: float) -> np.ndarray:
        """Return the estimated tokens of the kept rows, (num_kept,) uint16; `around`: characters of templates."""
        groups = [names.count(IMAGE_SEPARATOR) + 1 if names else 0 for names in self.image_names()]
        prompt_chars, answer_chars, images = (self.arrays[name] for name in ("prompt_chars", "answer_chars", "images"))
        if kept is not None:
            prompt_chars, answer_chars, images = prompt_chars[kept], answer_chars[kept], images[kept]
        tokens = (prompt_chars + np.float32(around)) * np.float32(costs.character)
        tokens += (np.array(groups, np.float32) * costs.image)[images]
        np.minimum(tokens, costs.max_prompt, out=tokens)
        tokens += np.minimum(answer_chars * np.float32(costs.character), costs.max_rest)
        tokens += costs.layout
        rounded: np.ndarray = np.minimum(tokens, MAX_CHARS, out=tokens).round().astype(np.uint16)
        return rounded

    def _read(self, start: int, length: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        return os.pread(self._file, length, start)  # no shared file position: safe after a fork


def _add_names(joined: str, num_names: int, numbers: dict[str, int]) -> int:
    if "\0" in joined or joined.count(IMAGE_SEPARATOR) >= max(num_names, 1):
        raise ValueError("the name of its image holds a NUL byte or a line break")
    return numbers.setdefault(joined, len(numbers))


def _kept(records: Iterable[Any], blob: bytearray) -> Iterator[tuple[int, int, int, Any]]:
    """Yield records as `JsonRecords.scan` does, and keep their JSON in `blob`."""
    for number, record in enumerate(records, 1):
        text, start = json.dumps(record).encode(), len(blob)
        blob += text
        yield number, start, len(text), BadRecord(HALF) if b"\\ud" in text and holds_half_characters(record) else record
