"""Records of JSON files, read one after the other with the place where each lies: no file is held in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from types import GenericAlias
from typing import Any, BinaryIO

CHUNK = 1 << 22
LONGEST_TEXT = 1 << 26
"""Characters after which what does not parse is no longer taken for a record that goes on behind the window."""
_BLANKS = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class _Window:
    """A piece of text that slides over a UTF-8 file and knows its place in bytes."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file, self.path = file, path
        self.text, self.at = "", 0
        self.start = 0  # the byte where the last value began
        self.byte = 3 if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(self.byte)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        """Read on, at least as much as is still unread; False at the end of the file."""
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        try:
            self.text = self.text[self.at :] + self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: is not UTF-8 text: {error}") from error
        self.at = 0
        return bool(data)

    def advance(self, end: int) -> None:
        """Move to character `end` of the window."""
        passed = self.text[self.at : end]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.at = end

    def peek(self) -> str:
        """Return the next character that is not blank, or an empty string at the end."""
        if self.at < len(self.text) and self.text[self.at] not in " \t\n\r":
            return self.text[self.at]
        while True:
            match = _BLANKS.match(self.text, self.at)
            assert match is not None
            self.advance(match.end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        """Pass one of the expected characters and return it."""
        found = self.peek()
        if not found or found not in expected:
            what = f"'{found}'" if found else "its end"
            raise ValueError(f"{self.path}: broken JSON at byte {self.byte}: {what} where one of {expected} should be")
        self.advance(self.at + 1)
        return found

    def value(self) -> Any:
        """Pass one JSON value and return it."""
        self.peek()
        self.start = self.byte
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                at = self.byte + error.pos - self.at
                if len(self.text) - error.pos < LONGEST_TEXT and self.more():
                    continue
                raise ValueError(f"{self.path}: broken or cut off JSON near byte {at}: {error.msg}") from error
            if end < len(self.text) or not self.more():  # a number at the very end may go on behind it
                self.advance(end)
                return value


class JsonRecords:
    """The records of a JSON file: the elements of its list, or the items of its object as one-item dicts.

    With `key`, and an object at the top, the records are the elements of the list under that key.
    """

    def __init__(self, path: str, *, key: str | None = None) -> None:
        self.path, self.key = path, key
        self.items = False
        """Whether the records are items of an object; known once the file has been looked into."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the records one after the other."""
        return (record for _, _, record in self.scan())

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (first byte, number of bytes, record).

        Raises: ValueError naming the file and the byte where it is no JSON or ends too early.
        """
        with open(self.path, "rb") as file:
            window = _Window(file, self.path)
            closing = "]" if window.take("[{") == "[" else "}"
            if closing == "}" and self.key is not None:
                self._find_key(window)
                closing = "]"
            self.items = closing == "}"
            if window.peek() == closing:
                return
            while True:
                record = window.value()
                start = window.start
                if closing == "}":
                    window.take(":")
                    record = {record: window.value()}
                yield start, window.byte - start, record
                if window.take("," + closing) == closing:
                    return

    def _find_key(self, window: _Window) -> None:
        while window.peek() != "}":
            name = window.value()
            window.take(":")
            if name == self.key:
                window.take("[")
                return
            window.value()
            if window.take(",}") == "}":
                break
        raise ValueError(f"{self.path}: has no list under '{self.key}'")


class JsonLines:
    """The records of a JSONL file: one a line."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        """Yield the records one after the other."""
        return (record for _, _, record in self.scan())

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (first byte, number of bytes, record). Raises: ValueError naming the file and the line."""
        start = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() and not file.read().strip():
                    return  # blank lines at the end
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{self.path}: line {number}: is no JSON: {error}") from error
                yield start, len(line), record
                start += len(line)


def require(row: Any, fields: Mapping[str, Any], what: str = "row") -> None:
    """Check that a row has these keys with values of these types; `list[str]` is one text or more.

    Raises: ValueError naming the key.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a {what} should be an object with {', '.join(fields)}, not {type(row).__name__}")
    for key, kind in fields.items():
        if key not in row:
            raise ValueError(f"'{key}' is missing (there are {', '.join(map(str, row)) or 'no keys'})")
        value = row[key]
        if type(kind) is GenericAlias:  # list[str]
            if not isinstance(value, list) or set(map(type, value)) != {str}:
                raise ValueError(f"'{key}' should be a list of one or more texts")
        elif not isinstance(value, kind):
            raise ValueError(f"'{key}' should be {_words(kind)}, not {type(value).__name__}")


def _words(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(names.get(one, getattr(one, "__name__", str(one))) for one in kinds)
