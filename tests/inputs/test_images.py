"""Image input: what is shown, how it is resized and cut, and what is said when it cannot be."""

import io
import math
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from rave_mlx.config import ImageConfig
from rave_mlx.errors import ConfigError, ImageError
from rave_mlx.inputs.images.preprocess import cut_patches, fit_size, open_image, read_patches

QWEN = ImageConfig(patch_size=14, min_pixels=56 * 56, max_pixels=12_845_056)


def picture(width=48, height=36):
    """A picture without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5 % 256, y * 7 % 256, (x * y + 3 * x) % 256], -1).astype(np.uint8)


def encoded(image, form, **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def shown(source, **options):
    image = open_image(source, **options)
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def one_colour(image):
    (colour,) = set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))
    return colour


def refusal(source, **options):
    with pytest.raises(ImageError) as caught:
        read_patches(source, QWEN, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


# ------------------------------------------------------------------------------------------------- formats

LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "TIFF packbits": {"compression": "packbits"},
    "WEBP": {"lossless": True},
    "JPEG2000": {},
    "JPEG2000 stream": {"no_jp2": True},
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_keep_every_pixel(name, tmp_path):
    data = encoded(picture(), name.split()[0], **LOSSLESS[name])
    file = tmp_path / "scan.jpg"  # the content decides, not the extension
    file.write_bytes(data)
    for source in (data, file, str(file)):
        np.testing.assert_array_equal(shown(source), picture())


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 95}), ("AVIF", {"quality": 90}), ("HEIF", {})])
def test_lossy_formats_come_close(form, options):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    flat = np.full((40, 60, 3), (200, 120, 40), np.uint8)
    assert np.abs(shown(encoded(flat, form, **options)).astype(int) - (200, 120, 40)).max() <= 3


def test_gif_shows_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert one_colour(open_image(data)) == (255, 0, 0)
    assert "page 2 was asked for, a GIF file is read as one page" in refusal(data, page=2)


def test_animations_show_their_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    for form, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("MPO", {"quality": 95})):
        seen = shown(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
        assert np.abs(seen.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_tiff_pages(options):
    pages = [Image.new("RGB", (20 + i, 30), (i * 10, 0, 0)) for i in range(4)]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], **options)
    for number in range(1, 5):
        assert open_image(data, page=number).size == (19 + number, 30)
        assert one_colour(open_image(data, page=number)) == ((number - 1) * 10, 0, 0)
    assert "page 9 was asked for, the file has 4 pages" in refusal(data, page=9)
    assert "pages are counted from 1" in refusal(data, page=0)
    assert "to at most 10000" in refusal(data, page=10**9)


def test_a_loop_of_tiff_pages_ends():
    data = bytearray(encoded(picture(), "TIFF"))
    directory = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, directory)[0]
    struct.pack_into("<I", data, directory + 2 + 12 * entries, directory)  # the next page is this page
    assert "the file has 1 page" in refusal(bytes(data), page=5000)


# ------------------------------------------------------------------------------------------------- upright

STORED = {  # how the pixels of an upright picture are stored under each EXIF orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "TIFF lzw"])
def test_exif_orientation(name, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture())))
    if name.startswith("TIFF"):
        options = {"tiffinfo": {274: orientation}}
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = {"exif": exif}
    data = encoded(stored, name.split()[0], **LOSSLESS[name], **options)
    np.testing.assert_array_equal(shown(data), picture())
    np.testing.assert_array_equal(shown(Image.open(io.BytesIO(data))), picture())
    np.testing.assert_array_equal(shown(open_image(data)), picture())  # not turned a second time
    assert read_patches(data, QWEN).size == (48, 36)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["JPEG", "AVIF", "HEIF"])  # AVIF and HEIF turn by boxes of their own, not by EXIF
def test_orientation_of_lossy_formats(form, orientation):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    quarters = np.array(
        [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (0, 0, 0), (255, 255, 0)]], np.uint8
    )
    upright = quarters.repeat(32, 0).repeat(32, 1)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(np.ascontiguousarray(STORED[orientation](upright)), form, exif=exif.tobytes(), quality=95)
    seen = shown(data)
    assert seen.shape == (64, 96, 3)
    assert np.abs(seen[16::32, 16::32].astype(int) - quarters).max() < 20


def test_damaged_exif_does_not_stop_a_sound_picture():
    for exif in (
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0rubbish",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\1\0\0\0A\0\0\0",
    ):
        np.testing.assert_array_equal(shown(encoded(picture(), "PNG", exif=exif)), picture())


# --------------------------------------------------------------------------------------- transparency, modes


@pytest.mark.parametrize(
    ("mode", "pixel", "colour"),
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("RGBa", (128, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("La", (0, 128), (127, 127, 127)),
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (85, 255, 255), (0, 255, 0)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 32896, (128, 128, 128)),
        ("I;16", 255, (1, 1, 1)),
        ("I;16B", 257 * 9, (9, 9, 9)),
        ("I", 200, (200, 200, 200)),
        ("I", 65535, (255, 255, 255)),
        ("F", 0.5, (128, 128, 128)),
        ("F", 200.0, (200, 200, 200)),
    ],
)
def test_every_mode_is_shown_as_a_viewer_would(mode, pixel, colour):
    assert one_colour(open_image(Image.new(mode, (4, 4), pixel))) == colour


def test_lab():
    grey = Image.merge("LAB", [Image.new("L", (4, 4), level) for level in (137, 128, 128)])  # L* = 53.6
    assert np.abs(np.array(one_colour(open_image(grey))) - 128).max() <= 2


def test_transparent_palette_and_transparent_level():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert one_colour(open_image(encoded(palette, "PNG"))) == (40, 50, 60)
    assert one_colour(open_image(encoded(palette, "PNG", transparency=1))) == (255, 255, 255)
    assert one_colour(open_image(encoded(palette, "PNG", transparency=b"\xff\x80"))) == (147, 152, 157)
    assert one_colour(open_image(encoded(palette, "GIF", transparency=1))) == (255, 255, 255)
    for image, clear in ((Image.new("L", (4, 4), 7), 7), (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3))):
        assert one_colour(open_image(encoded(image, "PNG", transparency=clear))) == (255, 255, 255)
    deep = Image.fromarray(np.array([[1000, 40000]], np.uint16))
    assert shown(encoded(deep, "PNG", transparency=1000)).tolist() == [[[255] * 3, [156] * 3]]


def test_sixteen_bits_are_scaled_in_every_format():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(levels / 257.0).astype(np.uint8)
    for form in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(shown(encoded(levels, form))[..., 1], expected, err_msg=form)


def tiff(bits, photometric, data, width, form=1):
    """An uncompressed little-endian TIFF of one strip (TIFF 6.0, section 2)."""
    rows = len(data) * 8 // (width * bits)
    entries = {256: width, 257: rows, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: rows, 279: len(data)}
    entries[339] = form
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4) + data


def test_tiff_of_twelve_bits_and_with_white_as_zero():
    assert shown(tiff(12, 1, bytes.fromhex("000fff800400"), 4))[0, :, 0].tolist() == [0, 255, 128, 64]
    sixteen = struct.pack("<3H", 0, 65535, 257 * 5)
    assert shown(tiff(16, 1, sixteen, 3))[0, :, 0].tolist() == [0, 255, 5]
    assert shown(tiff(16, 0, sixteen, 3))[0, :, 0].tolist() == [255, 0, 250]
    assert shown(tiff(8, 0, bytes([0, 255, 5]), 3))[0, :, 0].tolist() == [255, 0, 250]


@pytest.mark.parametrize(
    ("levels", "grey"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 65535.0, 257.0], [0, 255, 1]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([math.nan, 0.0, 1.0], [0, 0, 255]),
        ([-math.inf, math.inf, 0.5], [0, 255, 128]),
        ([3e38, -3e38, 0.0], [255, 0, 128]),
        ([1e6, 1e6, 1e6], [0, 0, 0]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_floating_point_ranges(levels, grey):
    data = encoded(np.array([levels], np.float32), "TIFF")
    assert shown(data)[0, :, 0].tolist() == grey


def test_whole_numbers_of_unknown_range():
    for levels, grey in (([0, 100, 255], [0, 100, 255]), ([0, 257, 65535], [0, 1, 255]), ([-10, 0, 10], [0, 128, 255])):
        assert shown(Image.fromarray(np.array([levels], np.int32)))[0, :, 0].tolist() == grey
    dark = Image.fromarray(np.array([[0, 100, 255]], np.uint16))
    assert shown(encoded(dark, "PPM"))[0, :, 0].tolist() == [0, 0, 1]  # the file says 16 bits


def test_cmyk_jpeg_of_adobe_is_not_a_negative():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(ink, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(np.array(shown(data)[8, 8], int) - (255, 0, 0)).max() <= 3
    paper = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG", quality=95)
    assert shown(paper).min() >= 252


# ------------------------------------------------------------------------------------------ colour profiles


def icc(space, connection, kind, tags):
    """A version 2 ICC profile (ICC.1:2001-04) from its tags."""
    blob, table = b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(blob), len(data))
        blob += data + bytes(-len(data) % 4)
    body = struct.pack(">I", len(tags)) + table + blob
    white = b"".join(s15f16(v) for v in (0.9642, 1.0, 0.8249))
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s", 128 + len(body), b"lcms", 0x02100000, kind, space, connection, b"", b"acsp", b""
    )
    return (head + white).ljust(128, b"\0") + body


def s15f16(value):
    return struct.pack(">i", round(value * 65536))


def xyz(*values):
    return b"XYZ \0\0\0\0" + b"".join(map(s15f16, values))


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WIDE = {"r": (0.6097, 0.3111, 0.0195), "g": (0.2053, 0.6257, 0.0609), "b": (0.1492, 0.0632, 0.7446)}  # Adobe RGB, D50
SRGB = {"r": (0.4360, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7139)}


def matrix_profile(primaries, power):
    columns = {f"{c}XYZ".encode(): xyz(*primaries[c]) for c in "rgb"}
    curves = {f"{c}TRC".encode(): gamma(power) for c in "rgb"}
    return icc(b"RGB ", b"XYZ ", b"mntr", {b"wtpt": xyz(0.9642, 1.0, 0.8249), **columns, **curves})


def test_a_wide_gamut_photograph_is_converted():
    pixel = np.array([180, 120, 60])
    linear = (pixel / 255) ** 2.19921875
    to_xyz, from_xyz = np.array(list(WIDE.values())).T, np.linalg.inv(np.array(list(SRGB.values())).T)
    light = from_xyz @ to_xyz @ linear
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.abs(light) ** (1 / 2.4) - 0.055)
    image = Image.fromarray(np.full((4, 4, 3), pixel, np.uint8))
    for form in ("PNG", "TIFF"):
        data = encoded(image, form, icc_profile=matrix_profile(WIDE, 563 / 256))
        np.testing.assert_allclose(one_colour(open_image(data)), expected, atol=1.5)
    assert np.abs(expected - pixel).max() > 10


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(shown(encoded(picture(), "PNG", icc_profile=profile)), picture())


def test_a_grey_profile_and_transparency_go_together():
    profile = icc(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"kTRC": gamma(1.0)})
    assert one_colour(open_image(encoded(Image.new("L", (4, 4), 128), "PNG", icc_profile=profile))) == (188, 188, 188)
    half = encoded(Image.new("LA", (4, 4), (128, 128)), "PNG", icc_profile=profile)
    assert one_colour(open_image(half)) == (221, 221, 221)


def test_a_press_profile_decides_the_colours_of_cmyk():
    corners = [(255, 128, 128), *[(128, 128, 128)] * 14, (0, 128, 128)]  # paper, any ink is L* = 50, all inks
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + b"".join(s15f16(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table += identity * 4 + b"".join(map(bytes, corners)) + identity * 3
    profile = icc(b"CMYK", b"Lab ", b"prtr", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"A2B0": table})
    for form in ("TIFF", "JPEG"):
        inked = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), form, icc_profile=profile)
        assert np.abs(shown(inked).astype(int) - 119).max() <= 3  # without the profile: (0, 255, 255)
        bare = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), form, icc_profile=profile)
        assert shown(bare).min() >= 252


@pytest.mark.filterwarnings("error")
def test_profiles_that_do_not_fit_are_left_out():
    grey = icc(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": xyz(0.9642, 1.0, 0.8249), b"kTRC": gamma(1.0)})
    for profile in (b"rubbish", b"\0" * 128, grey, matrix_profile(WIDE, 2.2)[:200]):
        np.testing.assert_array_equal(shown(encoded(picture(), "PNG", icc_profile=profile)), picture())


# ------------------------------------------------------------------------------------------------- refusals


def test_what_is_not_there_or_not_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("scan.png") == "scan.png: no such file; check the path"
    assert refusal(tmp_path) == f"{tmp_path}: this is a directory; name the image files in it"
    assert refusal("") == "empty file name: no file is named; give the path of an image"
    assert refusal("https://example.org/a.png").endswith(
        "addresses are not fetched; download the image and name the file"
    )
    (tmp_path / "empty.png").touch()
    assert refusal("empty.png") == "empty.png: the file is empty; download or export it again"
    assert refusal(b"") == "image data of 0 bytes: the file is empty; download or export it again"
    assert "no such file" in refusal("empty.png/inside.png")
    os.mkfifo(tmp_path / "pipe")
    assert refusal("pipe") == "pipe: this is a pipe or a device; save the image to a file and name that"
    assert "a pipe or a device" in refusal("/dev/zero")
    assert "addresses are not fetched" in refusal("HTTPS://example.org/a.png")
    assert "cannot be opened" in refusal("a\0b")
    assert len(refusal("x" * 5000)) < 500
    assert refusal("two\nlines \udcff.png").startswith("two?lines ?.png: no such file")
    assert refusal({"image": "scan.png"}) == (
        "dict object: an image is a path, bytes, an open binary file, an array or a PIL.Image.Image"
    )


def test_unreadable_permissions(tmp_path):
    file = tmp_path / "private.png"
    file.write_bytes(encoded(picture(), "PNG"))
    file.chmod(0)
    root = os.geteuid() == 0
    if root:
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        message = refusal(file)
    finally:
        if root:
            os.seteuid(0)
    assert message.startswith(f"{file}: permission denied; make the file readable")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x07\x12\x9fnothing", "no known picture format; PNG, JPEG"),
        (b"hello, this is a letter", "a text file; name a picture or a PDF"),
        ("größer\n".encode() * 300, "a text file; name a picture"),
        ("Brief".encode("utf-16"), "a text file; name a picture"),
        (bytes(500), "no known picture format"),
        (b"<!DOCTYPE html><title>404", "a web page; the picture itself was not saved, download"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG or XML; export it as PNG or PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript; convert it to PDF or PNG"),
        (b"PK\x03\x04rest", "Office document; unpack it, or export it as PDF"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video; save one of its frames"),
        (b"\xff\x0a" + bytes(20), "JPEG XL; convert it to PNG"),
        (b"8BPS" + bytes(20), "a Photoshop document; convert it"),
    ],
)
def test_what_is_no_picture_is_named(content, words, tmp_path):
    file = tmp_path / "upload.png"
    file.write_bytes(content)
    message = refusal(file)
    assert message.startswith(f"{file}: this is ")
    assert words in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.filterwarnings("error")
def test_half_a_file_is_never_half_a_picture(form, tmp_path, capfd):
    if form == "AVIF":
        pytest.importorskip("PIL._avif")
    file = tmp_path / "half.png"
    whole = encoded(picture(), form)
    for share in (0.3, 0.5, 0.8, 0.95):
        file.write_bytes(whole[: int(len(whole) * share)])
        message = refusal(file)
        assert message.startswith(f"{file}: damaged")
        assert message.endswith("download or export it again")
    assert capfd.readouterr().err == ""


def test_a_tiff_that_promises_more_rows_than_it_has():
    data = bytearray(tiff(8, 1, bytes(64), 8))
    struct.pack_into("<I", data, 8 + 2 + 12 + 8, 8000)  # ImageLength
    assert "damaged TIFF (strips are missing)" in refusal(bytes(data))


def png_header(width, height):
    """A PNG that announces a grey picture of this size and holds a little of it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error")
