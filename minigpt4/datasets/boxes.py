"""Boxes of datasets: reads them from COCO files, finds bad ones, clips them."""

from __future__ import annotations

import contextlib
import gc
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigpt4.conversation.box_text import BOX_SCALE, ImageSize, corners_of

KEEP, CLIP, DROP = "keep", "clip", "drop"
"""The treatment of bad boxes: keep them, move their corners into the image, or leave their rows out."""
INSIDE, STICKS_OUT, OUTSIDE, EMPTY, REVERSED, UNKNOWN = range(6)
"""The fault of a box; UNKNOWN: none without the image's size."""
FAULTS = {
    STICKS_OUT: "sticking out of its image",
    OUTSIDE: "outside of its image",
    EMPTY: "empty",
    REVERSED: "reversed",
}
DROPPED = (OUTSIDE, EMPTY, REVERSED)
"""The faults for which DROP leaves out a row: no part of the box is visible."""
MAX_SIDE = 1e9
"""Pixels; a larger number, an infinite one and NaN are mistakes."""
BOX = re.compile(r"\{<(-?[0-9]+)><(-?[0-9]+)><(-?[0-9]+)><(-?[0-9]+)>\}")


def checked_box(box: Any) -> list[float]:
    """Return a box (x, y, width, height). Raises: ValueError unless it is four finite numbers."""
    are_finite = isinstance(box, list) and all(type(side) in (int, float) and abs(side) < MAX_SIDE for side in box)
    if not are_finite or len(box) != 4:
        raise ValueError(f"its box should be four finite numbers x, y, width, height, not {box!r}")
    return [float(side) for side in box]


def box_fault(box: Sequence[float], image_size: ImageSize | None) -> int:
    """Return the fault of a box in pixels. It sticks out when a number of its text is not in 0..100."""
    x, y, w, h = box
    if image_size is not None and x >= 0 <= y and w > 0 < h and x + w <= image_size[0] and y + h <= image_size[1]:
        return INSIDE  # the usual case, of millions
    if w < 0 or h < 0:
        return REVERSED
    if w == 0 or h == 0:
        return EMPTY
    if image_size is None:
        return OUTSIDE if x + w <= 0 or y + h <= 0 else UNKNOWN
    width, height = image_size
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        return OUTSIDE
    corners = corners_of(box, image_size)
    return STICKS_OUT if min(corners) < 0 or max(corners) > BOX_SCALE else INSIDE


def text_fault(texts: Iterable[str]) -> int:
    """Return the worst fault of the boxes in texts; a box is empty when two opposite sides are equal."""
    found = (BOX.finditer(text) for text in texts if "{<" in text)
    return max((_hundredths_fault(*map(int, match.groups())) for boxes in found for match in boxes), default=INSIDE)


def _hundredths_fault(x1: int, y1: int, x2: int, y2: int) -> int:
    if x2 < x1 or y2 < y1:
        return REVERSED
    if x1 == x2 or y1 == y2:
        return EMPTY
    if x2 <= 0 or y2 <= 0 or x1 >= BOX_SCALE or y1 >= BOX_SCALE:
        return OUTSIDE
    return STICKS_OUT if min(x1, y1) < 0 or max(x2, y2) > BOX_SCALE else INSIDE


def clip_boxes(text: str) -> str:
    """Return the text with every box inside the image: corners in order and in 0..100; other text as it is."""
    return BOX.sub(_clipped, text) if "{<" in text else text


def _clipped(match: re.Match[str]) -> str:
    corners = [int(number) for number in match.groups()]
    (x1, x2), (y1, y2) = sorted(corners[::2]), sorted(corners[1::2])
    inside = [min(max(corner, 0), BOX_SCALE) for corner in (x1, y1, x2, y2)]
    return (
        match[0]
        if inside == corners and "-" not in match[0]
        else "{" + "".join(f"<{corner}>" for corner in inside) + "}"
    )


def coco_boxes(path: str) -> tuple[dict[int, Any], dict[int, ImageSize]]:
    """Return the `bbox` of every annotation of a COCO file, not checked, and the sizes of the images that have one.

    Raises: ValueError naming the file.
    """
    from pycocotools.coco import COCO

    collecting = gc.isenabled()
    gc.disable()  # it would visit the millions of new objects again and again: three times slower
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            content = COCO(path)
        boxes = {number: annotation.get("bbox") for number, annotation in content.anns.items()}
        sizes = {number: size for number, image in content.imgs.items() if (size := stated_size(image)) is not None}
        return boxes, sizes
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path}: is no COCO annotation file: {error!r}") from error
    finally:
        if collecting:
            gc.enable()


def stated_size(record: Mapping[str, Any]) -> ImageSize | None:
    """Return the (width, height) that a record states of its image, None where it states none."""
    width, height = record.get("width"), record.get("height")
    is_size = type(width) is int and type(height) is int and width > 0 and height > 0
    return (width, height) if is_size else None  # type: ignore[return-value]
