"""Where text stands: boxes in answers, their overlap, and words found with their boxes (ICDAR's end-to-end measure)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in thousandths of the image."""
_BOX = re.compile(r"[\(\[]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*[\)\]]")
_LIST = re.compile(r"[\[\(]\s*([^\[\]\(\)]*?)\s*[\]\)]")
_QUOTED = re.compile(r'^\s*"(.*)"\s*$')
_LEAST_OVERLAP = 0.5
_MOST = 1000
_EDGE_MARKS = "!?.:,*\"()·[]/'"
_UNREADABLE = "###"
_UNREADABLE_SHARE = 0.5


def overlap(a: Sequence[Any], b: Sequence[Any]) -> float:
    """Intersection over union of two boxes; 0 for what is no box."""
    try:
        one, other = [int(v) for v in a], [int(v) for v in b]
        areas = (one[2] - one[0]) * (one[3] - one[1]), (other[2] - other[0]) * (other[3] - other[1])
        shared = _shared(one, other)
    except (TypeError, ValueError, IndexError):
        return 0.0
    union = sum(areas) - shared
    return shared / union if union else 0.0


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def last_box(answer: str) -> Box | None:
    """The last box that is written in an answer; None where there is none."""
    found = [tuple(int(v) for v in match.groups()) for match in _BOX.finditer(answer)]
    inside = [box for box in found if max(box) <= _MOST]
    return inside[-1] if inside else None  # type: ignore[return-value]


def words_in(answer: str) -> list[tuple[Box, str]]:
    """Words with their boxes in an answer, each once: rows of four numbers and a text."""
    found: dict[tuple[Box, str], None] = {}
    for values in _rows(answer):
        try:
            box = tuple(int(str(v).strip()) for v in values[:4])
        except ValueError:
            continue
        if all(0 <= v <= _MOST for v in box):
            text = str(values[4]).replace("\n", "").strip().strip('"').strip("'")
            found[box, text] = None  # type: ignore[index]
    return list(found)


def _rows(answer: str) -> Iterator[Sequence[Any]]:
    """Rows of at least five values: of a list as Python writes it, else of everything in brackets."""
    try:
        data = ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        data = None
    if data is None:
        rows: Sequence[Any] = [match.split(",", 4) for match in _LIST.findall(answer)]
    else:
        rows = data if isinstance(data, (list, tuple)) else ()
    yield from (row for row in rows if isinstance(row, (list, tuple)) and len(row) >= 5)


def spotting_score(found: Sequence[tuple[Box, str]], row: Mapping[str, Any]) -> float:
    """F1 of words that were found: a box that overlaps by more than half, and the same text but for case.

    Args:
        found: words with their boxes.
        row: "bbox_list", polygons as x and y in turn, and "content", the text of each.
    """
    said = [(box, _unquoted(text)) for box, text in found if box[0] < box[2] and box[1] < box[3]]
    true = [(around(p), _unquoted(text)) for p, text in zip(row["bbox_list"], row["content"], strict=False)]
    if not said or not true:
        return 0.0
    blank = [box for box, text in true if text == _UNREADABLE]
    said = [word for word in said if not any(_lies_in(word[0], box) for box in blank)]
    true = [word for word in true if word[1] != _UNREADABLE]
    taken: set[int] = set()
    hits = 0
    for box, text in true:
        pair = next((n for n, w in enumerate(said) if n not in taken and overlap(box, w[0]) > _LEAST_OVERLAP), None)
        if pair is not None:
            taken.add(pair)
            hits += _same_word(text.upper(), said[pair][1].upper())
    return 2 * hits / (len(said) + len(true)) if hits else 0.0


def around(polygon: Sequence[int]) -> Box:
    """The box around a polygon, whose x and y stand in turn."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _lies_in(box: Box, blank: Box) -> bool:
    """Whether most of a box lies on text that nobody could read."""
    return _shared(box, blank) / ((box[2] - box[0]) * (box[3] - box[1])) > _UNREADABLE_SHARE


def _unquoted(text: str) -> str:
    quoted = _QUOTED.match(text)
    return quoted[1].replace("\\\\", "\\").replace('\\"', '"') if quoted else text


def _same_word(truth: str, said: str) -> bool:
    """Whether two words are equal; a mark at either end of the right one may be left out."""
    head, tail = truth[:1] in _EDGE_MARKS, truth[-1:] in _EDGE_MARKS
    forms = {truth} | ({truth[1:]} if head else set()) | ({truth[:-1]} if tail else set())
    return said in (forms | {truth[1:-1]} if head and tail else forms)
