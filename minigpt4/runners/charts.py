"""Line charts: what lies where on them, and their SVG inside a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt4.runners.history import Curve, limits, ticks

RAW, MEAN, DOTS = "raw", "mean", "dots"
COLOURS = {RAW: "#a8cdf5", MEAN: "#0969da", DOTS: "#bc4c00"}
INK, FAINT, GRID = "#1f2328", "#656d76", "#e6eaef"


@dataclass(frozen=True)
class Line:
    """A curve with its name and how it is drawn: raw (thin and pale), mean, or dots."""

    label: str
    curve: Curve
    style: str = MEAN


@dataclass(frozen=True)
class Frame:
    """Where values lie on a chart of `width` x `height`, in pixels."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    margin: tuple[int, int, int, int] = (52, 12, 10, 24)  # left, right, top, bottom

    def at_x(self, step: float) -> float:
        """Return where a step stands."""
        left, right = self.margin[0], self.width - self.margin[1]
        return left + (step - self.x[0]) / (self.x[1] - self.x[0]) * (right - left)

    def at_y(self, value: float) -> float:
        """Return where a value stands."""
        top, bottom = self.margin[2], self.height - self.margin[3]
        return bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top)


def smoothed_and_raw(curve: Curve) -> list[Line]:
    """Return the two lines of a noisy curve; few points need no smoothing."""
    smooth = curve.smoothed()
    return [Line("raw", curve, RAW), Line("mean", smooth)] if len(curve) >= 50 else [Line("value", curve)]


def frame_of(lines: Sequence[Line], *, width: int, height: int, x: tuple[float, float]) -> Frame:
    """Return a frame that holds the lines; outliers of a raw line may leave it."""
    calm = [line.curve for line in lines if line.style != RAW]
    return Frame(width, height, x, limits(calm, fences=[line.curve for line in lines if line.style == RAW]))


def svg(lines: Sequence[Line], *, width: int, height: int, x: tuple[float, float], marks: Sequence[int] = ()) -> str:
    """Return a chart over the steps `x` with vertical marks; the page's script shows values under the pointer."""
    frame = frame_of(lines, width=width, height=height, x=x)
    left, right, top, bottom = frame.margin
    parts = []
    for value in ticks(*frame.y, count=height // 35):
        y = frame.at_y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in (tick for tick in ticks(*frame.x, count=width // 85) if tick.is_integer()):
        parts.append(f'<text x="{frame.at_x(value):.1f}" y="{height - 7}" text-anchor="middle">{short(value)}</text>')
    for step in marks:
        x_of = f"{frame.at_x(step):.1f}"
        title = f"<title>resumed at step {step:,}</title>"
        parts.append(f'<line class="mark" x1="{x_of}" x2="{x_of}" y1="{top}" y2="{height - bottom}">{title}</line>')
    box = f"{left - 4} 0 {width - left - right + 8} {height - bottom}"  # what leaves it is cut off
    place = 'x="{}" y="{}" width="{}" height="{}"'.format(*box.split())
    drawn = "".join(_drawn(line, frame) for line in lines if len(line.curve))
    scale = " ".join(f"{v:.9g}" for v in (left, width - right, top, height - bottom, *frame.x, *frame.y))
    rule = f'<line class="rule" y1="{top}" y2="{height - bottom}"/>'
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" data-scale="{scale}">{"".join(parts)}'
        f'<svg {place} viewBox="{box}">{drawn}</svg>{rule}</svg>'
    )


def _drawn(line: Line, frame: Frame) -> str:
    thin = line.curve.thinned(frame.width)
    points = [f"{frame.at_x(s):.1f},{frame.at_y(v):.2f}" for s, v in zip(thin.steps, thin.values, strict=True)]
    dots = "".join(
        '<circle cx="{}" cy="{}" r="{}"/>'.format(*point.split(","), 3 if frame.width > 500 else 2)
        for point in points
        if line.style == DOTS or len(points) == 1
    )
    label = html.escape(line.label)
    return f'<g class="{line.style}"><polyline data-label="{label}" points="{" ".join(points)}"/>{dots}</g>'


def short(value: float) -> str:
    """Return a number as an axis has it: 30k, 1.5M, 0.25, 1e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"
