"""metrics.jsonl read back: one line a step, curves out of it, smoothed and thinned for drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

METRICS = "metrics.jsonl"
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class History:
    """The steps that the run stands on: what a resumed run did again replaces what was there. Read when complete."""

    lines: list[dict[str, Any]] = field(default_factory=list)  # steps ascending
    resumed_at: list[int] = field(default_factory=list)
    num_unreadable: int = 0

    def values(self, key: str, name: str | None = None) -> Curve:
        """Return how a number went, or with `name` one of the numbers that stand under the key by name."""
        steps, values = self._columns.get((key, name), ((), ()))
        return Curve(np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64))

    def names(self, key: str) -> list[str]:
        """Return the names under a key, in the order in which they came up."""
        return [name for found, name in self._columns if found == key and name is not None]

    @cached_property
    def _columns(self) -> dict[tuple[str, str | None], tuple[list[int], list[float]]]:
        """All numbers by key and name, gathered in one walk since there may be many lines."""
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
        """Return the newest value of a key, None when there is none."""
        return next((line[key] for line in reversed(self.lines) if line.get(key) is not None), None)


@dataclass(frozen=True)
class Curve:
    """Points, (num_points,) float64 each."""

    steps: Array  # how many were done, so that the first is 1
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    def times(self, factor: float) -> Curve:
        """Return the same in another unit."""
        return Curve(self.steps, self.values * factor)

    def smoothed(self) -> Curve:
        """Return the mean over a centred window, which lags nowhere, of a twenty-fifth of the points or nine."""
        half = max(4, len(self) // 50)
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        at = np.arange(len(self))
        first, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(self))
        return Curve(self.steps, (sums[end] - sums[first]) / np.maximum(end - first, 1))

    def thinned(self, num_points: int) -> Curve:
        """Return about `num_points` points that look the same: the lowest and the highest of each stretch."""
        if len(self) <= num_points:
            return self
        bounds = np.linspace(0, len(self), num_points // 2 + 1).astype(int)
        chosen = []
        for first, end in pairwise(bounds):
            stretch = self.values[first:end]
            chosen += sorted({first + int(stretch.argmin()), first + int(stretch.argmax())})
        return Curve(self.steps[chosen], self.values[chosen])


def read_history(path: Path) -> History:
    """Read a metrics file; one that is not there is empty, lines torn by a crash are counted and left out."""
    history = History()
    if not path.is_file():
        return history
    start = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in _parsed(file, history):
            start = _begin_again(history, line, start)
            if history.lines and history.lines[-1]["step"] == line["step"]:
                history.lines[-1] |= line  # the validation that follows a step
            else:
                history.lines.append(line)
    return history


def _parsed(texts: Iterable[str], history: History) -> Iterable[dict[str, Any]]:
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int:
            yield line
        elif text.strip():
            history.num_unreadable += 1


def _begin_again(history: History, line: dict[str, Any], start: int | None) -> int | None:
    """Drop what a resumed run does again from its first step on, and note where; return the step it started at."""
    new_start = line.get("start_step", start)
    lines = history.lines
    if lines and (new_start != start or line["step"] < lines[-1]["step"]):
        first = line["step"] if new_start is None else min(new_start, line["step"])
        while lines and lines[-1]["step"] >= first:
            lines.pop()
        history.resumed_at = [step for step in history.resumed_at if step < first]
        if lines:
            history.resumed_at.append(first)
    return new_start


def limits(curves: Sequence[Curve], *, fences: Sequence[Curve] = ()) -> tuple[float, float]:
    """Return the range to draw: all of `curves`, and of `fences` what lies between their 1st and 99th percentile."""
    ends = [(c.values.min(), c.values.max()) for c in curves if len(c)]
    ends += [tuple(np.percentile(c.values, (1, 99))) for c in fences if len(c)]
    low, high = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (0.0, 1.0)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return float(low - room if low < 0 else max(low - room, 0)), float(high + room)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers between two, for an axis."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * round_ for round_ in (1, 2, 2.5, 5, 10) if power * round_ >= rough * 0.999)
    return [float(f"{n * step:.9g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
