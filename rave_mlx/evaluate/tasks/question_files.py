"""Questions from a file of one's own: {"image": path, "question": text, "answer": text or list of texts} a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item
from rave_mlx.inputs.image_markers import MARKER, check_placeholders, split_at_markers
from rave_mlx.inputs.row_columns import (
    IMAGES,
    QUESTIONS,
    check_unread,
    find_answers,
    find_column,
    find_columns,
    find_images,
)
from rave_mlx.inputs.text_files import RowError, read_rows

_LIMIT = "max_tokens"
"""Column with the most tokens that an answer may take."""


def read_lines(path: Path) -> Iterator[Item]:
    """Items of a file of rows, which are checked all together before the first is given.

    Columns may have the names that `inputs.row_columns` lists; other columns with text become tags. Image paths are
    relative to the file.

    Raises:
        UsageError: naming file, row and what is wrong with it.
    """
    items = []
    try:
        for place, row in read_rows(path):
            try:
                items.append(_item(row, path.parent))
            except RowError as error:
                raise UsageError(f"{path}, {place}: {error}") from None
    except RowError as error:
        raise UsageError(str(error)) from None
    if not items:
        raise UsageError(f"{path}: no questions in it")
    for number, item in enumerate(items, 1):
        yield replace(item, progress=number / len(items))


def _item(row: Any, folder: Path) -> Item:
    """One row as an item; image paths are relative to `folder`. RowError says what is wrong with it."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, Mapping):
        raise RowError("expected an object with image, question and answer")
    asked = find_column(row, QUESTIONS)
    question = "" if asked is None else row[asked]
    if not isinstance(question, str) or not question.strip():
        raise RowError(f"{asked or 'question'} is missing or not text")
    column, images = find_images(row, folder)
    if not images:
        raise RowError(_no_image(row))
    answered, answers = find_answers(row)
    if not answers:
        raise RowError("answer should be text, or a list of texts")
    longest = row.get(_LIMIT, Item.longest)
    if not isinstance(longest, int) or longest < 1:
        raise RowError(f"{_LIMIT} should be a positive number")
    used = {*find_columns(row, QUESTIONS), *find_columns(row, IMAGES), *answered, _LIMIT}
    check_unread(row, used, images, folder)
    for image in images:
        if image.page > 1:
            raise RowError(f"{column}: page {image.page} of a document; save that page as an image of its own")
    tags = {key: value for key, value in row.items() if key not in used and isinstance(value, str)}
    first, *more = (image.source for image in images)
    return Item(first, _without_markers(question, len(images)), tuple(answers), tags, longest, more=tuple(more))


def _no_image(row: Mapping[str, Any]) -> str:
    return f"image is missing; there are {', '.join(map(str, row)) or 'no columns'}"


def _without_markers(question: str, count: int) -> str:
    """The question of a row that says where its images go, which is before the question."""
    check_placeholders(question, "question")
    *before, last = split_at_markers(question)
    if before and (len(before) != count or any(piece.strip() for piece in before)):
        where = f"the image goes before the question; write one {MARKER} there, or none"
        several = f"{count} images go before the question; write {MARKER} for each of them there, or none"
        raise RowError(f"question: {where if count == 1 else several}")
    return last
