"""Boxes as text: `{<x1><y1><x2><y2>}` in hundredths of the image's sides."""

from __future__ import annotations

from collections.abc import Sequence

BOX_SCALE = 100
ImageSize = tuple[int, int]
"""Width and height in pixels."""


def box_text(box: Sequence[float], image_size: ImageSize) -> str:
    """Return the text of a box (x, y, width, height) in pixels of an image of this size (width, height).

    Truncated toward zero and not clamped: a box may stick out of its image.
    """
    return "{" + "".join(f"<{corner}>" for corner in corners_of(box, image_size)) + "}"


def corners_of(box: Sequence[float], image_size: ImageSize) -> tuple[int, int, int, int]:
    """Return the corners (x1, y1, x2, y2) of a box in hundredths, truncated toward zero.

    Raises: ValueError when a number is not finite.
    """
    x, y, w, h = box
    width, height = image_size
    left, top, right, bottom = x / width, y / height, (x + w) / width, (y + h) / height
    try:
        return int(left * BOX_SCALE), int(top * BOX_SCALE), int(right * BOX_SCALE), int(bottom * BOX_SCALE)
    except OverflowError as error:
        raise ValueError(f"its box {list(box)} has an infinite number") from error
