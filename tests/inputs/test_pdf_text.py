"""The text layer of PDF pages, against pypdf's text of them and against the pixels that are drawn."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, NumberObject, RectangleObject
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.pdf import OpenPdf, render_page
from rave_mlx.inputs.images.pdf_text import PageText, read_page_text

PIXELS = 1_000_000
SANS = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
needs_font = pytest.mark.skipif(not SANS.exists(), reason="needs the DejaVu fonts")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LETTER = ["Dear Ms Kowalski,", "we confirm your order of 12 chairs at 49.90 each.", "Kind regards", "J. Weiss (Sales)"]


def drawn(paint, **settings) -> bytes:
    """A PDF of what `paint` draws on a canvas; one page unless it begins more."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, **settings)
    paint(canvas)
    canvas.save()
    return buffer.getvalue()


def letter(canvas: Canvas) -> None:
    for i, line in enumerate(LETTER):
        canvas.drawString(70, 700 - 15 * i, line)


def changed(data: bytes, **entries) -> bytes:
    """The same PDF with other entries in its first page."""
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.pages[0].update({NameObject(f"/{name}"): value for name, value in entries.items()})
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def squashed(text: str) -> str:
    return "".join(text.split())


def scan(words: str) -> Image.Image:
    data = drawn(lambda canvas: canvas.drawString(70, 700, words))
    return render_page(data, 1, 400_000)


def ink(data: bytes) -> np.ndarray:
    """(rows, columns) marks of dark pixels of the page as it is drawn."""
    return np.asarray(render_page(data, 1, PIXELS).convert("L")) < 128


def covered(text: PageText, shape: tuple[int, int], margin: float = 1.5) -> np.ndarray:
    """(rows, columns) marks of pixels within the characters' boxes."""
    marks = np.zeros(shape, bool)
    for box in text.boxes[np.isfinite(text.boxes[:, 0])]:
        left, top, right, bottom = box * np.tile(shape[::-1], 2) + [-margin, -margin, margin, margin]
        marks[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)] = True
    return marks


def check_boxes(data: bytes, scale: float = 1.0) -> PageText:
    """Every dark pixel lies in a box, every character's box has ink, and boxes hug it (type is 12 points `scale`d)."""
    text, dark = read_page_text(data, 1), ink(data)
    assert dark.any()
    assert not (dark & ~covered(text, dark.shape)).any()
    height, width = dark.shape
    for character, box in zip(text.text, text.boxes, strict=True):
        assert np.isfinite(box).all() == (not character.isspace()), character
        if np.isfinite(box).all():
            left, top, right, bottom = box * [width, height, width, height]
            part = dark[int(top) : int(np.ceil(bottom)) + 1, int(left) : int(np.ceil(right)) + 1]
            assert part.any(), character
            assert max(part.shape) < 30 * scale
    return text


def test_lines_are_those_of_the_page():
    text = read_page_text(drawn(letter), 1)
    assert text.text.split("\n") == LETTER
    assert [text.text[a:b] for a, b in text.lines()] == LETTER
    assert [text.text[a:b] for a, b in text.words()] == " ".join(LETTER).split()
    assert text.usable
    assert not text.hidden.any()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (40.0, 600.0, 420.0, 760.0)])
def test_ink_lies_in_the_boxes_of_turned_and_cropped_pages(turn, crop):
    entries = {"Rotate": NumberObject(turn)} | ({} if crop is None else {"CropBox": RectangleObject(crop)})
    data = changed(drawn(letter), **entries)
    assert check_boxes(data, scale=1 if crop is None else 3).text.split("\n") == LETTER


def test_what_lies_outside_of_the_crop_box_is_not_on_the_page():
    def paint(canvas):
        canvas.drawString(120, 400, "inside")
        canvas.drawString(10, 20, "outside")

    data = changed(drawn(paint), CropBox=RectangleObject((100, 100, 400, 500)))
    assert "outside" in PdfReader(io.BytesIO(data)).pages[0].extract_text()
    assert check_boxes(data, scale=2).text == "inside"


