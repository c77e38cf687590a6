"""YAML as dictionaries and lists whose scalars keep the text that was written: `job_id: 0010` is "0010", not 8."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from minigpt4.common.paths import IS_POINTER, POINTER

MAX_VALUES = 100_000
"""A file with aliases may describe more values than memory holds; a config has a few hundred."""
_TAG = "tag:yaml.org,2002:"
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value: its text as written, and what YAML takes it for (None, bool, int, float or str)."""

    text: str
    value: Any


Tree = Any
"""A dict of str to Tree, a list of Tree, or a Scalar."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 in which `1e-5` is a number too, as people write it."""


_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def read_yaml_file(path: Path) -> dict[str, Tree]:
    """Return the sections of a file. Raises: ValueError in one line that names the file, and the place where it can."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL character
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error
    if content.startswith(POINTER):
        raise ValueError(f"{path} {IS_POINTER}")
    try:
        tree = parse_yaml(content)
    except ValueError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else repr(tree.text)
        raise ValueError(f"{path}: expected sections (model, datasets, run), got {kind}")
    return tree


def parse_yaml(content: bytes | str) -> Tree:
    """Return the one document of a text. Raises: ValueError in one line that says what is wrong and where."""
    try:
        node = yaml.compose(content, Loader=_Loader)
        return Scalar("", None) if node is None else _Converter().convert(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + ": ".join(text for text in (error.context, error.problem) if text)) from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Converter:
    """Turns the nodes of one document into a Tree."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._num_values = 0

    def convert(self, node: yaml.Node) -> Tree:
        """Return a node's Tree. Raises: yaml.MarkedYAMLError, which knows the line."""
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _error(f"there are more than {MAX_VALUES:,} values", node)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self._open:
            raise _error("an alias holds itself", node)
        self._open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            _expect_tag(node, "seq")
            tree: Tree = [self.convert(element) for element in node.value]
        else:
            _expect_tag(node, "map")
            tree = self._mapping(node)
        self._open.remove(id(node))
        return tree

    def _mapping(self, node: yaml.Node) -> dict[str, Tree]:
        tree: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key should be a word", key)
            if key.tag == f"{_TAG}merge":
                for base in self._bases(value):
                    merged = {**base, **merged}
            elif key.value in tree:
                raise _error(f"found duplicate key {key.value}", key)
            else:
                tree[key.value] = self.convert(value)
        return {**merged, **tree}

    def _bases(self, node: yaml.Node) -> Iterator[dict[str, Tree]]:
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(base, yaml.MappingNode):
                raise _error("<< takes a mapping or a list of them", base)
            yield self.convert(base)


def _scalar(node: yaml.ScalarNode) -> Scalar:
    text = str(node.value)
    tag = str(node.tag).removeprefix(_TAG)
    if tag in ("timestamp", "str", "merge", "value"):
        return Scalar(text, text)
    if tag == "null":
        return Scalar(text, None)
    if tag == "bool" and text.lower() in (*_TRUE, *_FALSE):
        return Scalar(text, text.lower() in _TRUE)
    if tag in ("int", "float"):
        return Scalar(text, number_of(text))
    raise _error(f"the tag {node.tag} is not known here", node)


def number_of(text: str) -> int | float | str:
    """Return the number that a text is in Python's reading (010 is ten, 1_000 a thousand), or else the text."""
    for kind in (int, float):
        try:
            return kind(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            continue
    try:
        return int(text, 0)  # 0x1f, 0b11
    except ValueError:
        return text


def _expect_tag(node: yaml.Node, tag: str) -> None:
    if node.tag != f"{_TAG}{tag}":
        raise _error(f"the tag {node.tag} is not known here", node)


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
