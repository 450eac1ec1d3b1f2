"""What stands on a page: headings, paragraphs, tables in reading order, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rave_mlx.documents.transcription.table import Table

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""
Kind = Literal[
    "title",
    "heading",
    "paragraph",
    "line",
    "list item",
    "table",
    "caption",
    "footnote",
    "code",
    "formula",
    "picture",
    "page header",
    "page footer",
]


@dataclass(frozen=True)
class Block:
    """One piece of a page.

    Attributes:
        kind: what it is.
        text: what it says, without markup; of a table, its rows with tabs between the cells.
        markdown: the same in Markdown; None where it follows from the kind and the text.
        level: of a heading, from 1; of an item in a list, from 0.
        marker: of an item in a list, as "-" or "3.".
        table: the cells of a table.
        box: where it stands, in fractions of the page's sides; None where the model does not say.
        certainty: the least probability of a token of it; None where nothing is known.
        group: of lines that are blocks of their own: those of one paragraph have the same number.
        hard_break: whether a line ends before the margin, as in an address.
        span: the characters [first, last) of the answer that it was read from.
    """

    kind: Kind
    text: str
    markdown: str | None = None
    level: int = 0
    marker: str = "-"
    table: Table | None = None
    box: Box | None = None
    certainty: float | None = None
    group: int = 0
    hard_break: bool = False
    span: tuple[int, int] | None = field(default=None, compare=False)