def test_boxes_of_words_and_lines():
    text, dark = read_page_text(drawn(letter), 1), ink(drawn(letter))
    start = text.text.index("12 chairs")
    left, top, right, bottom = text.box(start, start + len("12 chairs"))
    height, width = dark.shape
    rows, columns = np.nonzero(dark[:, int(left * width) - 1 : int(right * width) + 2])
    inside = (rows >= top * height - 2) & (rows <= bottom * height + 2)
    assert rows[inside].min() - top * height == pytest.approx(0, abs=2)
    assert columns[inside].min() == pytest.approx(0, abs=2)
    assert text.box(text.text.index(" "), text.text.index(" ") + 1) is None
    both = text.boxes_of_lines(start, text.text.index("regards"))
    assert len(both) == 2
    assert both[0][0] == left
    assert both[1][1] > both[0][3]


def test_two_columns_are_read_one_after_the_other():
    columns = [[f"{side} column, line {i} of it" for i in range(6)] for side in ("Left", "Right")]

    def paint(canvas):
        for x, column in zip((50, 320), columns, strict=True):
            for i, line in enumerate(column):
                canvas.drawString(x, 700 - 14 * i, line)

    data = drawn(paint)
    assert read_page_text(data, 1).text.split("\n") == [*columns[0], "", *columns[1]]
    assert squashed(PdfReader(io.BytesIO(data)).pages[0].extract_text()) == squashed("".join(columns[0] + columns[1]))


def test_pages_that_are_written_from_the_bottom_to_the_top():
    def paint(canvas):
        for x, side in ((320, "right"), (50, "left")):
            for i in reversed(range(8)):
                canvas.drawString(x, 600 - 14 * i, f"{side} {i}")
        canvas.drawString(50, 700, "A heading across both columns, written last of all")

    words = squashed(read_page_text(drawn(paint), 1).text)
    assert words.startswith("Aheading")
    assert words.endswith("".join(f"left{i}" for i in range(8)) + "".join(f"right{i}" for i in range(8)))


def test_columns_of_a_table_are_parted_by_tabs_and_blocks_by_empty_lines():
    def paint(canvas):
        canvas.drawString(50, 740, "Delivery note")
        for i, row in enumerate([("Item", "Pieces"), ("Steel bolt M8", "1,200"), ("Washer", "40")]):
            canvas.drawString(50, 700 - 15 * i, row[0])
            canvas.drawString(260, 700 - 15 * i, row[1])

    text = read_page_text(drawn(paint), 1).text
    assert text == "Delivery note\n\nItem\tPieces\nSteel bolt M8\t1,200\nWasher\t40"


def test_sideways_text_keeps_its_place():
    def paint(canvas):
        canvas.drawString(50, 700, "Upright")
        canvas.translate(300, 300)
        canvas.rotate(90)
        canvas.drawString(0, 0, "Sideways")

    assert set(check_boxes(drawn(paint)).text.split()) == {"Upright", "Sideways"}


def test_a_scan_has_no_text():
    text = read_page_text(drawn(lambda canvas: canvas.drawImage(ImageReader(scan("Seen only")), 0, 0, *A4)), 1)
    assert text.text == ""
    assert text.boxes.shape == (0, 4)
    assert not text.usable


@pytest.mark.parametrize("under", [False, True])
def test_recognised_text_of_a_scan_is_usable_and_marked(under):
    """Invisible (rendering mode 3) above the picture, or painted and then covered by it."""

    def paint(canvas):
        picture = ImageReader(scan("Received 14 May"))
        canvas.saveState()
        text = canvas.beginText(70, 700)
        text.setTextRenderMode(0 if under else 3)
        text.textLine("Received 14 May")
        if under:
            canvas.drawText(text)
        canvas.drawImage(picture, 0, 0, *A4)
        if not under:
            canvas.drawText(text)
        canvas.restoreState()
        canvas.drawString(70, 100, "Stamp")

    text = check_boxes(drawn(paint))
    assert text.usable
    assert [(text.text[a:b], bool(text.hidden[a])) for a, b in text.lines()] == [
        ("Received 14 May", True),
        ("Stamp", False),
    ]


