"""Reads records of JSON files one after the other with their positions; no file is held in memory.

Training and evaluation files follow the same rules. The content decides: a list gives its elements, an object its
items, and one object a line is JSON lines.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from minigpt4.common.paths import open_text
from minigpt4.common.row_checks import NUMBER

CHUNK = 1 << 22
LONGEST_TEXT = 1 << 26
"""Maximum length of a record in characters. Longer text that does not parse is an error."""
LOOK_AHEAD = 1 << 20
"""Maximum length of the first JSON line in characters, in a file without the ending .jsonl."""
HALF = "a text holds half a character: a \\ud8xx escape without its other half"
BLANKS = " \t\n\r"
_BLANKS = re.compile(f"[{BLANKS}]*")
_NUMBER = re.compile(r"[-+.\deE]*")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key '{next(name for name in names if names.count(name) > 1)}' twice")
    return found


_DECODER, _CAREFUL_DECODER = json.JSONDecoder(), json.JSONDecoder(object_pairs_hook=_unique)


class BadRecord:
    """Replaces an unusable record in `scan`; `error` is the reason."""

    def __init__(self, error: str) -> None:
        self.error = error


class _Window:
    """A piece of text that slides over a UTF-8 file and counts bytes."""

    def __init__(self, file: BinaryIO, path: str, *, chunk: int, decoder: json.JSONDecoder) -> None:
        self.file, self.path, self.chunk, self.decode = file, path, chunk, decoder.raw_decode
        self.text, self.at = "", 0
        self.byte = self.start = file.tell()  # of the next character; of the record
        self.has_halves = False  # whether the record may hold half characters
        self._text_has_halves = False
        self._to_text = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        """Read more, at least the length of the unread rest; return False at the end of the file."""
        data = self.file.read(max(self.chunk, len(self.text) - self.at))
        num_kept = len(self._to_text.getstate()[0])
        try:
            self.text = self.text[self.at :] + self._to_text.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = self.file.tell() - len(data) - num_kept + error.start
            raise ValueError(f"{self.path}: is not UTF-8 text: {error.reason} at byte {at}") from error
        self.at = 0
        self._text_has_halves = _has_halves(self.text, 0, len(self.text))  # once a chunk is cheap
        return bool(data)

    def advance(self, end: int) -> None:
        """Move to character `end` of the window."""
        passed = self.text[self.at : end]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.at = end

    def peek(self) -> str:
        """Return the next character that is not blank, or an empty string at the end."""
        found = self.text[self.at : self.at + 1]
        if found == " ":  # the usual one blank: quicker than the expression below
            self.at += 1
            self.byte += 1
            found = self.text[self.at : self.at + 1]
        if found not in BLANKS:
            return found
        while True:
            match = _BLANKS.match(self.text, self.at)
            assert match is not None
            self.byte += match.end() - self.at
            self.at = match.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def need(self, expected: str) -> str:
        """Return the next character, one of those expected."""
        found = self.peek()
        if not found or found not in expected:
            what = repr(found) if found else "its end"
            raise ValueError(f"{self.path}: broken JSON at byte {self.byte}: {what} where one of {expected} should be")
        return found

    def take(self, expected: str) -> str:
        """Pass one of the expected characters and return it."""
        found = self.text[self.at : self.at + 1]
        if not found or found not in expected:  # a blank, or what should not be there
            found = self.need(expected)
        self.at += 1
        self.byte += 1
        return found

    def key(self) -> str:
        """Pass the key of an object with its colon and return the key."""
        self.need('"')
        name: str = self.value()
        self.take(":")
        return name

    def value(self) -> Any:
        """Pass one JSON value and return it."""
        self.peek()
        while True:
            begin = self.at
            try:
                value, end = self.decode(self.text, begin)
            except json.JSONDecodeError as error:
                if len(self.text) - error.pos < LONGEST_TEXT and self.more():
                    continue
                at = self.byte + len(self.text[self.at : self.at + error.pos - begin].encode())
                raise ValueError(f"{self.path}: broken or cut off JSON near byte {at}: {error.msg}") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or a key twice
                raise ValueError(f"{self.path}: broken JSON near byte {self.byte}: {_why(error)}") from error
            if isinstance(value, NUMBER) and _NUMBER.fullmatch(self.text, end):  # its next digit may follow
                if self.more():
                    continue
                end -= begin
            self.has_halves |= self._text_has_halves and _has_halves(self.text, self.at, end)
            self.advance(end)
            return value

    def members(self, opening: str) -> Iterator[str | None]:
        """Stop before each value of a list or an object that has begun; its reader passes the value.

        Yields the value's key, None in a list. `start` and `has_halves` are then those of this member.
        """
        closing = "]" if opening == "[" else "}"
        if self.peek() == closing:
            self.take(closing)
            return
        while True:
            self.peek()
            self.start, self.has_halves = self.byte, False
            yield self.key() if opening == "{" else None
            if self.take("," + closing) == closing:
                return


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


class JsonRecords:
    """The records of a JSON file: the elements of its list, its JSON lines, or the items of its object as dicts.

    With `key`, and one object in the file, the records are the elements of the list under that key. If an object has a
    key twice, the last value counts, as in Python; `unique_keys` makes it an error, which takes longer. `any_text`
    accepts half characters, since a model may write them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: str | None = None,
        unique_keys: bool = False,
        any_text: bool = False,
        chunk: int = CHUNK,
    ) -> None:
        self.path, self.key, self.chunk = os.fspath(path), key, chunk
        self.any_text, self.unique_keys = any_text, unique_keys
        self.unit, self.items = "record", False
        """The unit of record numbers, and whether records are items; `scan` sets both."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the records one after the other. Raises: as `scan`, and naming an unusable record."""
        for number, _, _, record in self.scan():
            if isinstance(record, BadRecord):
                raise ValueError(f"{self.path}: {self.unit} {number}: {record.error}")
            yield record

    def scan(self) -> Iterator[tuple[int, int, int, Any]]:
        """Yield (number from 1, first byte, number of bytes, record); a BadRecord for one with half characters.

        Raises: ValueError naming the file and the byte or line where it is not JSON, ends early or has more text.
        """
        self.unit, self.items = "record", False
        with open_text(self.path) as file:
            begin = file.tell()
            decoder = _CAREFUL_DECODER if self.unique_keys else _DECODER
            window = _Window(file, self.path, chunk=self.chunk, decoder=decoder)
            if window.peek() == "{" and self._has_lines(window):
                self.unit = "line"
                file.seek(begin)
                yield from self._lines(file, decoder)
                return
            if not window.peek():
                raise ValueError(f"{self.path}: is blank")
            opening = window.take("[{")
            if opening == "{" and self.key is not None:
                yield from self._list_under_key(window)
            else:
                self.items = opening == "{"
                yield from self._records(window, opening)
            if window.peek():
                what = "list" if opening == "[" else "object"
                raise ValueError(f"{self.path}: more text after its {what} at byte {window.byte}")

    def _has_lines(self, window: _Window) -> bool:
        """Return whether an object at the beginning is the first of JSON lines."""
        if self.path.endswith(".jsonl"):
            return True
        while True:
            try:
                _, end = _DECODER.raw_decode(window.text, window.at)
            except json.JSONDecodeError:
                if len(window.text) < LOOK_AHEAD and window.more():
                    continue
                return False
            except (ValueError, RecursionError):
                return False
            behind = window.text[end:]
            if not behind.strip() and window.more():
                continue
            is_line = "\n" not in window.text[window.at : end]
            return is_line and behind.lstrip()[:1] == "{" and "\n" in behind[: behind.index("{")]

    def _lines(self, file: BinaryIO, decoder: json.JSONDecoder) -> Iterator[tuple[int, int, int, Any]]:
        start = file.tell()
        for number, line in enumerate(file, 1):
            if not line.isspace():
                try:
                    text = line.decode()
                    record = decoder.decode(text)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}: line {number}: is no JSON: {_why(error)}") from error
                if _has_halves(text, 0, len(text)):
                    record = self._usable(record)
                yield number, start, len(line), record
            start += len(line)

    def _records(self, window: _Window, opening: str) -> Iterator[tuple[int, int, int, Any]]:
        for number, key in enumerate(window.members(opening), 1):
            record = window.value() if key is None else {key: window.value()}
            start = window.start
            yield number, start, window.byte - start, self._usable(record) if window.has_halves else record

    def _list_under_key(self, window: _Window) -> Iterator[tuple[int, int, int, Any]]:
        """Yield the elements of the list under the key, and pass the rest of the object."""
        is_found = False
        for key in window.members("{"):
            if key != self.key:
                window.value()
                continue
            if is_found:
                raise ValueError(f"{self.path}: has '{self.key}' twice, again at byte {window.byte}")
            is_found = True
            yield from self._records(window, window.take("["))
        if not is_found:
            raise ValueError(f"{self.path}: has no list under '{self.key}'")

    def _usable(self, record: Any) -> Any:
        return BadRecord(HALF) if not self.any_text and holds_half_characters(record) else record


def _has_halves(text: str, begin: int, end: int) -> bool:
    """Return whether JSON text has surrogate escapes; a whole character has two of them."""
    return text.find("\\ud", begin, end) >= 0 or text.find("\\uD", begin, end) >= 0


def holds_half_characters(value: Any) -> bool:
    """Return whether a text in a JSON value has half a character, which UTF-8 cannot represent."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def parse_record(data: bytes) -> Any:
    """Return the record of a piece of JSON. Raises: ValueError if it is invalid or has half characters."""
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if (b"\\ud" in data or b"\\uD" in data) and holds_half_characters(record):
        raise ValueError(HALF)
    return record


def read_json(path: str | os.PathLike[str], *, any_text: bool = False) -> Any:
    """Return the whole content of a JSON file: the object, or the list of the records of a list or of JSON lines.

    Raises: ValueError naming the file and the position where it is broken, or where an object has a key twice.
    """
    records = JsonRecords(path, unique_keys=True, any_text=any_text)
    found = list(records)
    try:
        return _unique([pair for item in found for pair in item.items()]) if records.items else found
    except ValueError as error:
        raise ValueError(f"{records.path}: {error}") from error
