"""Reads metrics.jsonl: one line a step, and curves of its numbers, smoothed and thinned for drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

METRICS = "metrics.jsonl"
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class MetricsLog:
    """The steps of a run; steps that a resumed run took again replace the earlier ones. It is read when complete."""

    lines: list[dict[str, Any]] = field(default_factory=list)  # steps ascending
    resumed_at: list[int] = field(default_factory=list)
    num_unreadable: int = 0

    def values(self, key: str, name: str | None = None) -> Curve:
        """Return the curve of a number, with `name` that of a number in the mapping `key`."""
        steps, values = self._columns.get((key, name), ((), ()))
        return Curve(np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64))

    def names(self, key: str) -> list[str]:
        """Return the names in the mapping `key`, in the order of their first line."""
        return [name for found, name in self._columns if found == key and name is not None]

    @cached_property
    def _columns(self) -> dict[tuple[str, str | None], tuple[list[int], list[float]]]:
        """All numbers by key and name, read in one pass since a log may have many lines."""
        columns: dict[tuple[str, str | None], tuple[list[int], list[float]]] = {}
        for line in self.lines:
            step = line["step"] + 1
            for key, value in line.items():
                for name, number in value.items() if isinstance(value, dict) else ((None, value),):
                    if isinstance(number, (int, float)) and math.isfinite(number):
                        column = columns.get((key, name)) or columns.setdefault((key, name), ([], []))
                        column[0].append(step)
                        column[1].append(number)
        return columns

    def last(self, key: str) -> Any:
        """Return the latest value of a key, None without one."""
        return next((line[key] for line in reversed(self.lines) if line.get(key) is not None), None)


@dataclass(frozen=True)
class Curve:
    """Points, (num_points,) float64 each."""

    steps: Array  # the number of completed steps, from 1
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    def times(self, factor: float) -> Curve:
        """Return the same in another unit."""
        return Curve(self.steps, self.values * factor)

    def smoothed(self) -> Curve:
        """Return the mean over a centred window of 1/25 of the points, at least nine."""
        half = max(4, len(self) // 50)
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        at = np.arange(len(self))
        first, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(self))
        return Curve(self.steps, (sums[end] - sums[first]) / np.maximum(end - first, 1))

    def thinned(self, num_points: int) -> Curve:
        """Return about `num_points` points of the same shape: the lowest and the highest of each section."""
        if len(self) <= num_points:
            return self
        bounds = np.linspace(0, len(self), num_points // 2 + 1).astype(int)
        chosen = []
        for first, end in pairwise(bounds):
            section = self.values[first:end]
            chosen += sorted({first + int(section.argmin()), first + int(section.argmax())})
        return Curve(self.steps[chosen], self.values[chosen])


def read_metrics_log(path: Path) -> MetricsLog:
    """Read a metrics file; a missing file gives an empty log, damaged lines are counted and left out."""
    log = MetricsLog()
    if not path.is_file():
        return log
    start = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in _parsed(file, log):
            start = _begin_again(log, line, start)
            if log.lines and log.lines[-1]["step"] == line["step"]:
                log.lines[-1] |= line  # the validation that follows a step
            else:
                log.lines.append(line)
    return log


def _parsed(texts: Iterable[str], log: MetricsLog) -> Iterable[dict[str, Any]]:
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int:
            yield line
        elif text.strip():
            log.num_unreadable += 1


def _begin_again(log: MetricsLog, line: dict[str, Any], start: int | None) -> int | None:
    """Drop the steps that a resumed run takes again, and note its first one; return where the process started."""
    new_start = line.get("start_step", start)
    lines = log.lines
    if lines and (new_start != start or line["step"] < lines[-1]["step"]):
        first = line["step"] if new_start is None else min(new_start, line["step"])
        while lines and lines[-1]["step"] >= first:
            lines.pop()
        log.resumed_at = [step for step in log.resumed_at if step < first]
        if lines:
            log.resumed_at.append(first)
    return new_start
