"""Checks paths without reading the files, and opens text files; a message says what a wrong file is."""

from __future__ import annotations

import codecs
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

POINTER = b"version https://git-lfs"
"""The beginning of a file that git-lfs did not download."""
IS_POINTER = "is a pointer of git-lfs, not the file itself; run `git lfs pull`"
MAX_POINTER_BYTES = 1024
MAX_LENGTH = 300
"""Characters of a library's message that our message repeats."""

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


def wrong_path(path: str, *, folder: bool = False) -> str | None:
    """Return why a path cannot be read as a file or as a folder, or None."""
    kind, other = ("folder", "file") if folder else ("file", "folder")
    try:
        is_there = os.path.isdir(path) if folder else os.path.isfile(path)
        if not is_there and os.path.islink(path) and not os.path.exists(path):
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
        if not is_there and os.path.exists(path):
            return f"{path} is a {other}, not a {kind}"
        if not is_there:
            return f"no {kind} {path}"
        if not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
            return f"{path}: no permission to read it"
        if not folder and is_pointer(path):
            return f"{path} {IS_POINTER}"
    except (OSError, ValueError) as error:
        return f"{path!r}: {getattr(error, 'strerror', None) or error}"
    return None


def one_line(error: BaseException) -> str:
    """Return the first line of an error without the advice that libraries add."""
    text = str(error).strip()
    refused = text.partition("WeightsUnpickler error: ")[2]  # torch writes advice to run the file's code above it
    lines = (refused or text).splitlines()
    if not lines:
        return type(error).__name__
    if type(error) is KeyError:
        return f"no {lines[0]}"
    return (lines[0].partition(" Please ")[0] if refused else lines[0].partition(". ")[0])[:MAX_LENGTH]


def is_pointer(path: str) -> bool:
    """Return whether a file is a pointer that git-lfs did not replace by the file itself."""
    if os.path.getsize(path) > MAX_POINTER_BYTES:
        return False
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER


def wrong_output_folder(key: str, path: str) -> str | None:
    """Return why nothing can be written below a folder, which may not exist yet, or None. Nothing is created."""
    try:
        folder = next(parent for parent in (Path(path).absolute(), *Path(path).absolute().parents) if _exists(parent))
        if not folder.is_dir():
            return f"{key}: the folder {path} cannot be made, since {folder} is a file"
        os.rmdir(tempfile.mkdtemp(prefix=".can_write_", dir=folder))
    except (OSError, ValueError) as error:
        return f"{key}: cannot write in the folder {path}: {getattr(error, 'strerror', None) or error}"
    return None


def _exists(path: Path) -> bool:
    """Return whether a file, folder or link exists, also a broken link. Raises: OSError for an impossible path."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
