"""Names to classes: the one table through which a YAML file reaches code.

A lookup imports the package that registers that kind, so importing this module costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

C = TypeVar("C")
MAX_NAMED = 6
"""A message names all that is registered of a kind when there are no more than these."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


class Registry:
    """One table a kind (builder, model, processor, task, runner, lr_scheduler, benchmark)."""

    _packages: ClassVar = {
        "builder": "minigpt4.datasets.builders",
        "model": "minigpt4.models",
        "processor": "minigpt4.processors",
        "task": "minigpt4.tasks",
        "runner": "minigpt4.runners",
        "lr_scheduler": "minigpt4.common.optims",
        "benchmark": "minigpt4.evaluation",
    }

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Any]] = {kind: {} for kind in self._packages}

    def _register(self, kind: str, name: str) -> Callable[[C], C]:
        def wrap(cls: C) -> C:
            known = self._tables[kind].setdefault(name, cls)
            if known is not cls:
                raise ValueError(f"{kind} '{name}' is already registered as {known!r}, not {cls!r}")
            return cls

        return wrap

    def _table(self, kind: str) -> dict[str, Any]:
        importlib.import_module(self._packages[kind])
        return self._tables[kind]

    def _get(self, kind: str, name: str) -> Any:
        table = self._table(kind)
        if name not in table:
            known = f" (there are {', '.join(sorted(table))})" if len(table) <= MAX_NAMED else ""
            raise ValueError(f"no {kind} is registered as '{name}'{did_you_mean(name, table)}{known}")
        return table[name]

    def register_builder(self, name: str) -> Callable[[C], C]:
        """Register a dataset builder class under the name that a YAML's `datasets` block uses."""
        return self._register("builder", name)

    def register_model(self, name: str) -> Callable[[C], C]:
        """Register a model class under its `arch`."""
        return self._register("model", name)

    def register_processor(self, name: str) -> Callable[[C], C]:
        """Register an image or text processor."""
        return self._register("processor", name)

    def register_task(self, name: str) -> Callable[[C], C]:
        """Register a task under its `run.task`."""
        return self._register("task", name)

    def register_runner(self, name: str) -> Callable[[C], C]:
        """Register a runner under its `run.runner`."""
        return self._register("runner", name)

    def register_lr_scheduler(self, name: str) -> Callable[[C], C]:
        """Register a learning-rate schedule under its `run.lr_sched`."""
        return self._register("lr_scheduler", name)

    def register_benchmark(self, name: str) -> Callable[[C], C]:
        """Register a benchmark under the name that `evaluation_datasets` and `--dataset` use."""
        return self._register("benchmark", name)

    def get_builder_class(self, name: str) -> Any:
        """Return the builder registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("builder", name)

    def get_model_class(self, name: str) -> Any:
        """Return the model registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("model", name)

    def get_processor_class(self, name: str) -> Any:
        """Return the processor registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("processor", name)

    def get_task_class(self, name: str) -> Any:
        """Return the task registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("task", name)

    def get_runner_class(self, name: str) -> Any:
        """Return the runner registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("runner", name)

    def get_lr_scheduler_class(self, name: str) -> Any:
        """Return the schedule registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("lr_scheduler", name)

    def get_benchmark_class(self, name: str) -> Any:
        """Return the benchmark registered as `name`. Raises: ValueError with the nearest known name."""
        return self._get("benchmark", name)

    def list_datasets(self) -> list[str]:
        """Return the names of all dataset builders, sorted."""
        return sorted(self._table("builder"))

    def list_benchmarks(self) -> list[str]:
        """Return the names of all benchmarks, sorted."""
        return sorted(self._table("benchmark"))


registry = Registry()
