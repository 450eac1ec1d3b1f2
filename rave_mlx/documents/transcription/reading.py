"""What was read on a page and in a document: blocks, certainty, how the answers ended; as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rave_mlx.documents.transcription.blocks import Block
from rave_mlx.documents.transcription.table import Table
from rave_mlx.documents.transcription.writing import to_markdown, to_text
from rave_mlx.generation.job import Ending

PAGE_BREAK = "<!-- page {} -->"
"""Stands before every page in the Markdown of a document with several: invisible when shown, and easy to split at."""


@dataclass(frozen=True)
class PageReading:
    """What was read on one page.

    Attributes:
        page: its number, from 1.
        blocks: in reading order.
        ending: how its answers ended: "stop" where all is well; "length" or "repetition" where something is missing;
            "error" where there is no answer.
        certainty: the least probability of a token of the page; None where there is none.
        retried: how often it was asked again, because an answer repeated itself.
        error: why it could not be read, or what is missing.
        size: width and height of the page, in `unit`; None where it is not known.
        unit: points of a PDF, pixels of a picture.
    """

    page: int
    blocks: tuple[Block, ...] = ()
    ending: Ending = "stop"
    certainty: float | None = None
    retried: int = 0
    error: str | None = None
    size: tuple[float, float] | None = None
    unit: Literal["point", "pixel"] = "pixel"

    @property
    def text(self) -> str:
        """Plain text: paragraphs with an empty line between them, cells of tables with tabs."""
        return to_text(self.blocks)

    @property
    def markdown(self) -> str:
        """Markdown; a table with merged cells is HTML in it."""
        return to_markdown(self.blocks)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of the page."""
        return tuple(block.table for block in self.blocks if block.table is not None)


@dataclass(frozen=True)
class DocumentReading:
    """What was read in one document.

    Attributes:
        file: its name.
        sha256: of its bytes in hexadecimal; None for what could not be opened.
        pages: those that were read, in order.
        error: why it failed, or on which pages.
    """

    file: str
    sha256: str | None = None
    pages: tuple[PageReading, ...] = ()
    error: str | None = None

    @property
    def text(self) -> str:
        """Plain text; pages end with a form feed, but the last one."""
        return "\f".join(page.text for page in self.pages)

    @property
    def markdown(self) -> str:
        """Markdown; a comment with the number stands before every page where there are several."""
        return pages_to_markdown(self.pages)

    @property
    def ending(self) -> Ending:
        """How its pages ended, the worst of them."""
        endings = {page.ending for page in self.pages}
        worst: tuple[Ending, ...] = ("error", "repetition", "length", "cancelled")
        return next((ending for ending in worst if ending in endings), "stop")

    @property
    def certainty(self) -> float | None:
        """The least probability of a token of it; None where there is none."""
        return _rounded(min((page.certainty for page in self.pages if page.certainty is not None), default=None))

    def as_json(self) -> str:
        """The document as a line of JSON."""
        return json.dumps(self.as_row(), ensure_ascii=False, allow_nan=False)

    def as_row(self) -> dict[str, Any]:
        """The document as JSON values."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "pages": [page_row(page) for page in self.pages],
            "error": self.error,
        }


def pages_to_markdown(pages: Sequence[PageReading]) -> str:
    """The Markdown of a document; `PAGE_BREAK` before every page where there are several."""
    if len(pages) == 1:
        return pages[0].markdown
    return "\n\n".join(f"{PAGE_BREAK.format(page.page)}\n\n{page.markdown}".rstrip() for page in pages)


def page_row(page: PageReading) -> dict[str, Any]:
    """A page as JSON values; boxes are left, top, right, bottom in the unit of its size."""
    width, height = page.size or (1.0, 1.0)
    return {
        "page": page.page,
        "width": None if page.size is None else round(width, 2),
        "height": None if page.size is None else round(height, 2),
        "unit": page.unit,
        "text": page.text,
        "markdown": page.markdown,
        "blocks": [_block_row(block, (width, height)) for block in page.blocks],
        "certainty": _rounded(page.certainty),
        "ending": page.ending,
        "retried": page.retried,
        "error": page.error,
    }


def _block_row(block: Block, size: tuple[float, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": block.kind, "text": block.text}
    if block.kind in ("title", "heading"):
        row["level"] = max(1, block.level)
    if block.table is not None:
        row["rows"] = block.table.grid()
    row["box"] = (
        None if block.box is None else [round(float(side * size[n % 2]), 2) for n, side in enumerate(block.box)]
    )
    row["certainty"] = _rounded(block.certainty)
    return row


def _rounded(certainty: float | None) -> float | None:
    return None if certainty is None else round(float(certainty), 4)
