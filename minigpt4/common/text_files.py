"""Opens text files of the user; the error about a file that is not UTF-8 text says what it is."""

from __future__ import annotations

import codecs
import os
from typing import BinaryIO

from minigpt4.common.paths import IS_POINTER, POINTER

_OTHER_FILES = (
    (POINTER, IS_POINTER),
    (codecs.BOM_UTF32_LE, "is UTF-32 text; save it as UTF-8"),
    (codecs.BOM_UTF32_BE, "is UTF-32 text; save it as UTF-8"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text; save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text; save it as UTF-8"),
    (b"\x1f\x8b", "is a gzip file; unpack it first"),
    (b"PK\x03\x04", "is a zip file; unpack it first"),
)
_HEAD = 64
"""Bytes at the start of a file that are compared with the known beginnings."""


def open_text(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a file of UTF-8 text, open for reading its bytes after a byte order mark.

    Raises: ValueError naming the path when it is a folder, cannot be read, is empty, or is another kind of file.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  # the caller closes it
        head = file.read(_HEAD)
    except IsADirectoryError as error:
        raise ValueError(f"{path}: is a folder, not a file") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL character
        raise ValueError(f"cannot read {os.fspath(path)!r}: {error}") from error
    found = next((what for begin, what in _OTHER_FILES if head.startswith(begin)), None)
    if not head:
        found = "is empty"
    elif found is None and b"\0" in head[:2]:
        found = "begins with a NUL byte, as UTF-16 text does; save it as UTF-8"
    if found is not None:
        file.close()
        raise ValueError(f"{path}: {found}")
    file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
    return file


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file without a byte order mark. Raises: ValueError as `open_text`, or if it is not UTF-8."""
    with open_text(path) as file:
        start, data = file.tell(), file.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text: {error.reason} at byte {start + error.start}") from error
