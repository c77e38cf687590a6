"""Line charts over the steps of a run: positions for chart.html.j2, and loss.png."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigpt4.common.files import write_bytes
from minigpt4.reports.metrics_log import Curve

RAW, MEAN, DOTS = "raw", "mean", "dots"

LOOKS: dict[str, dict[str, Any]] = {
    RAW: {"color": "#a8cdf5", "linewidth": 0.7},
    MEAN: {"color": "#0969da", "linewidth": 1.6},
    DOTS: {"color": "#bc4c00", "marker": "o", "markersize": 4},
}


@dataclass(frozen=True)
class Line:
    """A curve with its name and its style: raw (thin and pale), mean, or dots."""

    label: str
    curve: Curve
    style: str = MEAN


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart over the steps `x`, of `width` x `height` pixels, with a vertical mark at each step of `marks`."""

    title: str
    lines: Sequence[Line]
    x: tuple[float, float]
    marks: Sequence[int] = ()
    note: str = ""
    width: int = 540
    height: int = 200
    left: int = 52
    top: int = 10

    @property
    def right(self) -> int:
        """The position of the last step, in pixels."""
        return self.width - 12

    @property
    def bottom(self) -> int:
        """The position of the lowest value, in pixels."""
        return self.height - 24

    @cached_property
    def y(self) -> tuple[float, float]:
        """The range of values."""
        return value_range(self.lines)

    def at_x(self, step: float) -> float:
        """Return the position of a step, in pixels."""
        return self.left + (step - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Return the position of a value, in pixels."""
        return self.bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)

    def points(self, line: Line) -> list[tuple[str, str]]:
        """Return the points of a line, at most about one for each pixel."""
        thin = line.curve.thinned(self.width)
        return [(f"{self.at_x(s):.1f}", f"{self.at_y(v):.2f}") for s, v in zip(thin.steps, thin.values, strict=True)]


def smoothed_and_raw(curve: Curve) -> list[Line]:
    """Return the raw and the smoothed line of a noisy curve; fewer than 50 points are not smoothed."""
    return [Line("raw", curve, RAW), Line("mean", curve.smoothed())] if len(curve) >= 50 else [Line("value", curve)]


def value_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the range to draw: all values, but of raw lines the 1st to 99th percentile."""
    drawn = [line for line in lines if len(line.curve)]
    ends = [np.percentile(line.curve.values, (1, 99) if line.style == RAW else (0, 100)) for line in drawn]
    low, high = (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 1.0)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room if low < 0 else max(low - room, 0.0), high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers between two, for an axis."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * round_ for round_ in (1, 2, 2.5, 5, 10) if power * round_ >= rough * 0.999)
    return [float(f"{n * step:.9g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """Return a number for an axis: 30k, 1.5M, 0.25, 1e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def write_loss_picture(path: Path, chart: Chart) -> None:
    """Draw a chart with matplotlib. Raises: NotWrittenError."""
    from matplotlib.figure import Figure  # late: importing it takes half a second

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", xlim=chart.x, ylim=chart.y)
    axes.set_title(chart.title, parse_math=False)
    for line in chart.lines:
        thin = line.curve.thinned(2000)
        axes.plot(thin.steps, thin.values, label=line.label, **LOOKS[line.style])
    for number, step in enumerate(chart.marks):
        axes.axvline(step, color="#656d76", linestyle="--", linewidth=0.8, label="_" * bool(number) + "resumed")
    axes.grid(color="#e6eaef")
    axes.spines[["top", "right"]].set_visible(False)
    if chart.lines:
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
