"""One HTML file in which a person looks at what is doubtful: it is whole, works offline and asks for nothing.

Fields below a certainty, what was not found or does not fit, and documents that failed, each with the part of the page
where it stands. What is put right there can be saved as corrections and as rows for `rave-mlx train`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from rave_mlx.checkpoint.output_files import replacing
from rave_mlx.checkpoint.rows_file import read_lines
from rave_mlx.documents.extraction.fields import ITEM, Field
from rave_mlx.documents.extraction.questions import name_of, questions_of
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.pages import Document, open_document
from rave_mlx.documents.sources import Source
from rave_mlx.errors import ImageError, UsageError

MOST_BYTES = 64 << 20
"""Bytes of a page from which on pictures are left out."""
_CROP_WIDTH, _PAGE_WIDTH = 1000, 760
"""Pixels of a crop and of a whole page."""
_PAGES = 3
"""Pages of a document that are shown as a whole, where a place is not known."""
_AROUND = 3.0
"""What is shown above and below a box, in heights of it."""
_LEAST_AROUND = 0.03
"""The same as a share of the page's height, at least."""


@dataclass(frozen=True)
class _Doubt:
    """A field to look at."""

    path: str
    field: Field
    found: Mapping[str, Any]


def check_review(review: Path, out: Path | None) -> None:
    """See that a review page can be written at the end of a run.

    Raises:
        UsageError: where it cannot.
    """
    if out is None:
        raise UsageError("--review needs --out FILE: the page is made from the rows that are kept there")
    if review.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--review {review}: a page for a browser; give it the ending .html")
    if not review.parent.is_dir():
        raise UsageError(f"--review {review}: there is no folder {review.parent}; make it first")


