"""What the model sees of every kind of image file, and what is said of files that are no image."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.processors.pictures import AS_SEEN, AS_STORED, PICTURES, as_rgb, decode_image, orientation_of, shown_size

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def grey_of(image):
    """Return the values of a grey RGB picture (H, W), which has to be one."""
    pixels = np.asarray(image)
    assert image.mode == "RGB"
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def corners(image):
    """Return the pixels of the corners: upper left, upper right, lower left, lower right."""
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))]


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize(
    "file",
    [
        saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
        saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
        saved(Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2")), "TIFF"),
        saved(Image.fromarray(RAMP.astype(np.int32) * 257), "PPM"),  # a PGM of 16 bits
        saved(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"),
        saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    ],
    ids=["png", "tiff", "big-endian tiff", "pgm", "32-bit tiff", "float tiff"],
)
def test_a_gradient_of_more_than_8_bits_is_a_gradient_of_8_bits(file, pictures):
    assert (grey_of(decode_image(file, pictures)) == RAMP).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I", "F"])
def test_every_deep_mode_of_pillow_is_scaled(mode):
    top = 1.0 if mode == "F" else 65535
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), top)
    assert grey_of(as_rgb(image, AS_STORED)).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 65535, 32768, 128], [0, 255, 128, 0]),
        ([0, 4095, 0, 0], [0, 16, 0, 0]),  # below 16 bits: the scale of a file does not depend on its content
        ([-100, 0, 100, 100], [0, 128, 255, 255]),  # outside: by its own range
        ([0, 1 << 20, 1 << 19, 0], [0, 255, 128, 0]),
        ([-7, -7, -7, -7], [0, 0, 0, 0]),
        ([70000] * 4, [255] * 4),
    ],
)
def test_whole_numbers_count_to_65535_or_over_their_own_range(values, expected):
    image = Image.fromarray(np.array([values], np.int32))
    assert grey_of(as_rgb(image, AS_STORED)).tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, 0.5, 0.25], [0, 255, 128, 64]),
        ([0.0, 0.1, 0.0, 0.0], [0, 26, 0, 0]),
        ([-1.0, 1.0, 0.0, 0.0], [0, 255, 128, 128]),
        ([1000.0, 3000.0, 2000.0, 1000.0], [0, 255, 128, 0]),
        ([7.0] * 4, [7] * 4),  # one value: no range
        ([0.5] * 4, [128] * 4),
        ([np.nan, np.inf, -np.inf, 0.5], [0, 255, 0, 128]),
        ([np.nan, 10.0, 20.0, np.inf], [0, 0, 255, 255]),
        ([-3e38, 3e38, 0.0, np.nan], [0, 255, 128, 0]),
    ],
)
def test_real_numbers_count_to_1_or_over_their_own_range(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert grey_of(as_rgb(image, AS_SEEN)).tolist() == [expected]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20).map(lambda all: np.array([all], np.int32)),
        st.lists(st.integers(0, 65535), min_size=1, max_size=20).map(lambda all: np.array([all], np.uint16)),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20)
        .filter(lambda all: any(np.isfinite(all)))
        .map(lambda all: np.array([all], np.float32)),
    )
)
def test_a_larger_value_is_never_darker(values):
    grey = grey_of(as_rgb(Image.fromarray(values), AS_STORED))[0]
    order = np.argsort(values[0], kind="stable")
    assert (np.diff(grey[order].astype(int)) >= 0).all()
    finite = values[np.isfinite(values)]
    if finite.min() < 0 and finite.max() > finite.min():  # its own range
        assert grey.min() == 0 and grey.max() == 255


def test_a_picture_without_a_finite_number_is_refused():
    with pytest.raises(ValueError, match="none of its values is a finite number"):
        as_rgb(Image.fromarray(np.full((2, 2), np.nan, np.float32)), AS_SEEN)


def tiff(bits, photometric, data, size):
    """Return a TIFF of one strip of grey values, written by hand: Pillow writes none of 12 bits."""
    width, height = size
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    offset = 8 + len(data)
    return io.BytesIO(b"II*\0" + struct.pack("<I", offset) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4)


def test_a_tiff_of_12_bits_counts_to_4095():
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00])  # 0, 4095, 2048, 2048
    assert grey_of(decode_image(tiff(12, 1, packed, (4, 1)), AS_STORED)).tolist() == [[0, 255, 128, 128]]


def test_a_tiff_whose_zero_is_white_is_shown_so():
    data = np.array([0, 65535], "<u2").tobytes()
    assert grey_of(decode_image(tiff(16, 0, data, (2, 1)), AS_STORED)).tolist() == [[255, 0]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(format, orientation):
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste((255, 255, 255), (0, 0, 24, 16))  # the upper left quarter
    upright.paste((255, 0, 0), (24, 0, 48, 16))  # the upper right one
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how a camera held so stores it
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(stored, format, exif=exif, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))
    seen = decode_image(file, AS_SEEN)
    assert seen.size == (48, 32)
    expected = [(255, 255, 255), (255, 0, 0), (0, 0, 0), (0, 0, 0)]
    assert np.abs(np.array(corners(seen)) - np.array(expected)).max() < 24
    assert orientation_of(seen) == 1
    assert (np.asarray(as_rgb(seen, AS_SEEN)) == np.asarray(seen)).all()  # once is enough
    if format != "TIFF":  # which Pillow itself turns
        assert decode_image(file, AS_STORED).size == stored.size


def test_orientation_in_xmp_counts_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = saved(Image.new("RGB", (30, 20)), "JPEG", xmp=xmp)
    assert decode_image(file, AS_SEEN).size == (20, 30)
    assert decode_image(file, AS_STORED).size == (30, 20)


def test_damaged_exif_data_turns_nothing():
    file = saved(Image.new("RGB", (30, 20)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x7f\x01\x12")
    assert decode_image(file, AS_SEEN).size == (30, 20)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_is_known_from_the_header(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "a.jpg")
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert shown_size(path, AS_SEEN) == decode_image(path, AS_SEEN).size
    assert shown_size(path, AS_STORED) == (30, 20)
    (tmp_path / "b.jpg").write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot identify image file"):
        shown_size(str(tmp_path / "b.jpg"), AS_SEEN)


def half_glass(mode):
    """Return a picture of two pixels: opaque red or grey, and black that nothing is seen of."""
    if mode in ("LA", "La"):
        return Image.merge("LA", [Image.new("L", (2, 1), 76), row("L", 255, 0)]).convert(mode)
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    return image.convert(mode)


def row(mode, *pixels):
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_transparent_parts_show_white(mode):
    opaque = (76, 76, 76) if mode in ("LA", "La") else (255, 0, 0)
    assert corners(as_rgb(half_glass(mode), AS_SEEN))[:2] == [opaque, (255, 255, 255)]


def test_half_transparent_parts_show_white_through():
    assert as_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), AS_SEEN).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one colour", "an alpha a colour"])
def test_transparent_colours_of_a_palette_show_white(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    file = saved(image, "PNG", transparency=transparency)
    assert corners(decode_image(file, AS_SEEN))[:2] == [(255, 0, 0), (255, 255, 255)]
    assert corners(decode_image(file, AS_STORED))[:2] == [(255, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (row("L", 76, 0), 0),
        (row("RGB", (76, 76, 76), (0, 0, 1)), (0, 0, 1)),
        (Image.fromarray(np.array([[76 * 257, 9]], np.uint16)), 9),
    ],
    ids=["grey", "RGB", "16 bits"],
)
def test_a_png_may_name_one_colour_as_transparent(image, transparency):
    info = {"transparency": transparency}
    file = saved(image, "PNG", **info)
    if image.mode == "I;16":  # Pillow writes no tRNS of 16 bits
        file = io.BytesIO(with_chunk(file.getvalue(), b"tRNS", struct.pack(">H", transparency)))
    assert corners(decode_image(file, AS_SEEN))[:2] == [(76, 76, 76), (255, 255, 255)]
    assert corners(decode_image(file, AS_STORED))[1] != (255, 255, 255)


def with_chunk(png, name, data):
    """Return a PNG with one more chunk before its pixels."""
    at = png.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return png[:at] + chunk + png[at:]


MODES = ["1", "L", "LA", "PA", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", MODES)
def test_as_stored_an_8_bit_picture_is_what_convert_makes_of_it(mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8), "RGBA")
    image = noise.convert("P").convert("PA") if mode == "PA" else noise.convert("RGB" if mode == "HSV" else "RGBA")
    image = image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV", "P", "1", "RGBX") else image
    image = image if image.mode == mode else image.convert(mode)
    assert (np.asarray(as_rgb(image, AS_STORED)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_an_opaque_picture_is_the_same_as_seen(mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).convert(mode)
    assert (np.asarray(as_rgb(noise, AS_SEEN)) == np.asarray(noise.convert("RGB"))).all()


def test_an_opaque_alpha_channel_changes_nothing():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    with_alpha = noise.convert("RGBA")
    assert (np.asarray(as_rgb(with_alpha, AS_SEEN)) == np.asarray(noise)).all()


def test_an_rgb_image_is_not_copied():
    image = Image.new("RGB", (3, 3))
    assert as_rgb(image, AS_SEEN) is image


def test_lab_is_seen_in_its_colour():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (2, 2), (200, 30, 60)), *profiles, outputMode="LAB")
    assert np.abs(np.array(as_rgb(lab, AS_STORED).getpixel((0, 0))) - [200, 30, 60]).max() <= 2


def test_cmyk_jpegs_have_the_colours_that_they_were_saved_with():
    file = saved(Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    for pictures in PICTURES:
        assert np.abs(np.array(decode_image(file, pictures).getpixel((4, 4))) - [200, 30, 60]).max() <= 6


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_seen(format):
    first, second = Image.new("RGB", (8, 8), (0, 0, 0)), Image.new("RGB", (8, 8), (255, 255, 255))
    file = saved(first, format, save_all=True, append_images=[second])
    assert Image.open(file).n_frames == 2
    for pictures in PICTURES:
        assert decode_image(file, pictures).getpixel((4, 4)) == (0, 0, 0)


def test_the_image_processor_scales_what_it_is_given():
    see = BlipImageProcessor(2, mean=(0, 0, 0), std=(1, 1, 1))
    deep = Image.fromarray(np.full((2, 2), 32896, np.uint16))
    assert see(deep).unique().tolist() == pytest.approx([128 / 255])


def bomb():
    """Return a PNG of 73 bytes that claims 65,000 x 65,000 pixels."""
    data = saved(Image.new("L", (1, 1)), "PNG").getvalue()
    head = b"IHDR" + struct.pack(">IIBBBBB", 65000, 65000, 8, 0, 0, 0, 0)
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "it is a git-lfs pointer, not the image",
        ),
        (b"\n<!DOCTYPE html><html><body>403</body></html>", "it is a web page (HTML), not an image; download it again"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing; save it as PNG"),
        (b"no image at all", "cannot identify image file"),
        (saved(Image.effect_noise((64, 64), 90), "JPEG").getvalue()[:-400], "image file is truncated"),
        (saved(Image.effect_noise((64, 64), 90), "PNG").getvalue()[:-400], "truncated"),
        (bomb(), "could be decompression bomb DOS attack"),
        (saved(Image.new("RGB", (8, 8)), "EPS").getvalue(), "it is an EPS drawing"),
    ],
    ids=["empty", "pointer", "html", "svg", "text", "cut jpeg", "cut png", "bomb", "eps"],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (path, str(path), io.BytesIO(content)):
        with pytest.raises(ValueError, match=re.escape(reason)):
            decode_image(source, AS_SEEN)


def test_a_folder_and_a_file_that_is_not_there_are_named_as_such(tmp_path):
    with pytest.raises(ValueError, match=r"^Is a directory$"):
        decode_image(tmp_path, AS_SEEN)
    with pytest.raises(ValueError, match=r"^there is no such file$"):
        decode_image(tmp_path / "a.jpg", AS_SEEN)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="it has no pixels: 0 x 5"):
        as_rgb(Image.new("RGB", (0, 5)), AS_SEEN)


def test_a_text_chunk_that_unpacks_to_very_much_is_an_error_of_its_file():
    packed = b"a\0\0" + zlib.compress(b"b" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))
    file = io.BytesIO(with_chunk(saved(Image.new("RGB", (4, 4)), "PNG").getvalue(), b"zTXt", packed))
    with pytest.raises(ValueError, match="too large"):
        decode_image(file, AS_SEEN)


def test_twice_as_many_pixels_as_pillow_allows_are_opened_and_more_are_refused(monkeypatch):
    file = saved(Image.new("RGB", (10, 10)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert decode_image(file, AS_SEEN).size == (10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ValueError, match="exceeds limit of 80 pixels"):
        decode_image(file, AS_SEEN)
