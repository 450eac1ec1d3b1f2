"""TIFF files that hold thumbnails, copies, masks and sensor data beside the picture: the picture, or a refusal."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.header import header_size

BYTE, ASCII, SHORT, LONG, UNDEFINED, IFD = 1, 2, 3, 4, 7, 13
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, UNDEFINED: 1, IFD: 4}


def grey(level, width, height):
    return np.full((height, width), level, np.uint8)


def tags_of(pixels, **more):
    """Tags of an uncompressed grey picture; `more` by number, as t254=1."""
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8, 259: 1, 262: 1, 277: 1, 278: pixels.shape[0]}
    return tags | {int(name[1:]): value for name, value in more.items()}


def page(pixels, children=(), **tags):
    return {"pixels": pixels, "children": list(children), "tags": tags_of(pixels, **tags)}


def tiff(*pages, order="<", big=False):
    """A TIFF (6.0, section 2; BigTIFF with `big`) of a chain of pages, each with its children."""
    head, count, word, entry = (16, "Q", "Q", 20) if big else (8, "H", "L", 12)
    out = bytearray(head)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    out[:4] = magic
    if big:
        out[4:8] = struct.pack(order + "HH", 8, 0)

    def put(item):
        """Append a directory with its pixels and children; returns where it is, and where its link to the next is."""
        strip = len(out)
        out.extend(item["pixels"].tobytes())
        offsets = [put(child)[0] for child in item["children"]]
        tags = item["tags"] | {273: strip, 279: item["pixels"].size}
        if len(offsets) == 1:
            tags[330] = offsets[0]
        elif offsets:
            tags[330] = ("at", len(out), len(offsets))
            out.extend(struct.pack(f"{order}{len(offsets)}L", *offsets))
        fields = b""
        for tag, value in sorted(tags.items()):
            if isinstance(value, tuple):
                at, number = value[1:]
                fields += struct.pack(f"{order}HH{word}{word}", tag, LONG, number, at)
            else:
                fields += struct.pack(f"{order}HH{word}L", tag, LONG, 1, value) + bytes(4 if big else 0)
        assert len(fields) == entry * len(tags)
        at = len(out)
        out.extend(struct.pack(order + count, len(tags)) + fields)
        link = len(out)
        out.extend(struct.pack(order + word, 0))
        return at, link

    link = 8 if big else 4
    for item in pages:
        at, following = put(item)
        struct.pack_into(order + word, out, link, at)
        link = following
    return bytes(out)


def seen(data, number=1):
    image = open_image(data, number)
    (colour,) = set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))
    assert len(set(colour)) == 1
    return colour[0], image.size


def refusal(data, number=1):
    with pytest.raises(ImageError) as caught:
        open_image(data, number)
    return str(caught.value)


THUMBNAIL = grey(200, 16, 12)
FULL, SECOND = grey(50, 64, 48), grey(90, 40, 30)


def both_orders_and_sizes():
    return pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])


@both_orders_and_sizes()
def test_a_thumbnail_before_its_picture_is_no_page(order, big):
    """NewSubfileType 1: "a reduced-resolution version of another image in this TIFF file" (TIFF 6.0, page 36)."""
    data = tiff(page(THUMBNAIL, t254=1), page(FULL, t254=0), page(SECOND, t254=2), order=order, big=big)
    assert seen(data) == (50, (64, 48))
    assert seen(data, 2) == (90, (40, 30))
    assert "page 3 was asked for, the file has 2 pages" in refusal(data, 3)
    assert header_size(io.BytesIO(data)) is None


@both_orders_and_sizes()
def test_the_picture_in_a_child_of_its_thumbnail(order, big):
    data = tiff(page(THUMBNAIL, [page(FULL, t254=0)], t254=1), page(SECOND), order=order, big=big)
    assert seen(data) == (50, (64, 48))
    assert seen(data, 2) == (90, (40, 30))
    assert header_size(io.BytesIO(data)) is None


def test_the_largest_child_is_the_picture():
    children = [page(grey(10, 32, 24), t254=1), page(FULL, t254=0), page(grey(20, 48, 36), t254=0)]
    assert seen(tiff(page(THUMBNAIL, children, t254=1))) == (50, (64, 48))
    # An unmarked small picture in front of a larger one that is no copy of it.
    assert seen(tiff(page(THUMBNAIL, children))) == (50, (64, 48))


def test_pyramids_show_their_base():
    """Adobe and OME put the smaller levels into children, others into the chain; both mark them."""
    levels = [grey(60, 32, 24), grey(70, 16, 12)]
    assert seen(tiff(page(FULL, [page(level, t254=1) for level in levels]))) == (50, (64, 48))
    chain = tiff(page(FULL), *(page(level, t254=1) for level in levels), page(SECOND))
    assert seen(chain) == (50, (64, 48))
    assert seen(chain, 2) == (90, (40, 30))
    assert header_size(io.BytesIO(chain)) == (64, 48)


def test_old_marks_and_masks():
    """SubfileType 2 is the older mark (TIFF 6.0, page 40); NewSubfileType 4 marks the mask of another picture."""
    assert seen(tiff(page(THUMBNAIL, t255=2), page(FULL, t255=1))) == (50, (64, 48))
    assert seen(tiff(page(FULL), page(grey(255, 64, 48), t254=4), page(SECOND, t254=2)), 2) == (90, (40, 30))
    assert seen(tiff(page(FULL, t255=3), page(SECOND, t255=3)), 2) == (90, (40, 30))


def test_exif_thumbnail_in_the_second_directory_is_no_page():
    large = grey(50, 640, 480)
    exif = tiff(page(large, t34665=8), page(grey(200, 160, 120)))
    assert "page 2 was asked for, the file has 1 page" in refusal(exif, 2)
    jpeg = page(large)
    sketch = {"pixels": np.zeros((1, 8), np.uint8), "children": [], "tags": {259: 6, 513: 8, 514: 8}}
    assert "the file has 1 page" in refusal(tiff(jpeg, sketch), 2)
    # Small pages without Exif data are pages.
    assert seen(tiff(page(large), page(grey(200, 160, 120))), 2) == (200, (160, 120))


def test_a_file_of_copies_only_is_refused():
    message = "holds only reduced copies (thumbnails) of a picture; export the picture itself"
    assert message in refusal(tiff(page(THUMBNAIL, t254=1)))
    assert message in refusal(tiff(page(THUMBNAIL, [page(FULL, t254=1)], t254=1), page(FULL, t254=5)))


RAW = "camera raw"


@pytest.mark.parametrize(
    "data",
    [
        # DNG 1.7, NEF and ARW: a marked thumbnail with the sensor's data (CFA, 32803) and a preview in children.
        tiff(page(THUMBNAIL, [page(FULL, t262=32803), page(SECOND, t254=1)], t254=1, t50706=0x0401)),
        tiff(page(THUMBNAIL, [page(FULL, t262=34892)], t254=1, t50706=0x0401)),
        tiff(page(THUMBNAIL, [page(SECOND, t254=1), page(FULL, t262=32803, t259=34713)], t254=1, t271=0), order=">"),
        tiff(page(THUMBNAIL, [page(FULL, t259=32767)], t254=1)),
        # An unmarked preview in front of the sensor's data (Epson, Kodak), and sensor data first (Pentax).
        tiff(page(THUMBNAIL, [page(FULL, t262=32803)])),
        tiff(page(FULL, t271=0), page(THUMBNAIL), page(SECOND, t262=32803)),
        tiff(page(FULL, t262=32803, t259=65535), page(THUMBNAIL, t254=1), order=">"),
        tiff(page(THUMBNAIL, t34310=1)),
    ],
)
def test_sensor_data_is_camera_raw(data):
    message = refusal(data)
    assert RAW in message
    assert "export it as JPEG or TIFF" in message
    assert header_size(io.BytesIO(data)) is None


@pytest.mark.parametrize(
    "head",
    [
        b"II*\0\x10\0\0\0CR\x02\0",
        b"II*\0\x08\0\0\0IIIITwaR",
        b"MM\0*\0\0\0\x08MMMMRawT",
        b"IIRO\x08\0\0\0",
        b"IIRS\x08\0\0\0",
        b"MMOR\0\0\0\x08",
        b"IIU\0\x18\0\0\0",
        b"II\x1a\0\0\0HEAPCCDR",
        b"FUJIFILMCCD-RAW 0201",
        b"FOVb\x02\0\x02\0",
        b"\0MRM\0\0\1\2",
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    ],
)
def test_camera_raw_is_named_by_its_signature(head):
    assert f"this is {RAW}; open it in a photo program" in refusal(head + bytes(200))


def test_a_thumbnail_that_pillow_opened_is_refused():
    data = tiff(page(THUMBNAIL, [page(FULL)], t254=1))
    image = Image.open(io.BytesIO(data))
    assert image.size == (16, 12)
    assert "Pillow opened a reduced copy" in refusal(image)
    np.testing.assert_array_equal(np.asarray(open_image(Image.open(io.BytesIO(tiff(page(FULL))))))[..., 0], FULL)


def test_children_are_decoded_by_libtiff_too():
    """Compressed pixels of a child go another way through Pillow than uncompressed ones."""
    file = io.BytesIO()
    levels = np.arange(64 * 48, dtype=np.uint8).reshape(48, 64)
    Image.fromarray(levels).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    data += bytes(len(data) % 2)
    full = struct.unpack_from("<L", data, 4)[0]
    strip, place = len(data), len(data) + THUMBNAIL.size
    tags = tags_of(THUMBNAIL, t254=1) | {273: strip, 279: THUMBNAIL.size, 330: full}
    data += THUMBNAIL.tobytes() + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHLL", tag, LONG, 1, value) for tag, value in sorted(tags.items())) + bytes(4)
    struct.pack_into("<L", data, 4, place)
    assert Image.open(io.BytesIO(data)).size == (16, 12)
    np.testing.assert_array_equal(np.asarray(open_image(bytes(data)))[..., 0], levels)


def test_damaged_children_are_no_traceback():
    for offset in (1, 8, 10**9, 2**32 - 1):
        data = tiff(page(FULL, t330=offset))
        assert seen(data) == (50, (64, 48))
        assert "reduced copies" in refusal(tiff(page(THUMBNAIL, t254=1, t330=offset)))


def test_multi_picture_jpeg_shows_its_primary_picture():
    """MPO (CIPA DC-007) begins with the full picture; previews and other views follow."""
    file = io.BytesIO()
    small = Image.new("RGB", (16, 12), "red")
    Image.new("RGB", (64, 48), "lime").save(file, "MPO", save_all=True, append_images=[small], quality=95)
    assert Image.open(file).n_frames == 2
    assert open_image(file.getvalue()).size == (64, 48)
