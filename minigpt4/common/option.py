"""An option of a YAML section: its type, default, range and choices, and the check of a value."""

from __future__ import annotations

import math
import operator
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from typing import Any, Literal, TypedDict, Unpack

from minigpt4.common.registry import did_you_mean, registry

UNSET = "???"
"""OmegaConf's mark for a required value."""
LARGEST = 2**63 - 1
BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("less than", operator.lt),
}
MAX_SHOWN = 200
"""Characters of a wrong value that a message shows."""


class Rules(TypedDict, total=False):
    """Limits on the values of an option; in a list, on every element."""

    at_least: float
    above: float
    at_most: float
    below: float
    length: int  # of a list
    choices: tuple[str, ...]
    registered: str  # a kind of the registry, whose names are the choices
    kind: Literal["device", "paths"]  # a device of torch; one path or a list of paths


def option(default: Any = None, **rules: Unpack[Rules]) -> Any:
    """Return a dataclass field with a default and rules for its values."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rules)
    return field(default=default, metadata=rules)


@dataclass(frozen=True)
class Option:
    """One key of a section; `default` is None for an option that is not set, UNSET for a required one."""

    name: str
    hint: Any
    default: Any
    rules: Mapping[str, Any]

    @cached_property
    def section(self) -> type | None:
        """The section that the key holds, or None for a key that holds values."""
        hints = (self.hint, *typing.get_args(self.hint))
        return next((hint for hint in hints if isinstance(hint, type) and is_dataclass(hint)), None)

    @property
    def takes_paths(self) -> bool:
        """Whether the value is one path or a list of paths."""
        return self.rules.get("kind") == "paths"

    def takes_text(self, *, in_list: bool = False) -> bool:
        """Return whether the value, or each element of a list, is the text as written: `job_id: 0010`."""
        return self.takes_paths or self.hint in ((list[str],) if in_list else (str, str | None))

    @property
    def type_name(self) -> str:
        """The type in words."""
        if self.takes_paths:
            return "a path or a list of paths"
        hints = (self.hint,) if typing.get_origin(self.hint) in (list, dict) else typing.get_args(self.hint)
        return " or ".join(_name_of(hint) for hint in hints or (self.hint,))

    def wrong_type(self, value: Any) -> str | None:
        """Return the end of a message, behind the path, about a value that OmegaConf would accept; else None."""
        texts = list(_texts_of(value))
        if UNSET in texts:
            return " is not set"
        if any("${" in text for text in texts):
            return f": got {shown(value)}; ${{ is not allowed in a text here"
        is_wrong = self.hint in (bool, bool | None) and type(value) is int and value not in (0, 1)
        if self.takes_paths and value is not None:
            is_wrong = not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
        return f": expected {self.type_name}, got {shown(value)}" if is_wrong else None

    def problems(self, value: Any) -> Iterator[str]:
        """Yield why a value of the right type is refused; each element of a list is checked."""
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        length = self.rules.get("length")
        if length is not None and value is not None and len(values) != length:
            yield f"expected {length} numbers, got {len(values)}"
        for one in values:
            if one is not None and one != self.default and (problem := self._problem(one)):
                yield problem

    def _problem(self, value: Any) -> str | None:
        """Return why one value, not a list, is refused, or None."""
        if isinstance(value, str):
            return wrong_text(value) or self._wrong_name(value)
        return self._wrong_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _wrong_name(self, value: str) -> str | None:
        choices, kind = self.rules.get("choices"), self.rules.get("registered")
        if choices and value not in choices:
            return f"expected one of {', '.join(choices)}, got '{value}'{did_you_mean(value, choices)}"
        if kind:
            try:
                getattr(registry, f"get_{kind}_class")(value)
            except ValueError as error:
                return str(error)
        return wrong_device(value) if self.rules.get("kind") == "device" else None

    def _wrong_number(self, value: float) -> str | None:
        if isinstance(value, int) and abs(value) > LARGEST:
            return f"expected at most {LARGEST}, got a number of {value.bit_length()} bits"
        if not math.isfinite(value):
            return f"expected a finite number, got {value}"
        for name, (words, holds) in BOUNDS.items():
            if name in self.rules and not holds(value, self.rules[name]):
                return f"expected {words} {self.rules[name]}, got {value}"
        return None


@cache
def options_of(section: type) -> dict[str, Option]:
    """Return the options of a section by their names."""
    hints = typing.get_type_hints(section)
    return {one.name: Option(one.name, hints[one.name], _default_of(one), one.metadata) for one in fields(section)}


def _name_of(hint: Any) -> str:
    if typing.get_args(hint):
        return str(hint).replace("typing.", "")
    return "null" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _default_of(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}.."


def _texts_of(value: Any) -> Iterator[str]:
    """Yield the texts in a value, in its lists and dictionaries too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts_of(inner)


def wrong_text(text: str) -> str | None:
    """Return why a text cannot be part of a file's name, or None."""
    if "\0" in text:
        return f"expected a text, got {text!r} with a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected a text, got {text!r} with half a character"
    return None


def wrong_device(name: str) -> str | None:
    """Return why a device cannot compute, or None."""
    import torch

    try:
        kind = torch.device(name).type
    except RuntimeError:
        near = did_you_mean("cuda" if name.lower().startswith("gpu") else name, ("cuda", "cpu"))
        return f"torch knows no device '{name}'{near} (cuda, cuda:0, cpu)"
    return "a meta device computes nothing; expected cuda, cuda:0 or cpu" if kind == "meta" else None
