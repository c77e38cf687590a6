"""Damaged image files of every common format: each is read, or is an error that names it."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from minigpt4.datasets.images import read_image
from minigpt4.preflight.images import open_images
from minigpt4.processors.pictures import PICTURES

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010E] = "described"
WAYS = {
    "JPEG": ("JPEG", NOISE, {"exif": EXIF}),
    "CMYK JPEG": ("JPEG", NOISE.convert("CMYK"), {}),
    "progressive JPEG": ("JPEG", NOISE, {"progressive": True}),
    "PNG": ("PNG", NOISE.convert("RGBA"), {"exif": EXIF}),
    "palette PNG": ("PNG", NOISE.convert("P"), {"transparency": 3}),
    "16-bit PNG": ("PNG", Image.fromarray(np.asarray(NOISE)[..., 0].astype(np.uint16) * 257), {}),
    "GIF": ("GIF", NOISE.convert("P"), {"save_all": True, "append_images": [NOISE.rotate(90)]}),
    "WEBP": ("WEBP", NOISE, {"exif": EXIF}),
    "TIFF": ("TIFF", NOISE, {"exif": EXIF}),
    "packed TIFF": ("TIFF", NOISE, {"compression": "tiff_lzw"}),
    "float TIFF": ("TIFF", NOISE.convert("F"), {}),
    "BMP": ("BMP", NOISE, {}),
    "PPM": ("PPM", NOISE, {}),
    "ICO": ("ICO", NOISE, {}),
    "TGA": ("TGA", NOISE, {}),
    "MPO": ("MPO", NOISE, {"save_all": True, "append_images": [NOISE]}),
    "JPEG2000": ("JPEG2000", NOISE, {}),
    "AVIF": ("AVIF", NOISE, {}),
}


def damaged(data, rng):
    """Return a file with a few of its bytes changed, cut, doubled or moved."""
    data = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at, length = rng.randrange(len(data)), rng.randrange(1, 12)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            del data[at : at + length]
        else:
            data[: min(len(data), 64)] = bytes(
                byte ^ (1 << rng.randrange(8)) * (rng.random() < 0.05) for byte in data[:64]
            )
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data) or b"x"


def read_damaged(way, folder, count):
    """Read `count` damaged files; each gives a picture or an error with its name. Return the number of errors."""
    format, image, options = WAYS[way]
    file = io.BytesIO()
    image.save(file, format, **options)
    rng, path, num_refused = random.Random(way), folder / "a.img", 0
    for number in range(count):
        path.write_bytes(damaged(file.getvalue(), rng))
        try:
            picture = read_image(str(path), PICTURES[number % 2])
        except ValueError as error:
            assert str(error).startswith(f"cannot read {path}: ") and len(str(error)) > len(f"cannot read {path}: ")
            num_refused += 1
        else:
            assert picture.mode == "RGB" and min(picture.size) > 0
    return num_refused


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_is_read_or_named(way, tmp_path):
    read_damaged(way, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_of_many_damaged_files_each_is_read_or_named(way, tmp_path):
    assert read_damaged(way, tmp_path, 400) > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_full_check_gives_each_damaged_file_its_reason(tmp_path):
    paths = []
    for number, (format, image, options) in enumerate(WAYS.values()):
        file = io.BytesIO()
        image.save(file, format, **options)
        paths.append(str(tmp_path / f"{number}.img"))
        (tmp_path / f"{number}.img").write_bytes(file.getvalue()[:30])
    opened = open_images(paths, tmp_path / "journal", num_processes=1)
    assert sorted(opened.bad) == sorted(paths)
    assert all(opened.bad.values())