def test_decompression_bombs_are_refused_and_large_photographs_open(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(50_000, 40_000))
    remedy = "the most that is decoded is 179; scale the image down or crop it"
    assert refusal(bomb) == f"{bomb}: 2,000 megapixels, {remedy}"
    assert "200 megapixels" in refusal(Image.new("1", (20_000, 10_000)))
    photo = Image.new("L", (12_000, 7_600), 99)  # 91 megapixels: above the size at which Pillow warns
    assert open_image(encoded(photo, "PNG", compress_level=1)).size == (12_000, 7_600)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a program that has switched Pillow's limit off
    assert refusal(bomb) == f"{bomb}: 2,000 megapixels, {remedy}"


def test_pictures_without_pixels_and_strips(tmp_path):
    assert "has no pixels (0 x 5)" in refusal(Image.new("RGB", (0, 5)))
    assert refusal(encoded(Image.new("RGB", (3, 700)), "PNG")).endswith(
        "bytes: 3 x 700 pixels is too narrow, the longer side may be 200 times the shorter; "
        "crop the image or cut it into pieces"
    )
    assert "give at least 1" in refusal(encoded(picture(), "PNG"), image_tokens=0)
    Image.new("RGB", (3, 700)).save(tmp_path / "strip.png")
    assert refusal(Image.open(tmp_path / "strip.png")).startswith(f"{tmp_path / 'strip.png'}: 3 x 700 pixels")
    assert "seek() the image" in refusal(Image.new("RGB", (9, 9)), page=2)


