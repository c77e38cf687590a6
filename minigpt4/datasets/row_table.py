"""Where the rows of one annotation file lie, which images each of them shows, and how long its text is."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from minigpt4.common.json_records import HALF, BadRecord, JsonRecords, holds_half_characters, parse_record
from minigpt4.common.row_checks import require

DTYPES = {
    "starts": np.int64,  # a row each: the first byte of its record
    "lengths": np.int32,  # a row each: the bytes of its record
    "parts": np.int32,  # a row each: its number among the rows of its record
    "images": np.int32,  # a row each: its number among the distinct image names
    "asked": np.uint16,  # a row each: the size of its first question, 65,535 for more
    "told": np.uint16,  # a row each: the size of all that follows that question, likewise
    "faults": np.uint8,  # a row each: what is wrong with its boxes, as of datasets.boxes
    "bad_rows": np.int32,  # the rows that lack a key or have a wrong type
    "bad_records": np.int32,  # their records, counted from 1
    "names": np.uint8,  # the distinct image names, UTF-8, a zero byte between them
    "blob": np.uint8,  # the records themselves where they came from no JSON file
}
MAX_SIZE = np.iinfo(np.uint16).max
IMAGE_SEPARATOR = "\n"
"""Stands between the names of a row with several images."""


class RowRules(Protocol):
    """What of a dataset decides its rows."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The keys of a row with the types of their values."""

    def rows_of(self, record: Any) -> Sequence[Any]:
        """Return the rows of a record."""

    def image_files(self, row: Any) -> Sequence[str]:
        """Return the names of a row's images."""

    def text_sizes(self, row: Any) -> tuple[int, int]:
        """Return about how many characters the row's first question has, and all that follows it."""

    def box_fault(self, row: Any) -> int:
        """Return what is wrong with the row's boxes."""

    def remark(self, record: Any) -> str | None:
        """Return what the user should know about a record."""


