"""Kinds of images that the model may see differently from a viewer; the full check counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from minigpt4.processors.pictures import AS_SEEN, AS_STORED, Source, as_rgb, opened, orientation_of

TURNED, TRANSPARENT, DEEP, REAL, FRAMES, CMYK = "turned", "transparent", "deep", "real", "frames", "cmyk"
WORDS = {
    TURNED: "are stored turned (EXIF)",
    TRANSPARENT: "have transparent parts",
    DEEP: "are grey with more than 8 bits",
    REAL: "hold real numbers",
    FRAMES: "have several frames",
    CMYK: "are CMYK",
}
ALWAYS = {DEEP: "scaled to 8 bits", REAL: "scaled to 8 bits", FRAMES: "the first is shown", CMYK: "converted to RGB"}
"""The treatment of kinds that does not depend on `pictures`."""
SHOWN = {
    AS_SEEN: {**ALWAYS, TURNED: "shown upright", TRANSPARENT: "shown on white"},
    AS_STORED: {**ALWAYS, TURNED: "shown as stored", TRANSPARENT: "shown without their alpha channel"},
}


def kinds_of_file(file: Source) -> list[str]:
    """Decode and convert an image file; return its kinds. Raises: ValueError with the reason, without the file name."""
    with opened(file) as image:
        has_alpha = image.has_transparency_data
        is_deep, is_real = image.mode[0] == "I", image.mode == "F"
        if has_alpha and not is_deep and not is_real:
            layers = image.convert("LA") if image.mode == "La" else image
            has_alpha = layers.convert("RGBA").getchannel("A").getextrema()[0] != 255
        found = {
            TURNED: orientation_of(image) != 1,
            TRANSPARENT: has_alpha,
            DEEP: is_deep,
            REAL: is_real,
            FRAMES: getattr(image, "n_frames", 1) > 1,
            CMYK: image.mode == "CMYK",
        }
        as_rgb(image, AS_SEEN)
    return [kind for kind, is_one in found.items() if is_one]


def lines_of(name: str, paths: Iterable[str], kinds: Mapping[str, list[str]], pictures: str) -> list[str]:
    """Return how many of a dataset's images are of each kind and how the model sees them, in words for the user."""
    counts = Counter(kind for path in paths for kind in kinds.get(path, ()))
    shown = SHOWN[pictures]
    option = f"datasets.{name}.pictures: {pictures}"
    return [
        f"{name}: {counts[kind]:,} images {WORDS[kind]}: {shown[kind]}" + f" ({option})" * (kind not in ALWAYS)
        for kind in WORDS
        if counts[kind]
    ]
