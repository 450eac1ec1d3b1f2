"""Pictures whose pixels are not square, as fax machines and scanners write them: what the density says is honoured."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.header import header_size
from rave_mlx.inputs.images.pixel_aspect import square_size


def disc(width, height):
    """A disc as wide and high as the picture: round in square pixels."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((0, 0, width - 1, height - 1), fill="black")
    return image


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def opened(data):
    """The picture; the size that its header promises is the one that it has."""
    image = open_image(data)
    assert header_size(io.BytesIO(data)) == (None if b"eXIf" in data else image.size)  # it may stand behind the pixels
    return image


CASES = [  # dots an inch across and down, the size stored, the size in square pixels
    ((204, 98), (204, 98), (204, 204)),  # fax, standard (ITU-T T.4): 2.08 to 1
    ((204, 196), (204, 196), (204, 204)),  # fax, fine
    ((204, 391), (204, 391), (391, 391)),  # fax, super fine
    ((200, 100), (100, 50), (100, 100)),
    ((300, 600), (30, 60), (60, 60)),
    ((300, 300), (60, 30), (60, 30)),
    ((72, 71), (60, 30), (60, 30)),  # rounding
    ((1, 72), (60, 30), (60, 30)),  # a mistake of the writer
]


@pytest.mark.parametrize(("density", "stored", "square"), CASES)
@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG", "BMP"])
def test_density_of_every_format(form, density, stored, square):
    image = opened(encoded(disc(*stored), form, dpi=density))
    assert image.size == square
    dark = np.asarray(image.convert("L")) < 128
    if stored != square:  # as wide as high again, in its middle
        assert abs(int(dark[square[1] // 2].sum()) - int(dark[:, square[0] // 2].sum())) <= 4


def test_the_less_dense_axis_is_enlarged_with_nothing_lost():
    page = disc(80, 40)
    expected = page.resize((80, 80), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(opened(encoded(page, "PNG", dpi=(200, 100)))), np.asarray(expected))


def test_square_pixels_stay_as_they_are():
    page = disc(80, 40)
    for options in ({}, {"dpi": (300, 300)}, {"dpi": (72, 71)}, {"dpi": (1, 72)}):
        np.testing.assert_array_equal(np.asarray(opened(encoded(page, "PNG", **options))), np.asarray(page))


def test_a_fax_as_machines_write_it():
    fax = disc(204, 98).convert("1")
    image = opened(encoded(fax, "TIFF", compression="group4", dpi=(204, 98)))
    assert image.size == (204, 204)


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_tiff_units(unit):
    """ResolutionUnit 1 is for "images with a non-square aspect ratio but no meaningful absolute dimensions"."""
    info = {282: 2.0, 283: 1.0, 296: unit}
    assert opened(encoded(disc(40, 20), "TIFF", tiffinfo=info)).size == (40, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "TIFF lzw", "JPEG", "PNG"])
def test_density_belongs_to_the_axes_as_stored(form, orientation):
    """XResolution is "in the ImageWidth direction" (TIFF 6.0, page 41), whichever way the picture is turned."""
    stored = disc(60, 30)
    name, _, compression = form.partition(" ")
    if name == "TIFF":
        options = {"tiffinfo": {274: orientation}, "compression": f"tiff_{compression}" if compression else None}
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = {"exif": exif}
    data = encoded(stored, name, dpi=(200, 50), **{k: v for k, v in options.items() if v})
    assert opened(data).size == ((120, 60) if orientation >= 5 else (60, 120))


def png_with_aspect(image, across, down, unit=0):
    """A PNG whose pHYs chunk has this content (PNG specification, 11.3.5.3); unit 0: only the ratio is known."""
    data = encoded(image, "PNG")
    body = b"pHYs" + struct.pack(">IIB", across, down, unit)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def test_png_ratio_without_unit():
    assert opened(png_with_aspect(disc(40, 20), 2, 1)).size == (40, 40)
    assert opened(png_with_aspect(disc(20, 40), 1, 2)).size == (40, 40)
    for across, down in ((0, 1), (1, 0), (0, 0), (1000, 1)):
        assert opened(png_with_aspect(disc(40, 20), across, down)).size == (40, 20)


def jpeg_with_density(image, unit, across, down, **options):
    """A JPEG whose JFIF header has this content (JFIF 1.02)."""
    data = bytearray(encoded(image, "JPEG", **options))
    assert data[6:11] == b"JFIF\0"
    struct.pack_into(">BHH", data, 13, unit, across, down)
    return bytes(data)


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_jfif_units(unit):
    assert opened(jpeg_with_density(disc(40, 20), unit, 2, 1)).size == (40, 40)
    assert opened(jpeg_with_density(disc(40, 20), unit, 1, 1)).size == (40, 20)
    assert opened(jpeg_with_density(disc(40, 20), unit, 0, 0)).size == (40, 20)


def test_exif_density_where_the_jfif_header_has_none():
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 200.0, 100.0, 2
    assert opened(jpeg_with_density(disc(40, 20), 0, 1, 1, exif=exif)).size == (40, 40)


def test_pillow_images_made_from_others_are_taken_as_they_are():
    """Pillow keeps the density when it resizes; whoever made the pixels square has no other way to say so."""
    fax = Image.open(io.BytesIO(encoded(disc(204, 98), "TIFF", dpi=(204, 98))))
    assert open_image(fax).size == (204, 204)
    square = fax.resize((204, 204))
    assert square.info["dpi"] == (204, 98)
    assert open_image(square).size == (204, 204)
    assert open_image(open_image(fax)).size == (204, 204)


def test_a_picture_that_would_grow_too_large_shrinks_on_its_denser_axis():
    assert square_size(1000, 500, 2.0, 10**6) == (1000, 1000)
    assert square_size(1000, 500, 2.0, 999_999) == (500, 500)
    assert square_size(500, 1000, 0.5, 999_999) == (500, 500)
    assert square_size(1, 1, 0.2, 1) == (1, 1)
