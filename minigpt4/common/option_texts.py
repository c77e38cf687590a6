"""`--options` over a YAML file, and both as plain values: what the schema calls a text stays as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from minigpt4.common.schema import NAMED_SECTIONS, SECTIONS, hints_of, inner_of
from minigpt4.common.yaml_reader import Scalar, Tree, parse_yaml


class Kind(Enum):
    """What an option takes, as far as it decides how its words are read."""

    TEXT = "a text"
    OPTIONAL_TEXT = "a text or null"
    TEXTS = "a list of texts"
    PATHS = "a path or a list of paths"
    OTHER = "anything else"


@dataclass(frozen=True, slots=True)
class Named:
    """A section of names, each with the options of `cls`."""

    cls: type


Expected = type | Named | Kind
_KINDS: dict[Any, Kind] = {str: Kind.TEXT, str | None: Kind.OPTIONAL_TEXT, list[str]: Kind.TEXTS}


def expected_of(above: Expected | None, key: str) -> Expected:
    """Return what a key holds, given what the mapping is that it is in; None for the file as a whole."""
    if above is None:
        cls = SECTIONS.get(key)
        if cls is None:
            return Kind.OTHER
        return Named(cls) if key in NAMED_SECTIONS else cls
    if isinstance(above, Named):
        return above.cls
    if isinstance(above, Kind):
        return Kind.OTHER
    hint = hints_of(above).get(key)
    inner = inner_of(hint)
    if inner is not None:
        return inner
    if any(field.name == key and field.metadata.get("kind") == "paths" for field in fields(above)):
        return Kind.PATHS
    return _KINDS.get(hint, Kind.OTHER)


def plain(tree: Tree, expected: Expected | None) -> Any:
    """Return dictionaries, lists and values; texts as they were written, anything else as YAML reads it."""
    if isinstance(tree, dict):
        return {key: plain(value, expected_of(expected, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        inner = Kind.TEXT if expected in (Kind.TEXTS, Kind.PATHS) else Kind.OTHER
        return [plain(value, inner) for value in tree]
    is_text = isinstance(expected, Kind) and expected is not Kind.OTHER and tree.value is not None
    return tree.text if is_text else tree.value


def lay_options(tree: dict[str, Tree], words: Sequence[str]) -> list[str]:
    """Lay "a.b=c" or "a.b c" over a file's tree, in place; return what is wrong with them.

    Of a key that is given twice the last value counts, so that a command can be lengthened.
    """
    problems: list[str] = []
    rest = iter(words)
    for word in rest:
        key, equals, raw = word.partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                problems.append(f"--options: '{word}' has no value; write {word}=VALUE")
                continue
            raw = value
        try:
            _lay(tree, key.split("."), _read(key.split("."), raw))
        except ValueError as error:
            problems.append(f"--options {key}={raw}: {error}")
    return problems


def _read(keys: Sequence[str], raw: str) -> Tree:
    """Return the tree of one option's word; a text is taken as it is written.

    Nothing, null, ~, None (where null is allowed) and a word that begins with #, a comment of YAML, unset an option.
    Raises: ValueError when it should be YAML and is none.
    """
    expected: Expected | None = None
    for key in keys:
        expected = expected_of(expected, key)
    if expected not in (Kind.TEXT, Kind.OPTIONAL_TEXT, Kind.PATHS):
        return parse_yaml(raw)
    unset = ("", "~", "null", "Null", "NULL", *(() if expected is Kind.TEXT else ("None",)))
    if raw.strip() in unset or raw.startswith("#"):
        return Scalar(raw, None)
    is_quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
    if is_quoted or (expected is Kind.PATHS and raw.startswith("[")):
        return parse_yaml(raw)
    return Scalar(raw, raw)


def _lay(tree: dict[str, Tree], keys: Sequence[str], value: Tree) -> None:
    """Write a value at its place. Raises: ValueError when the way there leads through a value or a list."""
    for number, key in enumerate(keys[:-1], 1):
        inner = tree.get(key)
        path = ".".join(keys[:number])
        if isinstance(inner, list):
            raise ValueError(f"{path} is a list; write the whole list")
        if isinstance(inner, Scalar) and inner.value is not None:
            raise ValueError(f"{path} is '{inner.text}' and holds no options")
        tree = tree.setdefault(key, {}) if isinstance(inner, dict) else _put(tree, key)
    old = tree.get(keys[-1])
    if isinstance(old, dict) and isinstance(value, dict):
        for key, inner in value.items():
            _lay(old, [key], inner)
    elif isinstance(old, dict) and not (isinstance(value, Scalar) and value.value is None):
        raise ValueError(f"{'.'.join(keys)} holds options, not one value")
    else:
        tree[keys[-1]] = value


def _put(tree: dict[str, Tree], key: str) -> dict[str, Tree]:
    inner: dict[str, Tree] = {}
    tree[key] = inner
    return inner
