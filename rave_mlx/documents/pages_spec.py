"""Which pages of every document are read: "1-3,7", "2-", "last"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rave_mlx.errors import UsageError

LAST = "last"
_PART = re.compile(rf"(?P<first>\d{{1,9}}|{LAST})(?:(?P<dash>-)(?P<end>\d{{1,9}}|{LAST})?)?", re.ASCII)


@dataclass(frozen=True)
class PageRanges:
    """Pages to read, in the order in which they were named.

    Attributes:
        ranges: first and last page of each, from 1; None stands for the last page of the document.
    """

    ranges: tuple[tuple[int | None, int | None], ...]

    def choose(self, count: int) -> tuple[list[int], list[int]]:
        """The pages of a document with `count` pages that are meant, and those that it does not have.

        A range ends with the document: of a document with two pages, 1-3 are its two. A page that was named by itself
        is missing where it is not there. A page that was named twice is read once.
        """
        chosen: dict[int, None] = {}
        missing: dict[int, None] = {}
        for first, last in self.ranges:
            begin, end = first or count, last or count
            if begin == end > count:
                missing[begin] = None
            chosen.update(dict.fromkeys(range(begin, min(end, count) + 1)))
        return list(chosen), list(missing)

    def __str__(self) -> str:
        parts = (
            (LAST if first is None else str(first), LAST if last is None else str(last)) for first, last in self.ranges
        )
        return ",".join(first if first == last else f"{first}-{last}" for first, last in parts)


def parse_pages(text: str) -> PageRanges:
    """Read a list of pages and ranges with commas between them; pages are counted from 1.

    Raises:
        UsageError: for anything else, naming the part that is not understood.
    """
    ranges: list[tuple[int | None, int | None]] = []
    for part in text.split(","):
        found = _PART.fullmatch(part.strip().lower())
        if found is None:
            raise UsageError(f"--pages {text}: {_problem(part.strip())}; write pages as in 1-3,7 or 2- or last")
        first = _number(found["first"])
        last = first if not found["dash"] else _number(found["end"] or LAST)
        if first == 0 or last == 0:
            raise UsageError(f"--pages {text}: pages are counted from 1")
        if (first is None and last is not None) or (first and last and first > last):
            raise UsageError(f"--pages {text}: {part.strip()} ends before it begins; exchange the two pages")
        ranges.append((first, last))
    return PageRanges(tuple(ranges))


def _number(text: str) -> int | None:
    return None if text == LAST else int(text)


def _problem(part: str) -> str:
    """Why a part is no page; a leading minus could mean "up to" or "from the end"."""
    if not part:
        return "a page is missing"
    if re.fullmatch(r"-\d+", part):
        return f"{part} could be meant in two ways: 1{part} is up to that page, last is the last one"
    return f"{part!r} is no page"