def test_a_codec_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)
    assert refusal(heic).endswith("HEIC needs a package that is not installed; run: pip install pillow-heif")


def test_nothing_reaches_stderr_but_the_error(tmp_path):
    file = tmp_path / "broken.tif"
    fax = encoded(Image.effect_noise((160, 120), 50).convert("1"), "TIFF", compression="group4")
    file.write_bytes(fax[:-20])
    deep = tmp_path / "deep.tif"
    deep.write_bytes(
        tiff(8, 1, bytes(64), 8).replace(struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 277, 4, 1, 99))
    )
    code = (
        "import sys; from rave_mlx.errors import ImageError; from rave_mlx.inputs.images.preprocess import open_image\n"
        "for name in sys.argv[1:]:\n    try: open_image(name)\n    except ImageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, file, deep], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert [line.startswith(str(name)) for line, name in zip(run.stdout.splitlines(), (file, deep), strict=True)] == [
        True
    ] * 2


# ------------------------------------------------------------------------------------------------------ PDF


def pdf(*objects, trailer=b""):
    """A PDF of these objects, the first being its catalog (ISO 32000-1, 7.5)."""
    out, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R %s >>\n" % (size, rows, size, trailer)
    return out + table + b"startxref\n%d\n%%%%EOF\n" % len(out)


