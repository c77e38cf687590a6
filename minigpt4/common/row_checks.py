"""Checks that a row of a file has the right keys, with values of the right types."""

from __future__ import annotations

from collections.abc import Mapping
from types import GenericAlias
from typing import Any

NUMBER = (int, float)
"""The types of a number; `require` accepts only finite ones."""
_LARGEST, _LARGEST_ID = 1e15, 1 << 63
"""Larger numbers are neither pixels nor ids; they would overflow later."""
_LONGEST = 40
"""The most characters of a value in a message."""

ROW_ERRORS = (ValueError, KeyError)
"""What hooks raise for a bad row."""


def reason_of(error: BaseException) -> str:
    """Return what is wrong with a row, by what a hook raised for it."""
    return f"{error} is missing in this row" if isinstance(error, KeyError) else str(error)


def require(row: Any, fields: Mapping[str, Any], what: str = "row") -> None:
    """Check that a row has these keys with values of these types; `list[str]` is one text or more.

    True and False are no numbers. Raises: ValueError naming the key.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a {what} should be an object{' with ' * bool(fields)}{', '.join(fields)}, not {shown(row)}")
    for key, kind in fields.items():
        if key not in row:
            raise ValueError(f"'{key}' is missing (there are {', '.join(map(str, row)) or 'no keys'})")
        value = row[key]
        if kind is str and type(value) is str:
            continue  # the usual case, of millions of rows
        if type(kind) is GenericAlias:  # list[str]
            if not isinstance(value, list) or set(map(type, value)) != {str}:
                raise ValueError(f"'{key}' should be a list of one or more texts, not {_odd_list(value)}")
        elif not isinstance(value, kind) or value is True or value is False:
            raise ValueError(f"'{key}' should be {_words(kind)}, not {shown(value)}")
        elif (type(value) is int and abs(value) >= _LARGEST_ID) or (kind is NUMBER and not is_number(value)):
            raise ValueError(f"'{key}' should be a number of usual size, not {shown(value)}")


def is_number(value: Any) -> bool:
    """Return whether a value is a number that pixels may have: finite, and not huge."""
    return isinstance(value, NUMBER) and not isinstance(value, bool) and abs(value) <= _LARGEST


def shown(value: Any) -> str:
    """Return a value of a JSON file as a message names it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "object"
        return f"{'an' if kind == 'object' else 'a'} {kind}" if value else f"an empty {kind}"
    if isinstance(value, int) and abs(value) >= _LARGEST_ID:
        return "a huge number"
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}.."


def _odd_list(value: Any) -> str:
    """Return the wrong part of a value that should be a list of texts."""
    other = [one for one in value if type(one) is not str] if isinstance(value, list) else []
    return f"a list with {shown(other[0])}" if other else shown(value)


def _words(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    if kind == NUMBER:
        return "a number"
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(names.get(one, getattr(one, "__name__", str(one))) for one in kinds)
