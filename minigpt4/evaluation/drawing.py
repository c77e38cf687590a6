"""The boxes of an answer, drawn into its picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from minigpt4.conversation.box_text import BOX_SCALE
from minigpt4.evaluation.benchmarks.scorers import BOX

PHRASE = re.compile(r"<p>(.*?)</p>")
COLOURS = ("#e6194b", "#0072b2", "#2e8b57", "#9a33cc", "#d55e00", "#00798c")
PIXELS_A_LINE = 200
"""The longer side of a picture divided by this is the thickness of its lines."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box (x1, y1, x2, y2) from 0 to 100, and its phrase, or nothing."""

    phrase: str
    corners: tuple[int, int, int, int]


def boxes_in(text: str) -> list[NamedBox]:
    """Return the boxes of a text in order, each with the phrase before it."""
    phrases = [(found.end(), found[1].strip()) for found in PHRASE.finditer(text)]
    boxes = []
    for found in BOX.finditer(text):
        phrase = next((phrase for end, phrase in reversed(phrases) if end <= found.start()), "")
        x1, y1, x2, y2 = map(int, found.groups())
        boxes.append(NamedBox(phrase, (x1, y1, x2, y2)))
    return boxes


def draw_boxes(image: Image.Image, boxes: Sequence[NamedBox], *, colours: Sequence[str] = COLOURS) -> Image.Image:
    """Return a copy of the picture with the boxes drawn, those of one phrase in one colour, cut at its edges."""
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(max(drawn.size) / PIXELS_A_LINE))
    phrases = list(dict.fromkeys(box.phrase for box in boxes))
    for box in boxes:
        colour = colours[phrases.index(box.phrase) % len(colours)]
        (x1, x2), (y1, y2) = (
            sorted(min(corner * size / BOX_SCALE, size - 1) for corner in box.corners[axis::2])
            for axis, size in enumerate(drawn.size)
        )
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        if box.phrase:
            _label(pen, box.phrase, (x1, y1), colour=colour, size=max(11, round(max(drawn.size) / 36)))
    return drawn


def _label(pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], *, colour: str, size: int) -> None:
    """Write a box's phrase on its colour above its upper left corner, or inside where there is no room above."""
    x, y = corner
    left, top, right, bottom = pen.textbbox((x, y), text, font_size=size)
    lift = bottom - top + 6 if y > bottom - top + 6 else 0
    pen.rectangle((left - 2, top - lift - 2, right + 2, bottom - lift + 2), fill=colour)
    pen.text((x, y - lift), text, fill="white", font_size=size)