def stream(content, extra=b""):
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (extra, len(content), content)


def pages(*boxes, trailer=b"", paint=b"1 0 0 rg 0 0 50 50 re f"):
    """A PDF with a page for each (width, height); `paint` draws on all of them."""
    kids = b" ".join(b"%d 0 R" % (4 + i) for i in range(len(boxes)))
    leaves = (b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %g %g] /Contents 3 0 R >>" % box for box in boxes)
    tree = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(boxes))
    return pdf(b"<< /Type /Catalog /Pages 2 0 R >>", tree, stream(paint), *leaves, trailer=trailer)


A4 = (595, 842)


def test_pdf_pages(tmp_path):
    file = tmp_path / "letter.txt"
    file.write_bytes(b"mail header\n" + pages(A4, (842, 595)))
    first, second = open_image(file), open_image(file, page=2)
    assert first.size[0] < first.size[1]
    assert second.size[0] > second.size[1]
    assert 8_700_000 <= first.width * first.height <= 8_720_000  # 300 dpi
    assert first.getpixel((10, first.height - 10)) == (255, 0, 0)
    assert first.getpixel((first.width - 10, 10)) == (255, 255, 255)
    assert refusal(file, page=3) == f"{file}: page 3 was asked for, the PDF has 2 pages"


def test_a_pdf_page_is_drawn_with_more_pixels_than_the_model_sees():
    for tokens in (100, 1280, 8000):
        patches = read_patches(pages(A4), QWEN, image_tokens=tokens)
        assert patches.size[0] * patches.size[1] >= 4 * tokens * 28 * 28
        assert 0.85 * tokens < patches.tokens <= tokens
    assert math.prod(read_patches(pages(A4), QWEN, image_tokens=40_000).size) < 65_000_000
    assert max(open_image(pages((14_400, 1)), page_pixels=60_000_000).size) <= 32_768


