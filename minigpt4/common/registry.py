"""Maps the names in YAML files to classes.

A lookup imports the package that registers classes of that kind, so importing this module costs nothing. An unknown
name, or a list of all names, also loads the plugins of installed packages.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partialmethod
from typing import Any, ClassVar, TypeVar

C = TypeVar("C")
MAX_NAMED = 6
"""A message lists all registered names of a kind if there are at most this many."""


def did_you_mean(name: str, known: Iterable[str], *, quote: str = "'") -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {quote}{near[0]}{quote}?" if near else ""


class Registry:
    """One table for each kind of class that a YAML file names.

    `register_KIND(name)` is a class decorator; it refuses a name that another class has. The same class defined again,
    as in a notebook, replaces itself. `get_KIND_class(name)` returns the class. Raises: ValueError with the nearest
    known name; for a class that lacks an abstract method or its base class.
    """

    _packages: ClassVar = {
        "builder": "minigpt4.datasets.builders",
        "model": "minigpt4.models",
        "vision_tower": "minigpt4.models",
        "language_model": "minigpt4.models",
        "processor": "minigpt4.processors",
        "task": "minigpt4.tasks",
        "runner": "minigpt4.runners",
        "lr_scheduler": "minigpt4.common.optims",
        "benchmark": "minigpt4.evaluation",
    }
    _bases: ClassVar = {
        "builder": "minigpt4.datasets.base_builder.BaseDatasetBuilder",
        "vision_tower": "minigpt4.models.vision.vision_tower.VisionTower",
        "language_model": "minigpt4.models.language.language_model.LanguageModel",
        "benchmark": "minigpt4.evaluation.benchmark.Benchmark",
    }

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Any]] = {kind: {} for kind in self._packages}

    def _register(self, kind: str, name: str) -> Callable[[C], C]:
        def wrap(cls: C) -> C:
            if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
                raise ValueError(f"{kind} '{name}': {_source_of(cls)[1]} lacks the methods {', '.join(lacking)}")
            # our classes are registered first, so that a name used twice is an error in the other module
            table = self._tables[kind] if _is_ours(cls) else self._table(kind)
            known = table.setdefault(name, cls)
            if _source_of(known) != _source_of(cls):
                raise ValueError(f"{kind} '{name}' is already registered as {known!r}, not {cls!r}")
            table[name] = cls
            return cls

        return wrap

    def _table(self, kind: str) -> dict[str, Any]:
        importlib.import_module(self._packages[kind])
        return self._tables[kind]

    def _get(self, kind: str, name: str) -> Any:
        table = self._table(kind)
        broken = () if name in table else _load_installed_plugins()
        if name not in table:
            known = f" (there are {', '.join(sorted(table))})" if len(table) <= MAX_NAMED else ""
            raise ValueError(
                "; ".join([f"no {kind} is registered as '{name}'{did_you_mean(name, table)}{known}", *broken])
            )
        if kind in self._bases and not _is_ours(table[name]):
            module, _, base = self._bases[kind].rpartition(".")
            if not issubclass(table[name], getattr(importlib.import_module(module), base)):
                raise ValueError(f"{kind} '{name}': {_source_of(table[name])[1]} is no subclass of {module}.{base}")
        return table[name]

    register_builder = partialmethod(_register, "builder")
    register_model = partialmethod(_register, "model")
    register_vision_tower = partialmethod(_register, "vision_tower")
    register_language_model = partialmethod(_register, "language_model")
    register_processor = partialmethod(_register, "processor")
    register_task = partialmethod(_register, "task")
    register_runner = partialmethod(_register, "runner")
    register_lr_scheduler = partialmethod(_register, "lr_scheduler")
    register_benchmark = partialmethod(_register, "benchmark")

    get_builder_class = partialmethod(_get, "builder")
    get_model_class = partialmethod(_get, "model")
    get_vision_tower_class = partialmethod(_get, "vision_tower")
    get_language_model_class = partialmethod(_get, "language_model")
    get_processor_class = partialmethod(_get, "processor")
    get_task_class = partialmethod(_get, "task")
    get_runner_class = partialmethod(_get, "runner")
    get_lr_scheduler_class = partialmethod(_get, "lr_scheduler")
    get_benchmark_class = partialmethod(_get, "benchmark")

    def names(self, kind: str) -> list[str]:
        """Return all registered names of a kind, sorted."""
        table = self._table(kind)
        _load_installed_plugins()
        return sorted(table)

    def added(self) -> set[tuple[str, str]]:
        """Return the (kind, name) of all classes that other packages have registered so far."""
        entries = [(kind, name, cls) for kind, table in self._tables.items() for name, cls in table.items()]
        return {(kind, name) for kind, name, cls in entries if not _is_ours(cls)}

    def list_datasets(self) -> list[str]:
        """Return the names of all dataset builders, sorted."""
        return self.names("builder")

    def list_benchmarks(self) -> list[str]:
        """Return the names of all benchmarks, sorted."""
        return self.names("benchmark")


def _source_of(cls: Any) -> tuple[str, str]:
    """Return the module and the name of a class or function; of another object, its text."""
    return getattr(cls, "__module__", ""), getattr(cls, "__qualname__", repr(cls))


def _is_ours(cls: Any) -> bool:
    return _source_of(cls)[0].startswith("minigpt4.")


def _load_installed_plugins() -> Sequence[str]:
    """Load the plugins of installed packages once; return a message for each that fails."""
    wrong: Sequence[str] = importlib.import_module("minigpt4.common.plugins").load_installed()
    return wrong


registry = Registry()
