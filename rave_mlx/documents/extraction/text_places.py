"""Where a value stands in the text layer of a page: as it is written, or the same number or day in another form."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from rave_mlx.documents.extraction.printed_dates import parse_date
from rave_mlx.documents.extraction.printed_numbers import parse_number
from rave_mlx.inputs.images.pdf_text import Box, PageText, Span

_NUMBER = re.compile(r"\d(?:[\d.,'’ \u00a0\u202f]*\d)?")
_PRINTED = re.compile(r"[+-]?\d[\d.,'’ \u00a0\u202f]*")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_DASHES = str.maketrans("‐‑‒–—−’‘“”„´`", "------''\"\"\"''")
_LONGEST_DATE = 4
"""Words of a date: "Friday, 3 May 2026"."""
_LINE_ABOVE = 2.5
"""How many heights of a line a label may stand above its value."""


def find_in_text(page: PageText, value: str, *, near: Box | None = None, label: str = "") -> list[Box] | None:
    """Where a value stands on a page, as a box for each line of it in fractions of the page; None where it does not.

    Args:
        page: its text layer.
        value: as text: as it is printed, or a number or day as JSON writes it.
        near: where it is likely to be, as of `pick`.
        label: what is likely to stand beside it, as of `pick`.
    """
    spans = occurrences(page, value)
    return page.boxes_of_lines(*pick(page, spans, near=near, label=label)[0]) if spans else None


def occurrences(page: PageText, value: str) -> list[Span]:
    """Where in a page's text a value stands; nowhere where the text is of no use.

    A value that stands there as it is written is not looked for in other forms.

    Args:
        page: its text layer.
        value: as text: as it is printed, or a number or day as JSON writes it.
    """
    if not page.usable or not value.strip():
        return []
    return next((found for find in _WAYS if (found := list(find(page.text, value)))), [])


def pick(page: PageText, spans: Sequence[Span], *, near: Box | None = None, label: str = "") -> tuple[Span, float]:
    """Which of several places is meant, and how much of the label stands beside it (0 to 1).

    Args:
        page: its text layer.
        spans: the places, at least one.
        near: where the value is likely to be, in fractions of the page; the nearest place is taken.
        label: words that are likely to stand left of the value or above it: the name of the field, a description;
            counts where `near` is not given, and then the first place does.
    """
    labelled = [_labelled(page, span, label) for span in spans]
    if near is not None:
        best = min(range(len(spans)), key=lambda i: _distance(page.box(*spans[i]), near))
    else:
        best = max(range(len(spans)), key=lambda i: (labelled[i], -spans[i][0]))
    return spans[best], labelled[best]


def _exactly(text: str, value: str) -> Iterator[Span]:
    """Places of a value as it is printed; white space, case, dashes and quotation marks may differ."""
    words = [re.escape(_folded(word)) for word in value.split()]
    return _whole(text, r"\s+".join(words), _folded_whole(text))


def _by_letters(text: str, value: str) -> Iterator[Span]:
    """Places where the same letters and digits stand, whatever stands between them: "K 204-417" for "K204417"."""
    letters = [c for c in _folded(value) if c.isalnum()]
    # With separators left out, 12.50 would be 1250.
    if len(letters) < 3 or _PRINTED.fullmatch(value.strip()):
        return iter(())
    between = r"[^\w\n]{0,2}(?:-\n)?" if len(value.split()) == 1 else r"[\W_]{0,4}"
    return _whole(text, between.join(map(re.escape, letters)), _folded_whole(text))


def _by_number(text: str, value: str) -> Iterator[Span]:
    """Places where the same number is printed."""
    try:
        wanted = parse_number(value)
    except ValueError:
        return
    for match in _NUMBER.finditer(text):
        if _is_part(text, match.start(), match.end()):
            continue
        for comma in (None, True, False):
            if _number(match.group(), comma) == abs(wanted):
                yield match.span()
                break


def _by_day(text: str, value: str) -> Iterator[Span]:
    """Places where a day is printed that JSON writes as 2026-05-03."""
    if not _DAY.fullmatch(value.strip()):
        return
    year, _, day = value.strip().split("-")
    found: list[Span] = []
    for line in re.finditer(r"[^\n]+", text):
        words = [match.span() for match in re.finditer(r"\S+", line.group())]
        for size in range(1, _LONGEST_DATE + 1):
            for begin, end in zip(words, words[size - 1 :], strict=False):
                part = line.group()[begin[0] : end[1]]
                if year[2:] in part and str(int(day)) in part and _is_day(part, value.strip()):
                    start = line.start() + begin[0]
                    found.append((start, start + len(part.rstrip(",;"))))
    # A label before a date does not belong to it.
    yield from (a for a in found if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in found))


_WAYS: tuple[Callable[[str, str], Iterator[Span]], ...] = (_exactly, _by_day, _by_number, _by_letters)


def _whole(text: str, pattern: str, folded: str) -> Iterator[Span]:
    """Matches of a pattern that begin and end where words do."""
    for match in re.finditer(pattern, folded):
        if not _is_part(text, match.start(), match.end()):
            yield match.span()


def _is_part(text: str, start: int, stop: int) -> bool:
    """Whether a stretch of text begins or ends within a word or a number."""
    before, first, last, after = text[start - 1 : start], text[start], text[stop - 1], text[stop : stop + 1]
    grouped = before in (".", ",") and text[start - 2 : start - 1].isdigit() and first.isdigit()
    goes_on = after in (".", ",") and text[stop + 1 : stop + 2].isdigit() and last.isdigit()
    return (before.isalnum() and first.isalnum()) or (after.isalnum() and last.isalnum()) or grouped or goes_on


def _folded_whole(text: str) -> str:
    """`_folded` of every character that stays one."""
    return "".join(found if len(found := _folded(c)) == 1 else c for c in text)


def _folded(text: str) -> str:
    """A text without the differences that do not count."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_DASHES)