class RowTable:
    """Says for each row where it is; a row's record is decoded when it is asked for.

    `arrays` are those of DTYPES; `reasons` say what is wrong with each of the bad rows; `remarks` count what the user
    should know. `unit` is what the file is counted in: records or lines.
    """

    def __init__(self, path: str, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
        self.path, self.arrays, self.info = path, arrays, info
        self.starts, self.lengths, self.parts = arrays["starts"], arrays["lengths"], arrays["parts"]
        self.reasons: list[str] = info["reasons"]
        self.remarks: dict[str, int] = info["remarks"]
        self.unit: str = info["unit"]
        self._file: int | None = None

    @classmethod
    def scan(cls, path: str, records: Iterable[Any], rules: RowRules) -> RowTable:
        """Return the table of the rows that `rules` finds in the records."""
        found, in_file = _Found(), isinstance(records, JsonRecords)
        places = records.scan() if isinstance(records, JsonRecords) else _pack(records, found.blob)
        found.take(places, rules)
        info = {
            "reasons": found.reasons,
            "remarks": dict(found.remarks),
            "unit": records.unit if isinstance(records, JsonRecords) else "record",
            "in_file": in_file,
            "items": isinstance(records, JsonRecords) and records.items,
        }
        return cls(path, found.arrays(), info)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the record that holds a row, and the row's number in it. Raises: ValueError when it is no record."""
        start, length = int(self.starts[index]), int(self.lengths[index])
        in_file = self.info["in_file"]
        text = self._read(start, length) if in_file else self.arrays["blob"][start : start + length].tobytes()
        try:
            record = parse_record(b"{%b}" % text if self.info["items"] else text)
        except ValueError as error:
            place = self.place_of(index)
            reason = f"{place}: {error}" if place else f"{self.path}: has changed since it was read; start again"
            raise ValueError(reason) from error
        return record, int(self.parts[index])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: another process opens its own."""
        return {**self.__dict__, "_file": None}

    def image_names(self) -> list[str]:
        """Return the distinct images of the rows; several of one row are joined by IMAGE_SEPARATOR."""
        return bytes(self.arrays["names"]).decode().split("\0") if len(self) else []

    def bad_row_name(self, number: int) -> str:
        """Return what the n-th of the bad rows is called in messages: its file and where it is there."""
        return f"{self.path}: {self.unit} {int(self.arrays['bad_records'][number])}"

    def place_of(self, index: int) -> str | None:
        """Return what a row is called in messages when it is one of the bad ones."""
        number = int(np.searchsorted(self.arrays["bad_rows"], index))
        is_bad = number < len(self.arrays["bad_rows"]) and int(self.arrays["bad_rows"][number]) == index
        return self.bad_row_name(number) if is_bad else None

    def _read(self, start: int, length: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        return os.pread(self._file, length, start)  # no shared file position: safe after a fork


class _Found:
    """What a scan has found so far; grows in compact arrays, not in lists of Python numbers."""

    def __init__(self) -> None:
        self.starts, self.lengths, self.parts, self.images = array("q"), array("i"), array("i"), array("i")
        self.asked, self.told, self.faults = array("i"), array("i"), array("B")
        self.bad_rows, self.bad_records = array("i"), array("i")
        self.reasons: list[str] = []
        self.remarks: Counter[str] = Counter()
        self.blob: list[bytes] = []
        self._numbers: dict[str, int] = {}

    def take(self, records: Iterable[tuple[int, int, int, Any]], rules: RowRules) -> None:
        fields, rows_of, remark, sizes_of = rules.fields, rules.rows_of, rules.remark, rules.text_sizes
        box_fault = rules.box_fault
        numbers = self._numbers
        for number, start, length, record in records:
            if type(record) is BadRecord:
                self._add_bad(start, length, 0, number, record.error)
                continue
            if text := remark(record):
                self.remarks[text] += 1
            try:
                rows = rows_of(record)
            except ValueError as error:
                self._add_bad(start, length, 0, number, str(error))  # it counts as one row
                continue
            for part, row in enumerate(rows):
                try:
                    if fields:
                        require(row, fields)
                    names, sizes, fault = rules.image_files(row), sizes_of(row), box_fault(row)
                    joined = names[0] if len(names) == 1 else IMAGE_SEPARATOR.join(names)
                    if (image := numbers.get(joined)) is None:
                        image = self._add_names(joined, len(names))
                except ValueError as error:
                    self._add_bad(start, length, part, number, str(error))
                    continue
                self._add(start, length, part, image, sizes, fault)

    def arrays(self) -> dict[str, np.ndarray]:
        whole: dict[str, Any] = {"names": "\0".join(self._numbers).encode(), "blob": b"".join(self.blob)}
        for name, sizes in (("asked", self.asked), ("told", self.told)):
            whole[name] = np.minimum(np.frombuffer(sizes, np.int32), MAX_SIZE).astype(np.uint16)
        return {
            name: np.frombuffer(whole[name] if name in whole else getattr(self, name), dtype)
            for name, dtype in DTYPES.items()
        }

    def _add(self, start: int, length: int, part: int, image: int, sizes: tuple[int, int], fault: int = 0) -> None:
        self.starts.append(start)
        self.lengths.append(length)
        self.parts.append(part)
        self.images.append(image)
        self.asked.append(sizes[0])
        self.told.append(sizes[1])
        self.faults.append(fault)

    def _add_bad(self, start: int, length: int, part: int, number: int, reason: str) -> None:
        self.bad_rows.append(len(self.starts))
        self.bad_records.append(number)
        self.reasons.append(reason)
        self._add(start, length, part, self._numbers.setdefault("", len(self._numbers)), (0, 0))

    def _add_names(self, joined: str, num_names: int) -> int:
        if "\0" in joined or joined.count(IMAGE_SEPARATOR) >= max(num_names, 1):
            raise ValueError("the name of its image holds a NUL byte or a line break")
        return self._numbers.setdefault(joined, len(self._numbers))


def _pack(records: Iterable[Any], pieces: list[bytes]) -> Iterator[tuple[int, int, int, Any]]:
    start = 0
    for number, record in enumerate(records, 1):
        pieces.append(json.dumps(record).encode())
        bad = BadRecord(HALF) if b"\\ud" in pieces[-1] and holds_half_characters(record) else None
        yield number, start, len(pieces[-1]), bad or record
        start += len(pieces[-1])