def write_review(
    rows: Path, documents: Sequence[Source], schema: ExtractionSchema, out: Path, *, threshold: float = 0.9
) -> int:
    """Write the review page of a run.

    Args:
        rows: its JSON Lines.
        documents: what was read, for the pictures.
        schema: what was asked for.
        out: the page.
        threshold: certainty below which a field is on it.

    Returns:
        How many fields and failed documents there are to look at.

    Raises:
        RaveError: when it cannot be written, or the rows cannot be read.
    """
    sources = {source.name: source for source in documents}
    folder = files("rave_mlx.documents.extraction")
    text = {name: (folder / f"review.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    head, foot = text["html"].replace("@style@", text["css"].strip()).split("@documents@")
    head = head.replace("@threshold@", f"{threshold:.2f}").replace("@title@", html.escape(rows.stem))
    count = size = looked = 0
    with replacing(out) as page:
        page.write(head.encode())
        for _, _, row in read_lines(rows):
            looked += 1
            doubts = list(_doubts(schema, row, threshold))
            if not doubts and not row.get("error"):
                continue
            count += max(len(doubts), 1)
            for part in _section(row, doubts, schema, sources.get(row["file"]), pictures=size < MOST_BYTES):
                size += page.write(part.encode())
        if not count:
            page.write(f'<p class="empty">Nothing to look at: {looked} documents, every field is sure.</p>'.encode())
        page.write(foot.replace("@script@", text["js"].strip()).encode())
    return count


def _doubts(schema: ExtractionSchema, row: Mapping[str, Any], threshold: float) -> Iterator[_Doubt]:
    for path, field, found in _leaves(schema.root, row.get("fields"), ""):
        # That a model found nothing says little, however sure it is: what is missing is always looked at.
        if found["value"] is None or found.get("problem") is not None or found["certainty"] < threshold:
            yield _Doubt(path, field, found)


def _leaves(field: Field, value: Any, path: str) -> Iterator[tuple[str, Field, Mapping[str, Any]]]:
    """Every value of a row with its path and field."""
    if value is None:
        return
    if field.is_leaf or (isinstance(value, dict) and field.kind == "array"):
        yield path, field, value
    elif field.kind == "object":
        for inner in field.fields:
            yield from _leaves(inner, value.get(inner.name), f"{path}.{inner.name}" if path else inner.name)
    elif field.item is not None:
        for number, item in enumerate(value):
            yield from _leaves(field.item, item, f"{path}[{number}]")


def _section(
    row: Mapping[str, Any], doubts: Sequence[_Doubt], schema: ExtractionSchema, source: Source | None, *, pictures: bool
) -> Iterator[str]:
    """The HTML of one document."""
    pages = "" if row["pages"] is None else f"{row['pages']} page{'s' * (row['pages'] != 1)}"
    yield f'<section data-file="{_escaped(row["file"])}" data-sha256="{row["sha256"] or ""}">'
    yield f'<h2>{_escaped(row["file"])} <span class="pages">{pages}</span></h2>'
    if row.get("error"):
        yield f'<p class="error">{_escaped(row["error"])}</p>'
    pictured = _Pictures(source, row) if pictures and doubts else None
    try:
        for doubt in doubts:
            yield _card(doubt, schema, row, pictured)
        if pictured is not None and any(doubt.found.get("box") is None for doubt in doubts):
            yield pictured.whole_pages()
    finally:
        if pictured is not None:
            pictured.close()
    if doubts and not pictures:
        yield '<p class="note">Pictures are left out from here on: this file would be too large.</p>'
    yield "</section>\n"


def _card(doubt: _Doubt, schema: ExtractionSchema, row: Mapping[str, Any], pictured: _Pictures | None) -> str:
    """One field to look at."""
    found, field = doubt.found, doubt.field
    value = found["value"]
    shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    raw = found.get("raw") or ""
    certainty = found["certainty"]
    crop = "" if pictured is None or found.get("box") is None else pictured.crop(found["page"], found["box"])
    where = f"page {found['page']}" if found.get("page") else "no place known"
    question = _question(field, schema)
    notes = []
    if found.get("problem"):
        notes.append(f'<p class="problem">{_escaped(str(found["problem"]))}</p>')
    if raw and raw != shown:
        notes.append(f'<p class="raw">read: <q>{_escaped(raw)}</q></p>')
    level = "low" if certainty < 0.5 else "middle"
    name, missing = _escaped(doubt.path), ' class="missing"' if value is None else ""
    return (
        f'<article tabindex="-1"{missing} data-field="{name}" data-kind="{field.kind}" data-value="{_escaped(shown)}" '
        f'data-raw="{_escaped(raw)}" data-null="{str(value is None).lower()}" data-page="{found.get("page") or ""}" '
        f'data-question="{_escaped(question)}">'
        f'<div class="what"><h3>{name}</h3><span class="where">{where}</span>'
        f'<span class="certainty {level}" title="certainty">{certainty:.2f}</span></div>'
        f"{crop}{''.join(notes)}"
        f'<div class="answer"><label>Value<input type="text" value="{_escaped(shown)}" '
        f'placeholder="nothing found" autocomplete="off" spellcheck="false"></label>'
        f'<button class="right" type="button">Right</button><button class="none" type="button">Not there</button>'
        f"</div></article>\n"
    )


def _question(field: Field, schema: ExtractionSchema) -> str:
    """What a model that is trained with the correction is asked."""
    if ITEM in field.path or not field.is_leaf:
        return f"What is the {field.label}?"
    return (
        questions_of(field, schema.root)[0]
        if field.description.endswith("?")
        else (f"What is the {name_of(field, schema.root)}?")
    )


class _Pictures:
    """Parts of a document's pages as pictures in the page; nothing where it can no longer be opened."""

    def __init__(self, source: Source | None, row: Mapping[str, Any]):
        self._row = row
        self._open = None if source is None or source.data is None else open_document(source)
        self._document: Document | None = None
        self._page: tuple[int, Image.Image] | None = None
        try:
            self._document = None if self._open is None else self._open.__enter__()
        except ImageError:
            self._open = None
        if self._document is not None and self._document.sha256 != row["sha256"]:
            self.close()

    def close(self) -> None:
        """Close the document."""
        if self._open is not None and self._document is not None:
            self._open.__exit__(None, None, None)
        self._document = self._open = None

    def crop(self, page: int, box: Sequence[float]) -> str:
        """The lines around a box, with the box marked."""
        image = self._draw(page)
        if image is None or self._document is None:
            return ""
        width, height = self._document.size(page) or image.size
        left, top, right, bottom = (side / (width, height)[n % 2] for n, side in enumerate(box))
        around = max(_AROUND * (bottom - top), _LEAST_AROUND)
        above, below = max(0.0, top - around), min(1.0, bottom + around)
        part = image.crop((0, round(above * image.height), image.width, round(below * image.height)))
        high = max(below - above, 1e-6)
        mark = (
            f"left:{100 * left:.2f}%;top:{100 * (top - above) / high:.2f}%;"
            f"width:{100 * (right - left):.2f}%;height:{100 * (bottom - top) / high:.2f}%"
        )
        picture = _picture(part, _CROP_WIDTH, f"page {page}")
        return f'<figure class="crop"><div>{picture}<i style="{mark}"></i></div></figure>'

    def whole_pages(self) -> str:
        """The first pages, to look up what has no place."""
        if self._document is None:
            return ""
        shown = []
        for page in self._document.pages[:_PAGES]:
            image = self._draw(page.number)
            if image is not None:
                shown.append(f"<figure>{_picture(image, _PAGE_WIDTH, f'page {page.number}')}</figure>")
        more = len(self._document.pages) - _PAGES
        rest = f'<p class="note">{more} more pages are not shown.</p>' if more > 0 else ""
        return f"<details><summary>Show the pages</summary>{''.join(shown)}{rest}</details>\n"

    def _draw(self, number: int) -> Image.Image | None:
        """A page; the one that was drawn last is kept."""
        if self._page is None or self._page[0] != number:
            if self._document is None:
                return None
            try:
                self._page = number, self._document.draw(number, 1_600_000)
            except ImageError:
                return None
        return self._page[1]


def _picture(image: Image.Image, width: int, name: str) -> str:
    """A picture as an element of the page."""
    scaled = image.convert("RGB")
    if scaled.width > width:
        scaled = scaled.resize((width, max(1, round(scaled.height * width / scaled.width))), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    scaled.save(packed, "jpeg", quality=72, optimize=True)
    data = base64.b64encode(packed.getvalue()).decode()
    size = f'width="{scaled.width}" height="{scaled.height}"'
    return f'<img loading="lazy" alt="{name}" {size} src="data:image/jpeg;base64,{data}">'


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