def _number(text: str, comma: bool | None) -> Decimal | None:
    try:
        return parse_number(text, comma)
    except ValueError:
        return None


def _is_day(text: str, day: str) -> bool:
    for day_first in (True, False):
        try:
            if parse_date(text.rstrip(",;"), day_first) == day:
                return True
        except ValueError:
            continue
    return False


def _distance(box: Box | None, near: Box) -> float:
    """Between the middles of two boxes."""
    if box is None:
        return math.inf
    return math.hypot((box[0] + box[2] - near[0] - near[2]) / 2, (box[1] + box[3] - near[1] - near[3]) / 2)


def _labelled(page: PageText, span: Span, label: str) -> float:
    """How much of a label stands before a value on its line, or above it."""
    wanted = {word for word in re.split(r"[\W_]+", _folded(label)) if len(word) > 1}
    box = page.box(*span)
    if not wanted or box is None:
        return 0.0
    start = page.text.rfind("\n", 0, span[0]) + 1
    beside = _shared(wanted, page.text[start : span[0]])
    above = max((_shared(wanted, text) for text in _above(page, box)), default=0.0)
    return max(beside, 0.9 * above)


def _above(page: PageText, box: Box) -> Iterator[str]:
    """Words of lines that stand closely above a box, over it."""
    for start, stop in page.lines():
        line = page.box(start, stop)
        if line is None or not 0 < box[1] - line[1] < _LINE_ABOVE * (box[3] - box[1]):
            continue
        for part in re.finditer(r"[^\t\n]+", page.text[start:stop]):
            cell = page.box(start + part.start(), start + part.end())
            if cell is not None and cell[0] < box[2] and cell[2] > box[0]:
                yield part.group()


def _shared(wanted: set[str], text: str) -> float:
    """Share of words that a text has."""
    found = set(re.split(r"[\W_]+", _folded(text)))
    return len(wanted & found) / len(wanted)


def around(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)