def test_a_filled_in_form_shows_its_values():
    form = b"<< /Fields [4 0 R] /DA (/F 12 Tf 0 g) /DR << /Font << /F 5 0 R >> >> >>"
    widget = (
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (n) /V (TOTAL 42) /Rect [10 10 190 50] /F 4 /DA (/F 24 Tf 0 g) >>"
    )
    data = pdf(
        b"<< /Type /Catalog /Pages 2 0 R /AcroForm %s >>" % form,
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Annots [4 0 R] >>",
        widget,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    assert (shown(data, page_pixels=80_000) < 128).any(-1).mean() > 0.01


def test_pdfs_that_cannot_be_drawn():
    lock = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>]" % (
        b"a1" * 32,
        b"b2" * 32,
    )
    assert refusal(pages(A4, trailer=lock)).endswith("the PDF is encrypted; save a copy without a password")
    assert refusal(pages()).endswith("the PDF has no pages; export it again")
    assert refusal(b"%PDF-1.7\nnothing else").endswith("the PDF is damaged; download or export it again")
    assert refusal(pages((1000, 1), trailer=b"")).endswith("crop the image or cut it into pieces")


def test_pdf_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    assert refusal(pages(A4)).endswith("a PDF needs the pdf extra; run: pip install 'rave-mlx[pdf]'")


