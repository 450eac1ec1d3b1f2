"""What it takes to extract from one document: jobs for the scheduler, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rave_mlx.documents.extraction.results import Box, Node, Unit
from rave_mlx.documents.pages import Document, Page
from rave_mlx.generation.job import Answer, Failed, Job
from rave_mlx.inputs.images.pdf_text import PageText
from rave_mlx.policies.policy import Attention


@dataclass(frozen=True)
class Options:
    """How documents are extracted from.

    Attributes:
        policy: attention policy, as of `Session`; None for the default of the way in which the model is asked.
        image_tokens: budget of visual tokens a page, for models that write JSON; None for the default.
        max_tokens: limit of a JSON answer's length.
        pages_together: pages of a document that are shown to a model at once, at most.
        boxes: whether places are looked for.
        drafts: whether the text layer of a PDF is used to guess the answer.
    """

    policy: Attention = None
    image_tokens: int | None = None
    max_tokens: int = 4096
    pages_together: int = 4
    boxes: bool = True
    drafts: bool = True


class Plan(Protocol):
    """One document's extraction. `jobs` runs in a thread of its own, ahead of `take`."""

    document: Document
    failures: dict[int, str]
    """Pages that could not be read, with the reasons."""

    def jobs(self) -> Iterator[Job | Failed]:
        """What is to be asked, one after the other."""

    def take(self, answer: Answer) -> None:
        """The next answer, in the order of the jobs."""

    def finish(self) -> Node | None:
        """The result when all answers are there; None where no page could be read."""


@dataclass(frozen=True)
class PageFrame:
    """A page as boxes of it are given out.

    Attributes:
        number: from 1.
        width, height: in `unit`.
        unit: points of a PDF, pixels of a picture.
    """

    number: int
    width: float
    height: float
    unit: Unit

    def box(self, part: Box) -> Box:
        """A box of fractions of the page in its unit."""
        left, top, right, bottom = part
        return left * self.width, top * self.height, right * self.width, bottom * self.height


@dataclass(frozen=True, eq=False)
class ReadPage:
    """A page that is asked about, without its picture.

    Attributes:
        frame: how its boxes are given out.
        size: width and height in pixels, as it was drawn.
        turned: degrees by which it leaned (`page_lines.LeveledPage`).
        text: its text layer, where that can be trusted.
    """

    frame: PageFrame
    size: tuple[int, int]
    turned: float = 0.0
    text: PageText | None = None

    def fractions(self, box: Box) -> Box:
        """A box of pixels in fractions of the page, from 0 to 1."""
        (width, height), (left, top, right, bottom) = self.size, box
        return max(0.0, left / width), max(0.0, top / height), min(1.0, right / width), min(1.0, bottom / height)


def unit_of(document: Document) -> Unit:
    """What boxes of a document count in."""
    return "point" if document.is_pdf else "pixel"


def frame_of(page: Page, size: tuple[int, int]) -> PageFrame:
    """How boxes on a page are given out.

    Args:
        page: of an open document.
        size: width and height in pixels of the page as it was drawn.
    """
    points = page.document.size(page.number)
    if points is None:
        return PageFrame(page.number, *size, "pixel")
    return PageFrame(page.number, *points, "point")


def text_of(page: Page) -> PageText | None:
    """The text layer of a page, where it has one that can be trusted."""
    text = page.text()
    return text if text is not None and text.usable else None
