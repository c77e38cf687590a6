"""The options of the schema as tables: for `minigpt4 train --help-options` and for docs/options.md."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from minigpt4.common.option import BOUNDS, UNSET, Option, options_of
from minigpt4.common.schema import NAMED_SECTIONS, SECTIONS
from minigpt4.common.tables import as_table

WIDTH = 110
INDENT = "    "


class Described(NamedTuple):
    """An option with the paths that it has in a YAML file, and its help."""

    option: Option
    paths: list[str]
    help: str

    def cells(self) -> list[str]:
        """Return its path, type, default, and range or choices."""
        return [joined(self.paths), self.option.type_name, default_text(self.option), range_text(self.option)]


def help_text(sections: Sequence[str], text: str = "") -> str:
    """Return the options of sections as tables, each with its help below; `text` is in their path or their help."""
    tables = []
    for section in sections:
        found = [one for one in described(section) if text.lower() in " ".join([*one.paths, one.help]).lower()]
        titles, *lines = as_table(
            [["OPTION", "TYPE", "DEFAULT", "RANGE"], *(one.cells() for one in found)]
        ).splitlines()
        helps = [textwrap.fill(one.help, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT) for one in found]
        if found:
            tables.append("\n".join([titles, *(part for pair in zip(lines, helps, strict=True) for part in pair)]))
    return "\n\n".join(tables) or f"no option has '{text}' in its name or its help"


def help_page(section: str) -> str:
    """Return the options of a section as a table in Markdown."""
    rows = [[f"`{name}`", *cells, one.help] for one in described(section) for name, *cells in [one.cells()]]
    titles = ["option", "type", "default", "range or choices", "what it does"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *rows])


@cache
def described(section: str) -> list[Described]:
    """Return the options of a section in the order of the schema; one that has several paths comes once."""
    found: dict[Any, Described] = {}
    root = f"{section}.NAME" if section in NAMED_SECTIONS else section
    for path, owner, option in _walk(root, SECTIONS[section]):
        key = owner, option.name, path.count(".")
        found.setdefault(key, Described(option, [], helps_of(owner).get(option.name, ""))).paths.append(path)
    return list(found.values())


def _walk(path: str, section: type) -> Iterator[tuple[str, type, Option]]:
    for name, option in options_of(section).items():
        if option.section is None:
            yield f"{path}.{name}", section, option
        else:
            yield from _walk(f"{path}.{name}", option.section)


@cache
def helps_of(section: type) -> dict[str, str]:
    """Return the text below each option of a section, in one line."""
    [declaration] = ast.parse(inspect.getsource(section)).body
    assert isinstance(declaration, ast.ClassDef)
    return {
        ast.unparse(option.target): " ".join(str(ast.literal_eval(below.value)).split())
        for option, below in pairwise(declaration.body)
        if isinstance(option, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def joined(paths: Sequence[str]) -> str:
    """Return the paths of one option, which have one depth, as one: a.{train,eval}.name."""
    names = [list(dict.fromkeys(column)) for column in zip(*(path.split(".") for path in paths), strict=True)]
    return ".".join(one[0] if len(one) == 1 else f"{{{','.join(one)}}}" for one in names)


def default_text(option: Option) -> str:
    """Return the default of an option as YAML has it."""
    value = option.default
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    words = {"None": "unset", UNSET: "required", "True": "true", "False": "false", "": "''"}
    return words.get(str(value), str(value))


def range_text(option: Option) -> str:
    """Return the range or the choices of an option; names that plugins extend are not listed."""
    rules = option.rules
    if "choices" in rules:
        return ", ".join(rules["choices"])
    if "registered" in rules:
        return f"any registered {rules['registered']}"
    if rules.get("kind") == "device":
        return "cuda, cuda:0, cpu"
    length = [f"{rules['length']} numbers"] if "length" in rules else []
    return ", ".join([*length, *(f"{words} {rules[name]}" for name, (words, _) in BOUNDS.items() if name in rules)])
