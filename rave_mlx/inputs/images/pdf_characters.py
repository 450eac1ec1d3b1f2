"""The characters of a PDF page as PDFium finds them: code points, boxes, and how they are painted.

PDFium's text page also puts in the spaces and line ends that a PDF leaves out, and brings lines that are written from
right to left into the order in which they are read.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pypdfium2

_Box = tuple[float, float, float, float]

_INVISIBLE = (3, 7)
"""Text rendering modes that paint nothing: neither fill nor stroke, and clip only (ISO 32000, table 104)."""
_DEVICE = 1 << 24
"""Side of the square that the page is mapped to, in whole units; as fine as a float32 is between 0 and 1."""
_QUARTERS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""Directions of text at 0, 90, 180 and 270 degrees, counted anticlockwise, where y grows upwards."""
_COVERED = 0.5
"""Share of the page from which on a picture counts as a scan that may lie over text."""


@dataclass(frozen=True, eq=False)
class Characters:
    """The characters of a page in the order of its content. Boxes are fractions of the upright page, 0 to 1.

    Attributes:
        text: one code point each; line ends are line feeds, other characters that PDFium put in are spaces.
        ink: (n, 4) left, top, right, bottom of what is painted; of `cells` where the font does not tell.
        cells: (n, 4) from one character to the next, and from ascender to descender of the font.
        hidden: (n,) marks of characters that are not to be seen: invisible, or under a picture of the page.
        unmapped: (n,) marks of glyphs of which the PDF does not tell what character they are.
        added: (n,) marks of spaces and line ends that PDFium put in.
        size: width and height of the upright page in points.
        direction: in which most of the text runs on the upright page: (1, 0) is to the right, (0, 1) downwards.
    """

    text: str
    ink: NDArray[np.float64]
    cells: NDArray[np.float64]
    hidden: NDArray[np.bool_]
    unmapped: NDArray[np.bool_]
    added: NDArray[np.bool_]
    size: tuple[float, float]
    direction: tuple[int, int] = (1, 0)


def read_characters(page: pypdfium2.PdfPage) -> Characters:
    """All characters of a page as `OpenPdf.page` gives it."""
    import pypdfium2.raw as raw

    with contextlib.closing(page.get_textpage()) as text:
        rows = list(_rows(text.raw, raw, _scans(page, raw)))
        angles = Counter(round(raw.FPDFText_GetCharAngle(text.raw, i) / (math.pi / 2)) % 4 for i in range(len(rows)))
    matrix, offset = _to_fractions(page, raw)
    corners = np.array([row[1] for row in rows], np.float64).reshape(-1, 2, 2, 2) @ matrix + offset
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)
    ink, cells = boxes[:, 0], boxes[:, 1]
    known: NDArray[np.bool_] = np.all(ink[:, 2:] > ink[:, :2], axis=1)
    hidden, unmapped, added = np.array([row[2:] for row in rows], bool).reshape(-1, 3).T
    joined = "".join(row[0] for row in rows)
    ink = np.where(known[:, None], ink, cells)
    quarter = angles.most_common(1)[0][0] if rows else 0
    across, down = np.rint(_QUARTERS[quarter] @ (matrix * np.array(page.get_size()))).astype(int).tolist()
    return Characters(joined, ink, cells, hidden, unmapped, added, page.get_size(), (across, down))


_Row = tuple[str, tuple[float, ...], bool, bool, bool]
"""A character; left, bottom, right and top of its ink and of its cell in points; the marks of `Characters`."""


def _rows(text: Any, raw: ModuleType, scans: Mapping[int, list[_Box]]) -> Iterator[_Row]:
    """Every character; pairs of UTF-16 surrogates come as one."""
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    loose = raw.FS_RECTF()
    seen: dict[int, bool] = {}
    high = 0
    for index in range(raw.FPDFText_CountChars(text)):
        code = raw.FPDFText_GetUnicode(text, index)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            code, high = (0x10000 + ((high - 0xD800) << 10) + code - 0xDC00) if high else 0xFFFD, 0
        raw.FPDFText_GetCharBox(text, index, left, right, bottom, top)
        raw.FPDFText_GetLooseCharBox(text, index, loose)
        ink = left.value, bottom.value, right.value, top.value
        item = raw.FPDFText_GetTextObject(text, index)
        handle = ctypes.cast(item, ctypes.c_void_p).value or 0
        if handle not in seen:
            seen[handle] = not item or _paints(text, index, item, raw)
        added = raw.FPDFText_IsGenerated(text, index) == 1
        hyphen = raw.FPDFText_IsHyphen(text, index) == 1
        unmapped = not added and not hyphen and raw.FPDFText_HasUnicodeMapError(text, index) == 1
        hidden = not seen[handle] or _covered(ink, scans.get(handle, ()))
        boxes = *ink, loose.left, loose.bottom, loose.right, loose.top
        yield _character(code, added, hyphen), boxes, hidden, unmapped, added


def _paints(text: Any, index: int, item: Any, raw: ModuleType) -> bool:
    """Whether the text object of a character leaves anything on the page."""
    mode = raw.FPDFTextObj_GetTextRenderMode(item)
    alpha = [ctypes.c_uint() for _ in range(4)]
    known = raw.FPDFText_GetFillColor(text, index, *alpha)
    return mode not in _INVISIBLE and not (mode == 0 and known and alpha[3].value == 0)


def _character(code: int, added: bool, hyphen: bool) -> str:
    """A code point of PDFium as a character of plain text."""
    if hyphen:
        return "-"
    if added or code in (0x0A, 0x0D):
        return "\n" if code == 0x0A else "\r" if code == 0x0D else " "
    return chr(code) if 0x20 <= code < 0x110000 else " " if code == 0x09 else "\ufffd"


def _to_fractions(page: pypdfium2.PdfPage, raw: ModuleType) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix (2, 2) and offset (2,) from points of the PDF to fractions of the page as it is drawn: turned, cropped."""
    x, y = ctypes.c_int(), ctypes.c_int()
    width, height = page.get_size()
    found = []
    for corner in ((0.0, 0.0), (width, 0.0), (0.0, height)):
        raw.FPDF_PageToDevice(page.raw, 0, 0, _DEVICE, _DEVICE, 0, *corner, x, y)
        found.append((x.value / _DEVICE, y.value / _DEVICE))
    origin, across, up = np.array(found)
    return np.stack([(across - origin) / width, (up - origin) / height]), origin


def _scans(page: pypdfium2.PdfPage, raw: ModuleType) -> dict[int, list[_Box]]:
    """For the text objects that are painted before a picture as large as a scan: the boxes of such pictures."""
    width, height = page.get_size()
    above: list[_Box] = []
    out: dict[int, list[_Box]] = {}
    found = list(page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_TEXT), max_depth=4))
    for item in reversed(found):
        if item.type == raw.FPDF_PAGEOBJ_TEXT:
            if above:
                out[ctypes.cast(item.raw, ctypes.c_void_p).value or 0] = list(above)
            continue
        left, bottom, right, top = (ctypes.c_float() for _ in range(4))
        raw.FPDFPageObj_GetBounds(item.raw, left, bottom, right, top)
        box = left.value, bottom.value, right.value, top.value
        large = (box[2] - box[0]) * (box[3] - box[1]) > _COVERED * width * height
        if large and not raw.FPDFPageObj_HasTransparency(item.raw):
            above.append(box)
    return out


def _covered(ink: _Box, pictures: Sequence[_Box]) -> bool:
    """Whether the middle of a character lies under one of the pictures."""
    x, y = (ink[0] + ink[2]) / 2, (ink[1] + ink[3]) / 2
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in pictures)
