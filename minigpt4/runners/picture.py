"""A line chart as a PNG file, through matplotlib where it is installed, else through Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image, ImageDraw, ImageFont

from minigpt4.runners.charts import COLOURS, DOTS, FAINT, GRID, INK, MEAN, RAW, Frame, Line, frame_of, short
from minigpt4.runners.history import ticks

WIDTH, HEIGHT = 1080, 600
LOOKS: dict[str, dict[str, Any]] = {
    RAW: {"linewidth": 0.7},
    MEAN: {"linewidth": 1.6},
    DOTS: {"marker": "o", "markersize": 4},
}


def write_png(
    file: BinaryIO, title: str, lines: Sequence[Line], *, x: tuple[float, float], marks: Sequence[int]
) -> None:
    """Write one chart as a picture, through matplotlib where it is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return _write_plainly(file, title, lines, x, marks)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", xlim=x)
    axes.set_title(title, parse_math=False)
    axes.set_ylim(frame_of(lines, width=WIDTH, height=HEIGHT, x=x).y)
    for line in lines:
        thin = line.curve.thinned(2000)
        axes.plot(thin.steps, thin.values, color=COLOURS[line.style], label=line.label, **LOOKS[line.style])
    for number, step in enumerate(marks):
        axes.axvline(step, color=FAINT, linestyle="--", linewidth=0.8, label="_" * bool(number) + "resumed")
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False)
    figure.savefig(file, format="png")


def _write_plainly(
    file: BinaryIO, title: str, lines: Sequence[Line], x: tuple[float, float], marks: Sequence[int]
) -> None:
    frame = Frame(WIDTH, HEIGHT, x, frame_of(lines, width=WIDTH, height=HEIGHT, x=x).y, margin=(80, 24, 56, 48))
    left, right, top, bottom = frame.margin
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    for value in ticks(*frame.y, count=8):
        draw.line([(left, frame.at_y(value)), (WIDTH - right, frame.at_y(value))], fill=GRID)
        draw.text((left - 8, frame.at_y(value)), short(value), fill=FAINT, font=font, anchor="rm")
    for value in (tick for tick in ticks(*frame.x, count=8) if tick.is_integer()):
        draw.text((frame.at_x(value), HEIGHT - bottom + 8), short(value), fill=FAINT, font=font, anchor="mt")
    for step in marks:
        draw.line([(frame.at_x(step), top), (frame.at_x(step), HEIGHT - bottom)], fill=FAINT)
    for line in lines:
        thin = line.curve.thinned(2000)
        points = [
            (frame.at_x(s), min(max(frame.at_y(v), top), HEIGHT - bottom))
            for s, v in zip(thin.steps, thin.values, strict=True)
        ]
        draw.line(points, fill=COLOURS[line.style], width=1 if line.style == RAW else 2)
        for px, py in points if line.style == DOTS or len(points) == 1 else ():
            draw.ellipse([px - 4, py - 4, px + 4, py + 4], fill=COLOURS[line.style])
    draw.text((left, 20), title, fill=INK, font=ImageFont.load_default(20), anchor="lm")
    end = WIDTH - right
    for line in reversed(lines):
        draw.text((end, 20), line.label, fill=COLOURS[line.style], font=font, anchor="rm")
        end -= int(draw.textlength(line.label, font=font)) + 18
    image.save(file, format="PNG")
