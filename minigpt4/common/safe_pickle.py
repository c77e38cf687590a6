"""Reads downloaded pickle files as data, without running code in them."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

_PLAIN = {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}


class _PlainUnpickler(pickle.Unpickler):
    """Refuses to import the classes and functions that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}; only plain data is read, since code in it would run")


def load_plain(path: str) -> Any:
    """Return the content of a pickle file of containers, numbers, texts, True, False and None.

    Raises: ValueError naming the file when it holds anything else (nothing of it is run), is cut off or no pickle.
    """
    content = Path(path).read_bytes()
    try:
        _check_sizes(content)
        return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: cannot be read as a pickle file: {error}") from error
    except (EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: is cut off or no pickle file: {error}") from error


def _check_sizes(content: bytes) -> None:
    """Walk the opcodes, so that a damaged size cannot make the reader take all memory.

    Raises: ValueError for an argument that is cut off, or a memo place that a file of this size cannot need.
    """
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(content):
            raise ValueError(f"memo place {argument} at byte {position}")
