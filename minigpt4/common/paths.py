"""Checks the paths of options without reading the files: missing, a broken link, a git-lfs pointer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

POINTER = b"version https://git-lfs"
"""The beginning of a file that git-lfs did not download."""
IS_POINTER = "is a pointer of git-lfs, not the file itself; run `git lfs pull`"
MAX_POINTER_BYTES = 1024
MAX_LENGTH = 300
"""Characters of a library's message that our message repeats."""


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