@needs_font
def test_a_layer_of_unknown_characters_is_not_usable():
    pdfmetrics.registerFont(TTFont("Sans", SANS))

    def paint(canvas):
        canvas.setFont("Sans", 12)
        canvas.drawString(70, 700, "Η γρήγορη καφέ αλεπού")

    data = drawn(paint)
    assert read_page_text(data, 1).unknown == 0
    writer = PdfWriter(clone_from=io.BytesIO(data))
    for font in writer.pages[0]["/Resources"]["/Font"].values():
        font.get_object().pop("/ToUnicode", None)
    buffer = io.BytesIO()
    writer.write(buffer)
    broken = read_page_text(buffer.getvalue(), 1)
    assert broken.unknown > 0.9, broken.text
    assert not broken.usable


@needs_font
def test_private_use_characters_are_unknown():
    pdfmetrics.registerFont(TTFont("Sans", SANS))

    def paint(canvas):
        canvas.setFont("Sans", 12)
        canvas.drawString(70, 700, "\ue000\ue001\ue002 abc")

    text = read_page_text(drawn(paint), 1)
    assert text.unknown == pytest.approx(0.5)


def test_pages_that_are_not_there():
    data = drawn(letter)
    with pytest.raises(ImageError, match="page 2 was asked for, the PDF has 1 page"):
        read_page_text(data, 2)
    with pytest.raises(ImageError, match="damaged"):
        read_page_text(data[:200], 1)
    with OpenPdf(data) as document:
        assert read_page_text(document, 1).text.split("\n") == LETTER
        assert document.draw(1, 100_000).size[0] > 100


HTML = """<html><body style="font: 16px 'DejaVu Sans'"><h1>Office &#xFB03; efficient &#xFB01;ling</h1>
<p>The “quoted” – dash; co&shy;operate &#x1F600; Ünïcödé</p>
<p dir=rtl lang=he>שלום עולם (מספר 123) סוף</p><p dir=rtl lang=ar>العربية لغة 45 جميلة (نعم)</p>
<div style="columns:2;height:120px;width:500px">{words}</div>
<p style="color:transparent">not seen</p></body></html>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_that_a_browser_prints(tmp_path):
    words = " ".join(f"word{i}" for i in range(60))
    (tmp_path / "page.html").write_text(HTML.format(words=words), "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={tmp_path / 'page.pdf'}", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run([*command, str(tmp_path / "page.html")], check=True, capture_output=True, timeout=120)
    data = (tmp_path / "page.pdf").read_bytes()
    text = check_visible(data)
    lines = [text.text[a:b] for a, b in text.lines()]
    assert lines[0] == "Office ffi efficient filing"
    assert lines[1] == "The “quoted” – dash; cooperate \U0001f600 Ünïcödé"
    assert lines[2] == "שלום עולם (מספר 123) סוף"
    assert lines[3] == "العربية لغة 45 جميلة (نعم)"
    assert re.findall(r"word\d+", text.text) == words.split()
    assert lines[-1] == "not seen"
    start = text.text.index("not seen")
    assert text.hidden[start : start + 3].all()
    assert not text.hidden[:start].any()
    reference = PdfReader(io.BytesIO(data)).pages[0].extract_text()
    assert re.findall(r"word\d+", reference) == words.split()


def check_visible(data: bytes) -> PageText:
    """Every dark pixel lies in a box; emoji, which are in colour, have some."""
    text, dark = read_page_text(data, 1), ink(data)
    assert not (dark & ~covered(text, dark.shape)).any()
    return text