def test_threads_read_alike():
    sources = [pages(A4), encoded(picture(), "PNG"), encoded(picture(), "TIFF", compression="tiff_lzw")] * 6
    with ThreadPoolExecutor(6) as pool:
        digests = list(pool.map(lambda data: read_patches(data, QWEN, image_tokens=64).digest, sources))
    assert digests == digests[:3] * 6


# --------------------------------------------------------------------------------------------- size, patches


@pytest.mark.parametrize(
    ("size", "tokens", "fitted"),
    [
        ((2480, 3508), None, (840, 1176)),  # A4 at 300 dpi: 1,260 tokens
        ((2480, 3508), 4096, (1484, 2128)),
        ((2480, 3508), 16384, (2492, 3500)),  # explicit: not the 12.8 megapixels of the model, but 16,384 tokens
        ((640, 480), None, (644, 476)),
        ((1, 1), None, (56, 56)),
        ((27, 27), None, (56, 56)),
        ((5, 900), None, (28, 756)),
        ((10_000, 100), 4, (112, 28)),  # transformers would take 20 tokens
        ((1, 1), 1, (28, 28)),
        ((300, 200), 1, (28, 28)),
        ((9504, 6336), None, (1204, 812)),
    ],
)
def test_fitted_sizes(size, tokens, fitted):
    assert fit_size(*size, QWEN, tokens) == fitted


def test_the_maximum_of_the_model_holds_unless_tokens_are_named():
    small = ImageConfig(patch_size=14, min_pixels=3136, max_pixels=200 * 784)
    assert math.prod(fit_size(4000, 4000, small)) <= 200 * 784
    assert math.prod(fit_size(4000, 4000, small, 900)) == 900 * 784


