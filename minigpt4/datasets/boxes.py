"""Boxes: read from COCO files, and written as text `{<x1><y1><x2><y2>}` in hundredths of the image's sides."""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Sequence


def box_text(box: Sequence[float], image_size: tuple[int, int]) -> str:
    """Return the text of a box (x, y, width, height) in pixels of an image of this size (width, height).

    Truncated toward zero and not clamped: a box may stick out of its image.
    """
    x, y, w, h = box
    width, height = image_size
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    return "{" + "".join(f"<{int(corner * 100)}>" for corner in corners) + "}"


def coco_boxes(path: str) -> dict[int, list[float]]:
    """Return the box (x, y, width, height) of every annotation of a COCO file. Raises: ValueError naming the file."""
    from pycocotools.coco import COCO

    collecting = gc.isenabled()
    gc.disable()  # it would visit the millions of new objects again and again: three times slower
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            annotations = COCO(path).anns
        return {number: [float(side) for side in annotation["bbox"]] for number, annotation in annotations.items()}
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{path}: is no COCO annotation file: {error!r}") from error
    finally:
        if collecting:
            gc.enable()
