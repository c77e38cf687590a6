"""TIFFs of 32 bits and of separate planes, and things that are no picture at all."""

import io
import struct

import numpy as np
import pytest

from minigpt4.processors.pictures import decode_image


def tiff(values, *, planar=1):
    """Return an uncompressed TIFF of unsigned whole numbers, (H, W) or (H, W, 3)."""
    samples = 1 if values.ndim == 2 else values.shape[2]
    planes = [values] if planar == 1 else [values[..., number] for number in range(samples)]
    content = b"".join(plane.tobytes() for plane in planes)
    entries, extra, start = [], b"", 8 + 2 + 11 * 12 + 4

    def add(tag, *numbers, letter="H"):
        nonlocal extra
        raw = struct.pack(f"<{len(numbers)}{letter}", *numbers)
        value = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", start + len(extra))
        extra += raw if len(raw) > 4 else b""
        entries.append(struct.pack("<HHI", tag, 3 if letter == "H" else 4, len(numbers)) + value)

    height, width = values.shape[:2]
    size, count = len(content) // len(planes), len(planes)
    for tag, number in ((256, [width]), (257, [height]), (258, [8 * values.itemsize] * samples), (259, [1])):
        add(tag, *number)
    add(262, 1 if samples == 1 else 2)
    add(273, *(start + 64 + number * size for number in range(count)), letter="I")
    add(277, samples)
    add(278, height)
    add(279, *[size] * count, letter="I")
    add(284, planar)
    add(339, *[1] * samples)
    body = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return io.BytesIO(b"II*\0" + struct.pack("<I", 8) + body + extra.ljust(64, b"\0") + content)


def test_unsigned_numbers_of_32_bits_count_to_their_largest():
    picture = decode_image(tiff(np.array([[0, 2**31, 2**32 - 1]], "<u4")))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("planar", [1, 2])
def test_planes_of_8_bits_are_the_picture_that_pixels_are(planar):
    values = np.array([[[0, 10, 20], [30, 40, 50]]], "u1")
    assert np.asarray(decode_image(tiff(values, planar=planar))).tolist() == values.tolist()


def test_planes_of_16_bits_are_refused_since_pillow_misreads_them():
    values = np.array([[[0, 10, 20], [30, 40, 50]]], "<u2") * 256
    assert np.asarray(decode_image(tiff(values))).tolist() == (values // 256).tolist()
    with pytest.raises(ValueError, match="a 16-bit plane for each colour"):
        decode_image(tiff(values, planar=2))


@pytest.mark.parametrize("source", [np.zeros((4, 4, 3), np.uint8), b"a.jpg", None, 5])
def test_what_is_neither_a_file_nor_a_picture_is_named_by_its_type(source):
    with pytest.raises(ValueError, match=rf"of the type {type(source).__name__}; give a path"):
        decode_image(source)
