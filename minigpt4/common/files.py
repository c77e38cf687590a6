"""Writes files completely or not at all; the error about a full disk has the path and the bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotWrittenError(ValueError):
    """A file that cannot be written; the message names it, the reason, and for a full disk the bytes."""


class _Recorder:
    """A file that keeps the error of a failed write, for writers that replace the error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Write the buffer to the system."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


def write_whole(path: str | Path, write: Callable[[Any], Any], *, num_bytes: Callable[[], int]) -> None:
    """Write a file beside `path` with `write`, sync it, and rename it to `path`; a failure leaves nothing behind.

    `num_bytes` is called only for the error's message. Raises: NotWrittenError.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path, num_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fill(beside, write)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fill(beside: Path, write: Callable[[Any], Any]) -> None:
    """Write and sync a file. Raises: OSError, also if `write` replaces it by another error."""
    file = beside.open("wb")
    recorder = _Recorder(file)
    try:
        write(recorder)
        recorder.flush()
        os.fsync(file.fileno())
    except Exception:
        if recorder.error is not None:
            raise recorder.error from None
        raise
    finally:
        with contextlib.suppress(OSError):  # the rest of the buffer cannot be written either
            file.close()


def write_text(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file completely or not at all. Raises: NotWrittenError."""
    write_bytes(path, text.encode("utf-8", errors))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file completely or not at all. Raises: NotWrittenError."""
    write_whole(path, lambda file: file.write(content), num_bytes=lambda: len(content))


def append_text(file: TextIO, path: str | Path, text: str) -> None:
    """Write a text to an open file and flush it. Raises: NotWrittenError, after closing the file."""
    with writing(path, lambda: len(text)):
        try:
            file.write(text)
            file.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing tries to write the rest again
                file.close()
            raise


@contextlib.contextmanager
def writing(path: str | Path, num_bytes: Callable[[], int]) -> Iterator[None]:
    """Turn an OSError of a write to `path` into a NotWrittenError."""
    try:
        yield
    except OSError as error:
        raise NotWrittenError(problem(path, error, num_bytes)) from error


def problem(path: str | Path, error: OSError, num_bytes: Callable[[], int]) -> str:
    """Return the message about a write that failed."""
    reason = f"{path} cannot be written: {error.strerror or error}"
    if error.errno not in _NO_ROOM:
        return reason
    limit = largest_file()
    more = f"; a file may have {megabytes(limit)}, see `ulimit -f`" if error.errno == errno.EFBIG and limit else ""
    return f"{reason} (needs {megabytes(num_bytes())}, {megabytes(free_bytes(path))} are free{more})"


def no_room(path: str | Path, num_bytes: int) -> str | None:
    """Return why a file of `num_bytes` cannot be written now, or None."""
    limit = largest_file()
    if limit is not None and limit < num_bytes:
        return problem(path, OSError(errno.EFBIG, os.strerror(errno.EFBIG)), lambda: num_bytes)
    if free_bytes(path) < num_bytes:
        return problem(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), lambda: num_bytes)
    return None


def free_bytes(path: str | Path) -> int:
    """Return the free space of the disk that `path` is on, or will be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def largest_file() -> int | None:
    """Return the limit on the size of a file in bytes, None without one."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def megabytes(num_bytes: int) -> str:
    """Return a number of bytes as text."""
    return f"{num_bytes / 1e6:.{1 if num_bytes >= 1e5 else 4}f} MB"
