"""PDFs and TIFFs that tests read: written here byte by byte, so that they can be broken on purpose."""

from __future__ import annotations

import io

from PIL import Image

ENCRYPTED = (
    b"/Encrypt << /Filter /Standard /V 1 /R 2 /O (" + b"x" * 32 + b") /U (" + b"y" * 32 + b") /P -4 >> /ID [(a) (a)]"
)
"""For the trailer of a PDF: a password nobody knows."""


def make_pdf(*texts: str, size: tuple[int, int] = (200, 100), trailer: bytes = b"", kids: bytes = b"") -> bytes:
    """A PDF with a page for each text (ISO 32000-1, 7.5).

    Args:
        texts: printed in Helvetica; lines are parted by a line feed.
        size: of every page, in points.
        trailer: further entries of the trailer.
        kids: further entries of the list of pages, as b"99 0 R", which is not there.
    """
    count = len(texts)
    listed = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(count)) + b" " + kids
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (listed, count + kids.count(b"R")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(texts):
        lines = b" T* ".join(b"(%s) Tj" % line.encode("latin-1") for line in text.split("\n"))
        paint = b"BT /F 12 Tf 14 TL 10 %d Td %s ET" % (size[1] - 20, lines)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Resources << /Font << /F 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (*size, 5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(paint), paint))
    out, places = io.BytesIO(b"%PDF-1.7\n"), []
    out.seek(0, io.SEEK_END)
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start))
    return out.getvalue()


def make_tiff(*pictures: Image.Image, compression: str | None = None) -> bytes:
    """A TIFF with a page for each picture."""
    out = io.BytesIO()
    pictures[0].save(out, "TIFF", save_all=True, append_images=pictures[1:], compression=compression)
    return out.getvalue()


def make_png(shade: int = 255, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture in one shade."""
    out = io.BytesIO()
    Image.new("L", size, shade).save(out, "PNG")
    return out.getvalue()
