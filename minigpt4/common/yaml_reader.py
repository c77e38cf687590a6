"""Reads YAML files and `--options` into dictionaries.

A text option keeps the text as written: `job_id: 0010` is "0010". Numbers are read as Python reads them: `1e-5` is a
number, `010` is ten. All keys are texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from minigpt4.common.paths import read_text
from minigpt4.common.schema import option_at

MAX_VALUES = 100_000
"""A limit, since a small file with aliases may describe more values than fit in memory."""
_TAG = "tag:yaml.org,2002:"
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
_NULLS = ("", "~", "null", "Null", "NULL")


def read_yaml_file(path: Path) -> dict[str, Any]:
    """Return the sections of a file. Raises: ValueError with one line that names the file, and the place if known."""
    content = read_text(path)
    try:
        tree = parse_yaml(content)
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else repr(tree)
        raise ValueError(f"{path}: expected sections (model, datasets, run), got {kind}")
    return tree


def parse_yaml(content: str, path: Sequence[str] = ()) -> Any:
    """Return what a YAML text holds: the value of the option at `path`, or without a path a whole file.

    Raises: ValueError with one line that says what is wrong and where.
    """
    try:
        node = yaml.compose(content, Loader=_Loader)
        return None if node is None else _Converter().convert(node, tuple(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + ": ".join(text for text in (error.context, error.problem) if text)) from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply, or an alias holds itself") from error


def merge_options(tree: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Write the options "a.b=c" or "a.b c" into a file's tree; return a message for each wrong one.

    If a key is given twice, the last value counts, so that a user can append options to a command.
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
            _merge(tree, key.split("."), _read(key.split("."), raw))
        except ValueError as error:
            problems.append(f"--options {key}={raw}: {error}")
    return problems


def _read(path: Sequence[str], raw: str) -> Any:
    """Return the value that the user wrote for the option at `path`; a text option takes the text as written.

    An empty text, null, ~, None (where null is allowed) and a text that begins with # (a comment in YAML) unset it.
    Raises: ValueError when the text is not valid YAML.
    """
    option = option_at(path)
    if option is None or not option.takes_text():
        return parse_yaml(raw, path)
    if raw.strip() in _NULLS or raw.startswith("#") or (raw.strip() == "None" and option.hint is not str):
        return None
    is_quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
    return parse_yaml(raw, path) if is_quoted or (option.takes_paths and raw.startswith("[")) else raw


def _merge(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Write a value at a path. Raises: ValueError when the path leads through a value or a list."""
    for number, key in enumerate(path[:-1], 1):
        inner = tree.get(key)
        if inner is not None and not isinstance(inner, dict):
            where, is_list = ".".join(path[:number]), isinstance(inner, list)
            wrong = "is a list; write the whole list" if is_list else f"is '{inner}' and holds no options"
            raise ValueError(f"{where} {wrong}")
        if inner is None:
            tree[key] = inner = {}
        tree = inner
    old = tree.get(path[-1])
    if isinstance(old, dict) and isinstance(value, dict):
        for key, inner in value.items():
            _merge(old, [key], inner)
    elif isinstance(old, dict) and value is not None:
        raise ValueError(f"{'.'.join(path)} holds options, not one value")
    else:
        tree[path[-1]] = value


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML 1.1, but `1e-5` without a dot is a number too."""


_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(f"(?:{_FLOAT})$"), list("-+0123456789."))


class _Converter:
    """Turns the nodes of one document into dictionaries, lists and values."""

    def __init__(self) -> None:
        self._num_values = 0

    def convert(self, node: yaml.Node, path: tuple[str, ...], is_text: bool | None = None) -> Any:
        """Return the value of the option at `path`; in a list, `is_text` says whether an element is a text.

        Raises: yaml.MarkedYAMLError with the line.
        """
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _error(f"there are more than {MAX_VALUES:,} values", node)
        option = option_at(path) if is_text is None else None
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, is_text or (option is not None and option.takes_text()))
        if isinstance(node, yaml.SequenceNode):
            _expect_tag(node, "seq")
            texts = option is not None and option.takes_text(in_list=True)
            return [self.convert(one, path, texts) for one in node.value]
        _expect_tag(node, "map")
        return self._mapping(node, path if is_text is None else ("",))

    def _mapping(self, node: yaml.Node, path: tuple[str, ...]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key should be a text", key)
            if key.tag == f"{_TAG}merge":
                for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(base, yaml.MappingNode):
                        raise _error("<< takes a mapping or a list of them", base)
                    merged = {**self.convert(base, path), **merged}
            elif key.value in tree:
                raise _error(f"found duplicate key {key.value}", key)
            else:
                tree[key.value] = self.convert(value, (*path, key.value))
        return {**merged, **tree}


def _scalar(node: yaml.ScalarNode, is_text: bool) -> Any:
    text, tag = str(node.value), str(node.tag).removeprefix(_TAG)
    if tag == "null":
        return None
    if tag in ("timestamp", "str", "merge", "value"):
        return text
    if tag in ("int", "float"):
        return text if is_text else _number_of(text)
    if tag == "bool" and text.lower() in _FLAGS:
        return text if is_text else _FLAGS[text.lower()]
    raise _error(f"the tag {node.tag} is not known here", node)


def _number_of(text: str) -> int | float | str:
    """Return a text as the number that Python reads (010 is ten, 1_000 a thousand), or as it is."""
    for read in (int, float, lambda word: int(word, 0)):  # the last one for 0x1f and 0b11
        try:
            return read(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            continue
    return text


def _expect_tag(node: yaml.Node, tag: str) -> None:
    if node.tag != f"{_TAG}{tag}":
        raise _error(f"the tag {node.tag} is not known here", node)


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