@given(
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.one_of(st.none(), st.integers(1, 20_000)),
    st.sampled_from([(14, 2), (16, 2), (14, 1), (8, 3)]),
)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_sizes_are_whole_cells_within_the_budget(width, height, tokens, geometry):
    config = ImageConfig(patch_size=geometry[0], merge_size=geometry[1], min_pixels=3136, max_pixels=12_845_056)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ImageError, match="too narrow"):
            fit_size(width, height, config, tokens)
        return
    fitted = fit_size(width, height, config, tokens)
    assert all(side >= config.cell and side % config.cell == 0 for side in fitted)
    assert math.prod(fitted) <= (tokens or 1280) * config.cell**2
    if min(fitted) >= 10 * config.cell:  # rounding to cells moves each side by less than one
        assert fitted[0] / fitted[1] == pytest.approx(width / height, rel=0.25)


@pytest.mark.parametrize(("patch", "merge", "frames"), [(14, 2, 2), (16, 2, 2), (14, 1, 1), (4, 3, 3)])
def test_patches_are_what_their_definition_says(patch, merge, frames):
    config = ImageConfig(patch_size=patch, min_pixels=1, max_pixels=10**7, temporal_patch_size=frames, merge_size=merge)
    width, height = 3 * patch * merge, 2 * patch * merge
    levels = picture(width, height)
    patches = cut_patches(Image.fromarray(levels), config)
    rows, columns = height // patch, width // patch
    assert patches.grid == (1, rows, columns)
    assert patches.tokens == 6
    assert patches.size == (width, height)
    assert patches.pixels.dtype == np.float32
    assert patches.pixels.shape == (rows * columns, 3 * frames * patch**2)
    normal = (levels / 255.0 - np.array(config.mean)) / np.array(config.std)
    index = 0
    for row in range(0, rows, merge):
        for column in range(0, columns, merge):
            for dy in range(merge):
                for dx in range(merge):
                    top, left = (row + dy) * patch, (column + dx) * patch
                    block = normal[top : top + patch, left : left + patch].transpose(2, 0, 1)
                    expected = np.repeat(block[:, None], frames, 1).ravel()
                    np.testing.assert_allclose(patches.pixels[index], expected, atol=1e-6)
                    index += 1


def test_the_digest_is_the_identity_of_the_pixels():
    base = picture(112, 112)
    same = [read_patches(encoded(base, form), QWEN).digest for form in ("PNG", "BMP", "TIFF")]
    assert len(set(same)) == 1
    assert len(same[0]) == 64
    other = base.copy()
    other[50, 50, 1] ^= 1
    wide = base.reshape(56, 224, 3)
    darker = ImageConfig(patch_size=14, min_pixels=3136, max_pixels=12_845_056, mean=(0.5, 0.5, 0.5))
    digests = [
        same[0],
        cut_patches(Image.fromarray(other), QWEN).digest,
        cut_patches(Image.fromarray(wide), QWEN).digest,
        cut_patches(Image.fromarray(base), QWEN, 4).digest,
        cut_patches(Image.fromarray(base), darker).digest,
    ]
    assert len(set(digests)) == 5


def test_one_colour_stays_one_colour():
    patches = cut_patches(Image.new("L", (1, 1), 255), QWEN)
    channels = patches.pixels.reshape(16, 3, -1)
    np.testing.assert_allclose(channels[:, :, 0], np.tile([1.9303361, 2.0748837, 2.1458969], (16, 1)), rtol=1e-6)
    assert (channels == channels[:, :, :1]).all()


def test_a_configuration_for_other_channels_is_refused():
    with pytest.raises(ConfigError, match="red, green and blue"):
        ImageConfig(patch_size=14, min_pixels=3136, max_pixels=10**6, mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match="divided by 0"):
        ImageConfig(patch_size=14, min_pixels=3136, max_pixels=10**6, std=(0.5, 0.0, 0.5))


def test_the_caller_keeps_the_image_as_it_was():
    image = Image.fromarray(picture())
    image.info["note"] = "mine"
    cut_patches(image, QWEN)
    open_image(image).putpixel((0, 0), (9, 9, 9))
    assert image.info == {"note": "mine"}
    np.testing.assert_array_equal(np.asarray(image), picture())


def test_a_path_like_object_is_a_path(tmp_path):
    Path(tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))

    class Entry:
        def __fspath__(self):
            return str(tmp_path / "a.png")

    np.testing.assert_array_equal(shown(Entry()), picture())
