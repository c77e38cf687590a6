"""Indexes of large annotation files: a file is scanned once, later runs map its row table into memory.

The index lies in the folder of the annotation file, or in the user's cache folder if that one is read-only. It does not
depend on image files, since these may come and go.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from filelock import FileLock

from minigpt4.common import json_records, paths, row_checks, safe_pickle
from minigpt4.common.files import NotWrittenError, part_of, write_whole
from minigpt4.common.liveness import pulse
from minigpt4.common.locks import locked, signs_of_work
from minigpt4.datasets import boxes, lengths, row_table
from minigpt4.datasets.row_table import DTYPES, RowRules, RowTable

logger = logging.getLogger(__name__)

SMALLEST = 1 << 22
"""Bytes; smaller annotation files get no index and are scanned at every start."""
LOCK_SECONDS = 600.0
"""Seconds that a process waits for another one to write an index."""
_MAGIC = b"minigpt4 rows 2\n"


def table_of(path: str, rules: RowRules) -> RowTable:
    """Return the table of an annotation file, from its index where that fits, else from the file.

    Of several processes one writes the index, the others wait. Raises: ValueError when a file is broken.
    """
    stats = [(Path(file).name, os.stat(file)) for file in (path, *rules.other_files)]
    if sum(stat.st_size for _, stat in stats) < SMALLEST:
        return RowTable.scan(path, rules.load_rows(path), rules)
    files, cls = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats], cast(Any, type(rules))
    signature = {"files": files, "code": _code_of(cls)}
    index_files = _index_files(path, _key_of(cls))
    for index_file in index_files:
        if (table := _open(path, index_file, signature)) is not None:
            return table
    for index_file in index_files:
        if (lock := _locked(path, index_file)) is None:
            continue  # read-only, or held for too long: the next file
        try:
            return _open(path, index_file, signature) or _write(path, index_file, signature, rules)
        finally:
            lock.release()
    logger.warning("%s: no folder can hold its index; it is scanned at every start", path)
    return RowTable.scan(path, rules.load_rows(path), rules)


def _locked(path: str, index_file: str) -> FileLock | None:
    """Wait for the lock of an index; None if its folder is read-only, or the lock does not come."""
    holder = f"{path}: another process writes its index"
    try:
        os.makedirs(os.path.dirname(index_file) or ".", exist_ok=True)
        with pulse.during(f"waiting for the index of {path}"):
            return locked(f"{index_file}.lock", holder=holder, sign=lambda: _parts(index_file), limit=LOCK_SECONDS)
    except OSError:
        return None


def _parts(index_file: str) -> list[tuple[str, int]]:
    """Return the partial files of an index, each with its time, which its writer keeps renewing."""
    found = []
    folder, name = os.path.split(index_file)
    for part in glob.glob(f"{glob.escape(folder)}/*{glob.escape(name)}.*.part", include_hidden=True):
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it
            found.append((part, os.stat(part).st_mtime_ns))
    return found


def _write(path: str, index_file: str, signature: Any, rules: RowRules) -> RowTable:
    """Scan the file and write the index."""
    logger.info("%s: finding its rows, once", path)
    for part, _ in _parts(index_file):  # of a process that was killed while it wrote
        os.unlink(part)
    tables: list[RowTable] = []

    def scan_and_write(file: BinaryIO) -> None:
        with signs_of_work(part_of(index_file)), pulse.during(f"indexing {path}"):
            tables.append(RowTable.scan(path, rules.load_rows(path), rules))
        for piece in _serialized(tables[0], signature):
            file.write(piece)

    try:
        write_whole(index_file, scan_and_write, num_bytes=lambda: sum(map(RowTable.num_bytes, tables)))
    except NotWrittenError as error:
        logger.warning("%s: %s", path, error)
    table = tables[0] if tables else RowTable.scan(path, rules.load_rows(path), rules)
    return _open(path, index_file, signature) or table


def _serialized(table: RowTable, signature: Any) -> Iterator[bytes]:
    head = {"signature": signature, "info": table.info, "sizes": {k: len(v) for k, v in table.arrays.items()}}
    text = json.dumps(head).encode()
    yield from (_MAGIC, len(text).to_bytes(8, "little"), text, b" " * (-len(text) % 8))
    for array in table.arrays.values():
        yield from (array.tobytes(), b"\0" * (-array.nbytes % 8))


def _map(path: str, index: str, signature: Any) -> RowTable:
    """Return the table of an index, mapped: processes share its memory, and it travels as a path.

    Raises: ValueError when the index is of other files or code.
    """
    whole = np.asarray(np.memmap(index, np.uint8, mode="r"))
    at = len(_MAGIC) + 8
    if bytes(whole[: len(_MAGIC)]) != _MAGIC:
        raise ValueError(f"{index}: is no index of rows")
    length = int.from_bytes(bytes(whole[len(_MAGIC) : at]), "little")
    head = json.loads(bytes(whole[at : at + length]))
    if head["signature"] != signature:
        raise ValueError(f"{index}: is out of date")
    at += length + -length % 8
    arrays = {}
    for name, dtype in DTYPES.items():
        num_bytes = head["sizes"][name] * np.dtype(dtype).itemsize
        arrays[name] = whole[at : at + num_bytes].view(dtype)
        at += num_bytes + -num_bytes % 8
    if at != len(whole):
        raise ValueError(f"{index}: is cut off")
    return RowTable(path, arrays, head["info"], reopen=(_map, (path, index, signature)))


def _open(path: str, index_file: str, signature: Any) -> RowTable | None:
    try:
        return _map(path, index_file, signature)
    except (OSError, ValueError, KeyError):  # not there, of other files, or damaged
        return None


def _index_files(path: str, key: str) -> list[str]:
    """Return the possible paths of an index: in the annotation's folder, in the cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.blake2b(os.path.realpath(path).encode(), digest_size=8).hexdigest()
    return [f"{path}.{key}.index", os.path.join(cache, "minigpt4", f"{name}.{key}.index")]


@functools.cache
def _key_of(cls: Any) -> str:
    """Return a key of the hooks that find a class's rows; classes with the same hooks share an index."""
    names = ("load_rows", "rows_of", "image_files", "text_chars", "box_fault", "remark")
    rules: list[Any] = [getattr(cls, name) for name in names]
    named = [f"{rule.__module__}.{rule.__qualname__}" for rule in rules]
    return hashlib.blake2b(repr([named, getattr(cls, "fields", None)]).encode(), digest_size=4).hexdigest()


@functools.cache
def _code_of(cls: Any) -> str:
    """Return a digest of the code that finds the rows of a class."""
    modules = (json_records, row_checks, paths, row_table, lengths, boxes, safe_pickle)
    files = {module.__file__ for module in modules}
    others = ("builtins", "typing", "torch")
    files |= {inspect.getsourcefile(base) for base in cls.__mro__ if base.__module__.split(".")[0] not in others}
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(str(file) for file in files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
