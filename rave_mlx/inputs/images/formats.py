"""What a file holds, told from its first bytes, and what to do with it when it is no picture that is read here.

Only picture formats with a signature that cannot be mistaken are read. Formats that would start another program
(PostScript) or that random bytes could pass for (TGA) are refused by name, like the things people pass by accident:
a web page saved in place of the picture, a Word document, a Git LFS pointer, a video.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

HEAD = 1024
"""How many bytes decide: as many as may stand before a PDF's signature (PDF Reference 1.7, appendix H, note 13)."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: for messages.
        formats: the Pillow readers to try; empty when files of this kind are not read.
        remedy: what to do with a file that is not read.
        codec: the module that must be there to read it; None where Pillow itself does.
        install: what pip needs to bring that module.
    """

    name: str
    formats: tuple[str, ...] = ()
    remedy: str = "convert it to PNG, JPEG or PDF"
    codec: str | None = None
    install: str = "--upgrade pillow"


PNG = Kind("PNG", ("PNG",))
JPEG = Kind("JPEG", ("JPEG",))
GIF = Kind("GIF", ("GIF",))
BMP = Kind("BMP", ("BMP",))
PPM = Kind("PPM", ("PPM",))
TIFF = Kind("TIFF", ("TIFF",))
WEBP = Kind("WebP", ("WEBP",), codec="PIL._webp")
JPEG2000 = Kind("JPEG 2000", ("JPEG2000",))
AVIF = Kind("AVIF", ("AVIF",), codec="PIL._avif")
HEIC = Kind("HEIC", ("HEIF",), codec="pillow_heif", install="pillow-heif")
PDF = Kind("PDF")

_AS_PDF = "export it as PDF and pass that"
_OFFICE = Kind("a ZIP archive or an Office document", remedy=f"unpack it, or {_AS_PDF}")
_POSTSCRIPT = Kind("PostScript", remedy="convert it to PDF or PNG")
_SVG = Kind("SVG or XML", remedy="export it as PNG or PDF")
_WEB_PAGE = Kind("a web page", remedy="the picture itself was not saved, download it again")
_VIDEO = Kind("a video", remedy="save one of its frames as PNG or JPEG")
_JPEG_XL = Kind("JPEG XL")
_CAMERA_RAW = Kind("camera raw", remedy="open it in a photo program and export it as JPEG or TIFF")
_TEXT = Kind("a text file", remedy="name a picture or a PDF; text can be read as it is")
_UNKNOWN = Kind(
    "no known picture format", remedy="PNG, JPEG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000, AVIF, HEIC and PDF are read"
)

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"II*\0\x10\0\0\0CR", _CAMERA_RAW),  # Canon CR2, which is a TIFF of previews for those who do not know it
    (b"II*\0\x08\0\0\0IIII", _CAMERA_RAW),  # Phase One IIQ, likewise
    (b"MM\0*\0\0\0\x08MMMM", _CAMERA_RAW),
    (b"IIRO", _CAMERA_RAW),  # Olympus ORF
    (b"IIRS", _CAMERA_RAW),
    (b"MMOR", _CAMERA_RAW),
    (b"IIU\0", _CAMERA_RAW),  # Panasonic RW2
    (b"II\x1a\0\0\0HEAPCCDR", _CAMERA_RAW),  # Canon CRW
    (b"FUJIFILMCCD-RAW", _CAMERA_RAW),
    (b"FOVb", _CAMERA_RAW),  # Sigma X3F
    (b"\0MRM", _CAMERA_RAW),  # Minolta
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\xff\x4f\xff\x51", JPEG2000),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JPEG2000),
    (b"BM", BMP),
    (b"%!PS", _POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (b"8BPS", Kind("a Photoshop document")),
    (b"\0\0\1\0", Kind("an icon")),
    (b"icns", Kind("an icon")),
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cJXL ", _JPEG_XL),
    (b"PK\x03\x04", _OFFICE),
    (b"\xd0\xcf\x11\xe0", Kind("an Office document", remedy=_AS_PDF)),
    (b"{\\rtf", Kind("an RTF document", remedy=_AS_PDF)),
    (b"\x1f\x8b", Kind("a gzip archive", remedy="unpack it first")),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"version https://git-lfs", Kind("a Git LFS pointer", remedy="fetch the file itself with: git lfs pull")),
)


def kind_of(head: bytes) -> Kind:
    """The kind of a file from its first `HEAD` bytes (fewer when the file is shorter)."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF":
        return WEBP if head[8:12] == b"WEBP" else _VIDEO
    if head[4:8] == b"ftyp":
        return _boxed(head)
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3].isspace():
        return PPM
    if b"%PDF-" in head:
        return PDF
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _WEB_PAGE
    if text.startswith((b"<svg", b"<?xml")):
        return _SVG
    return _TEXT if _is_text(head) else _UNKNOWN


def _is_text(head: bytes) -> bool:
    """Whether these are the first bytes of a text: UTF-8 (the last character may be cut), or UTF-16 with its mark."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    return bool(text) and all(c.isprintable() or c in "\t\n\f\r\ufeff" for c in text) and "\ufffd" not in text


def _boxed(head: bytes) -> Kind:
    """ISO base media files (ISO 14496-12): HEIC, AVIF and videos, told apart by their list of brands."""
    size = int.from_bytes(head[:4], "big")
    listed = head[16 : max(16, size)]
    brands = {head[8:12], *(listed[i : i + 4] for i in range(0, len(listed), 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    if b"crx " in brands:  # Canon CR3
        return _CAMERA_RAW
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return HEIC
    return _VIDEO
