"""Decodes an image file to the RGB picture that the model sees, in training, evaluation and chat alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from minigpt4.common.paths import POINTER
from minigpt4.common.schema import PICTURES

AS_SEEN, AS_STORED = PICTURES
"""AS_SEEN, as a viewer shows it: transparent parts are white, EXIF orientation is applied. AS_STORED: the alpha channel
is dropped, EXIF orientation is not applied."""

Source = str | Path | IO[bytes] | Image.Image
"""A file, its open stream, or an image that Pillow has opened."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that makes the picture upright; 1 needs none."""
SIDES_SWAP = (5, 6, 7, 8)
_ORIENTATION_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")
_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags: the bits of a value; 0 where the value 0 is white; 2 where each colour has its plane; 1 for unsigned."""
_HEAD = 1024
"""The first bytes of a file, which identify it if it is no image."""
MAX_16_BIT = 65535

# Pillow opens up to twice Image.MAX_IMAGE_PIXELS with a warning without the file name, and refuses larger ones
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(source: Source, pictures: str = AS_SEEN) -> Image.Image:
    """Return the RGB picture of a file's first frame. Raises: ValueError with the reason, without the file name."""
    with opened(source) as image:
        return as_rgb(image, pictures)


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Yield the first frame, decoded, in the mode of the file.

    Raises: ValueError with the reason for any failure inside, without the file name.
    """
    if not isinstance(source, str | Path | Image.Image) and not hasattr(source, "seek"):
        kind = type(source).__name__
        raise ValueError(f"it is of the type {kind}; give a path, an open file or an image of Pillow")
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
            if image.format == "EPS":
                raise ValueError("it is an EPS drawing, which Pillow gives to another program; save it as PNG")
            tags: Any = getattr(image, "tag_v2", {})
            bits = tags.get(_BITS, (8,))
            if image.format == "TIFF" and tags.get(_PLANAR) == 2 and len(bits) > 1 and max(bits) > 8:
                raise ValueError("it has a 16-bit plane for each colour, which Pillow misreads; save it as PNG")
            image.load()
            yield image
    except Exception as error:  # a damaged file makes Pillow's readers raise errors of nearly any type
        raise ValueError(_reason(source, error)) from error


def shown_size(path: str, pictures: str) -> tuple[int, int]:
    """Return (width, height) of the picture of a file; reads only the header.

    Raises: ValueError with the reason, without the file name.
    """
    try:
        with Image.open(path) as image:
            swap = pictures == AS_SEEN and image.format != "TIFF" and orientation_of(image) in SIDES_SWAP
            return (image.height, image.width) if swap else image.size
    except Exception as error:  # as in `opened`
        raise ValueError(_reason(path, error)) from error


def as_rgb(image: Image.Image, pictures: str) -> Image.Image:
    """Return the RGB picture of a decoded image; an RGB image that needs no change is returned itself.

    Values of more than 8 bits are scaled to 0..255, see `_scaled`. Raises: ValueError or OSError.
    """
    if 0 in image.size:
        raise ValueError(f"it has no pixels: {image.width} x {image.height}")
    is_seen = pictures == AS_SEEN
    turn = TURNS.get(orientation_of(image)) if is_seen else None
    if image.mode[0] in "IF":
        image = _scaled(image, is_seen=is_seen)
    elif is_seen and image.has_transparency_data:
        image = _on_white(image)
    elif image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA").convert("RGB")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if turn is None:
        return image
    upright = image.transpose(turn)
    for key in _ORIENTATION_KEYS:  # it is upright now, whoever looks at it next
        upright.info.pop(key, None)
    return upright


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the file has none, or an unreadable one."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data: every viewer shows the picture as it is stored
        return 1
    return orientation if orientation in TURNS else 1


def _scaled(image: Image.Image, *, is_seen: bool) -> Image.Image:
    """Return the 8-bit grey picture of whole numbers of more than 8 bits, or of real numbers.

    Whole numbers of 0..65535 count from black to white (0..4095 in a TIFF of 12 bits), real numbers of 0..1 likewise.
    Where a value lies outside, the smallest one is black and the largest one is white; a picture of one such value
    keeps it, cut to 0..255. Infinite values are black or white, NaN is black. Raises: ValueError without a number.
    """
    tags: Any = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and tags.get(_BITS, ())[:1] == (32,) and tags.get(_SAMPLE_FORMAT, (1,))[:1] == (1,):
        values = values.view(np.uint32)  # Pillow's own numbers have a sign
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    lowest, highest = float(finite.min()), float(finite.max())
    top = 1.0 if image.mode == "F" else float(MAX_16_BIT)
    if image.mode != "F" and tags.get(_BITS, ())[:1] == (12,):
        top = 4095.0
    if lowest < 0 or highest > top:
        bottom, top = (lowest, highest) if lowest < highest else (0.0, 255.0)
    else:
        bottom = 0.0
    with np.errstate(invalid="ignore"):  # NaN of a damaged file
        grey = np.clip((values.astype(np.float64) - bottom) / (top - bottom), 0, 1) * 255
    pixels = np.nan_to_num(grey.round(), nan=0).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:
        pixels = 255 - pixels
    if is_seen and isinstance(image.info.get("transparency"), int):  # a 16-bit PNG may name one value as transparent
        pixels = np.where(values == image.info["transparency"], np.uint8(255), pixels)
    return Image.fromarray(pixels).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(whole.convert("RGB"), mask=whole.getchannel("A"))
    return white


def _reason(source: Source, error: Exception) -> str:
    """Return the message for the user about a bad file."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    head = _head(source)
    if head == b"":
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError) and head is not None:
        is_file, what = isinstance(source, str | Path), _what_it_is(head)
        return (
            f"cannot identify image file: {what}" if what else str(error) if is_file else "cannot identify image file"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError)
    return str(error) if known and str(error) else f"{type(error).__name__}: {error}"


def _head(source: Source) -> bytes | None:
    """Return the first bytes of a file, None when it cannot be read."""
    if isinstance(source, Image.Image):
        return None
    try:
        if not isinstance(source, str | Path):
            source.seek(0)
            return source.read(_HEAD)
        if not os.path.isfile(source):
            return None
        with open(source, "rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return None


def _what_it_is(head: bytes) -> str | None:
    """Return the real kind of a file that is used as an image, None if unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(POINTER):
        return "it is a git-lfs pointer, not the image; run: git lfs pull"
    if not text.startswith(b"<"):
        return None
    if b"<svg" in text:
        return "it is an SVG drawing; save it as PNG"
    if b"<html" in text or b"<!doctype html" in text:
        return "it is a web page (HTML), not an image; download it again"
    return None
