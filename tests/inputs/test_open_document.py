"""Documents that stay open: their pages are those of `open_image`, whatever order they are asked for in."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from document_files import ENCRYPTED, make_pdf, make_png, make_tiff
from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images import pdf
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.open_document import OpenDocument

MODES = ("RGB", "L", "1", "P", "RGBA", "CMYK")


def pictures(count):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8) for i in range(count)]
    return [Image.fromarray(array).convert(MODES[i % len(MODES)]) for i, array in enumerate(arrays)]


def same(found, expected):
    return found.size == expected.size and found.mode == expected.mode and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_pages_of_a_tiff(compression):
    pages = [p.convert("RGB") if compression == "jpeg" else p for p in pictures(7)]
    data = make_tiff(*pages, compression=compression)
    with OpenDocument(data) as document:
        assert len(document) == 7
        for page in (1, 2, 3, 7, 5, 1, 6, 7, 7, 4):
            assert same(document.draw(page), open_image(data, page))
        with pytest.raises(ImageError, match="page 8 was asked for, the file has 7 pages"):
            document.draw(8)


@pytest.mark.parametrize("in_memory", [True, False])
def test_pages_of_a_pdf(tmp_path, in_memory, monkeypatch):
    monkeypatch.setattr(pdf, "_PARSED_PAGES", 3)
    data = make_pdf(*(f"Page {i}\nof six" for i in range(6)))
    file = tmp_path / "six.pdf"
    file.write_bytes(data)
    with file.open("rb") as opened, OpenDocument(data if in_memory else opened) as document:
        assert len(document) == 6
        for page in (1, 6, 2, 2, 3, 4, 5, 1):
            assert same(document.draw(page, 20_000), open_image(data, page, page_pixels=20_000))


def test_a_pdf_is_parsed_once_for_many_pages(monkeypatch):
    parsed = []
    load = pdf._load
    monkeypatch.setattr(pdf, "_load", lambda *given: parsed.append(1) or load(*given))
    with OpenDocument(make_pdf(*["x"] * 250)) as document:
        for page in range(1, 251):
            document.draw(page, 400)
    assert len(parsed) == 3


def test_a_picture_is_one_page():
    data = make_png(77)
    with OpenDocument(io.BytesIO(data)) as document:
        assert len(document) == 1
        assert same(document.draw(1), open_image(data))
        assert same(document.draw(1), open_image(data))


def test_an_open_page_is_an_image_source():
    class Page:
        name = "a.pdf, page 2"

        def draw(self, pixels):
            if pixels == 1:
                raise ImageError("torn")
            return Image.new("RGB", (pixels, 1))

    assert open_image(Page(), page_pixels=30).size == (30, 1)
    with pytest.raises(ImageError, match="^a.pdf, page 2: torn$"):
        open_image(Page(), page_pixels=1)
    with pytest.raises(ImageError, match="one page already"):
        open_image(Page(), 2)


def test_pages_that_can_be_read_around_a_broken_one():
    broken = make_pdf(*"abcde").replace(b"8 0 obj\n<< /Type /Page ", b"8 0 obj\n<< /Type /Pxge ")
    with OpenDocument(broken) as document:
        for page in range(1, 6):
            if page == 3:
                with pytest.raises(ImageError, match="damaged"):
                    document.draw(page, 9000)
            else:
                assert same(document.draw(page, 9000), open_image(make_pdf(*"abcde"), page, page_pixels=9000))


def test_pages_before_the_break_of_a_tiff():
    data = make_tiff(*pictures(5))
    with OpenDocument(data[: len(data) * 3 // 5]) as document:
        readable = []
        for page in range(1, len(document) + 1):
            try:
                readable.append(same(document.draw(page), open_image(data, page)))
            except ImageError as error:
                assert "damaged" in str(error)  # noqa: PT017 - pages that open are wanted as well
    assert readable == [True] * len(readable)
    assert 1 <= len(readable) < len(document) <= 5


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the file is empty"),
        (make_pdf("a", trailer=ENCRYPTED), "the PDF is encrypted"),
        (make_pdf(), "the PDF has no pages"),
        (make_pdf("a")[:20], "the PDF is damaged"),
        (b"PK\x03\x04rest", "Office document"),
        (b"II*\0\0\0\0\0", "damaged TIFF .it holds no picture."),
    ],
)
def test_what_is_no_document(data, complaint):
    with pytest.raises(ImageError, match=complaint):
        OpenDocument(data)


def test_threads_share_a_document():
    data = make_tiff(*pictures(6))
    expected = [open_image(data, page) for page in range(1, 7)]
    start = threading.Barrier(4)
    with OpenDocument(data) as document, ThreadPoolExecutor(4) as threads:

        def read(seed):
            start.wait()
            order = np.random.default_rng(seed).integers(1, 7, 30)
            return all(same(document.draw(int(page)), expected[page - 1]) for page in order)

        assert all(threads.map(read, range(4)))
