"""Office documents on paper: HTML, PDFs printed by Chromium, scans with their noise, and the place of every value."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from ctypes import byref, c_ulong, create_string_buffer
from html import unescape
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from office_documents import draw
from PIL import Image, ImageFilter

_SCANNED = 3
"""Every so many documents, one is a scan."""
Place = dict[str, Any]


def document(pages: list[str], face: str, rng: Random) -> str:
    """Pages as an HTML document that prints one on a sheet of A4."""
    size, accent = rng.choice((9.5, 10, 11, 12)), rng.choice(("#000", "#124", "#421", "#063"))
    side = rng.choice(("row", "row-reverse", "column"))
    css = f"""
    @page {{ size: A4; margin: {rng.choice((14, 18, 24))}mm }}
    body {{ font: {size}pt '{face}'; margin: 0; color: #111 }}
    a {{ color: inherit; text-decoration: none }} section {{ break-after: page }}
    section:last-child {{ break-after: auto }}
    header {{ display: flex; flex-direction: {side}; justify-content: space-between; margin-bottom: 8mm }}
    .firm {{ font-size: 1.5em; color: {accent} }} h1 {{ font-size: {rng.choice((1.5, 1.9))}em; color: {accent} }}
    h2 {{ font-size: 1.2em; color: {accent} }} table {{ border-collapse: collapse }} .line {{ margin: 1mm 0 }}
    .grid th, .grid td {{ border: 0.2mm solid #888; padding: 1mm 3mm; text-align: left; font-weight: normal }}
    .boxes {{ display: flex; flex-wrap: wrap; gap: 4mm }}
    .box {{ border: 0.2mm solid #999; padding: 2mm 3mm; min-width: 42mm }}
    small {{ font-size: 0.75em; color: #444 }} td.label {{ padding: 0.6mm 10mm 0.6mm 0; color: #333 }}
    .leader {{ display: flex; max-width: 110mm; margin: 1mm 0 }}
    .leader i {{ flex: 1; border-bottom: 0.3mm dotted #777; margin: 0 2mm 1mm }}
    .rows {{ width: 100%; margin: 6mm 0 }} .rows th {{ text-align: left; border-bottom: 0.3mm solid {accent} }}
    .rows td, .rows th {{ padding: 1.2mm 2mm }} .rows .amount, .rows .quantity {{ text-align: right }}
    .ruled td {{ border-bottom: 0.2mm solid #aaa }} .banded tr:nth-child(even) td {{ background: #eee }}
    .sums {{ margin: 4mm 0 4mm {rng.choice(("auto", "0"))}; width: {rng.choice(("75mm", "110mm"))} }}
    """
    body = "".join(f"<section>{page}</section>" for page in pages)
    return f'<!doctype html><meta charset="utf-8"><style>{css}</style><body>{body}'


def print_pdf(html: str) -> bytes:
    """The document as Chromium prints it.

    Raises:
        SystemExit: where there is no Chromium.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium found; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "paper.html", Path(folder) / "paper.pdf"
        source.write_text(html, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={out}"]
        subprocess.run([program, *options, source.as_uri()], capture_output=True, check=True)
        return out.read_bytes()


def take_places(data: bytes) -> tuple[bytes, list[Place]]:
    """The PDF without its marks, and where they were: field, page from 1, box in points from the top left."""
    found: list[Place] = []
    with pypdfium2.PdfDocument(data) as pdf:
        for number, page in enumerate(pdf, 1):
            height = page.get_height()
            for index in reversed(range(pdfium.FPDFPage_GetAnnotCount(page.raw))):
                mark = pdfium.FPDFPage_GetAnnot(page.raw, index)
                rect = pdfium.FS_RECTF()
                pdfium.FPDFAnnot_GetRect(mark, byref(rect))
                name = _uri(pdf, mark).removeprefix("http://field/")
                box = [rect.left, height - rect.top, rect.right, height - rect.bottom]
                found.append({"field": name, "page": number, "box": [round(x, 2) for x in box]})
                pdfium.FPDFPage_CloseAnnot(mark)
                pdfium.FPDFPage_RemoveAnnot(page.raw, index)
        out = io.BytesIO()
        pdf.save(out)
    return out.getvalue(), found


def _uri(pdf: pypdfium2.PdfDocument, mark: Any) -> str:
    """Where a link leads to."""
    action = pdfium.FPDFLink_GetAction(pdfium.FPDFAnnot_GetLink(mark))
    length = pdfium.FPDFAction_GetURIPath(pdf.raw, action, None, c_ulong(0))
    text = create_string_buffer(length)
    pdfium.FPDFAction_GetURIPath(pdf.raw, action, text, c_ulong(length))
    return text.value.decode()


def scan(data: bytes, places: list[Place], rng: Random) -> tuple[list[Image.Image], list[Place]]:
    """Pages as a flat-bed scanner sees them: a little turned, blurred, grey and noisy; places in pixels."""
    dpi, noise = rng.choice((120, 150, 200)), np.random.default_rng(rng.randrange(1 << 30))
    pages, moved = [], []
    with pypdfium2.PdfDocument(data) as pdf:
        for number, page in enumerate(pdf, 1):
            sheet = page.render(scale=dpi / 72).to_pil().convert("L")
            angle = rng.uniform(-0.7, 0.7)
            turned = sheet.rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)
            turned = turned.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
            grey = np.asarray(turned, np.float32) * rng.uniform(0.86, 0.95) + rng.uniform(5, 14)
            grey += noise.normal(0, rng.uniform(2, 7), grey.shape)
            pages.append(Image.fromarray(grey.clip(0, 255).astype(np.uint8)))
            moved += [_turned(p, angle, dpi, sheet.size) for p in places if p["page"] == number]
    return pages, moved


def _turned(place: Place, angle: float, dpi: int, size: tuple[int, int]) -> Place:
    """A place on a sheet that was turned around its middle, in pixels."""
    a, (cx, cy) = math.radians(angle), (size[0] / 2, size[1] / 2)
    x0, y0, x1, y1 = (v * dpi / 72 for v in place["box"])
    points = [(x - cx, y - cy) for x in (x0, x1) for y in (y0, y1)]
    xs = [cx + x * math.cos(a) + y * math.sin(a) for x, y in points]
    ys = [cy - x * math.sin(a) + y * math.cos(a) for x, y in points]
    return place | {"box": [round(v, 1) for v in (min(xs), min(ys), max(xs), max(ys))]}


def write_all(out: Path, seeds: Iterable[int]) -> None:
    """Write the documents of the seeds, `truth.jsonl` (file, kind, unit of the boxes, fields, places)."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, seed in enumerate(seeds):
        paper, html = draw(seed)
        texts = {name: unescape(text) for name, text in re.findall(r'//field/([^"]+)">([^<]*)</a>', html)}
        data, places = take_places(print_pdf(html))
        places = [place | {"text": texts[place["field"]]} for place in places]
        rng, unit = Random(f"scan {seed}"), "point"
        path = out / f"{seed:04d}-{paper.kind}.pdf"
        if number % _SCANNED == _SCANNED - 1 - number // _SCANNED % _SCANNED:  # of every kind in turn
            unit = "pixel"
            pages, places = scan(data, places, rng)
            if len(pages) == 1:
                path = path.with_suffix(".png")
                pages[0].save(path)
            else:
                path = path.with_suffix(".tiff")
                pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_deflate")
        else:
            path.write_bytes(data)
        rows.append({"file": path.name, "kind": paper.kind, "unit": unit, "fields": paper.truth, "places": places})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "truth.jsonl").write_text(text, encoding="utf-8")
