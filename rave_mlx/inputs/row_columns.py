"""Which column of a row is the image, the question, the answer: the names that data sets give them.

`train` and `evaluate` read rows by the same names. Two columns for one thing are refused unless they say the same, and
so is an image that nothing would be read from: training without it, or asking without it, would look like success.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rave_mlx.inputs.image_reference import ImageReference, holds_bytes, looks_like_image, read_reference
from rave_mlx.inputs.text_files import RowError

IMAGES = (
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "page_image", "page_images"),
    *("image_path", "image_paths", "img_path", "img_paths", "image_file", "image_files", "image_url", "image_urls"),
    *("image_name", "image_names", "image_filename", "image_filenames", "file_name", "file_names"),
    *("filename", "filenames", "image_bytes", "image_base64", "image_data", "screenshot", "screenshots"),
)
"""Columns of images: one, or a list. `file_name` is that of the `datasets` package's image folders."""
QUESTIONS = ("question", "query", "prompt", "instruction")
ANSWERS = ("answer", "answers", "response", "output", "completion", "ground_truth", "ground_truths")
LABELS = ("label", "labels")
"""The answer where there is no other; beside one they sort the rows."""
_PART_OF_PROMPT = (
    *("video", "videos", "audio", "audios", "tools", "functions", "history"),
    *("context", "passage", "choices", "options", "input", "rejected"),
)
"""Columns that would change what a model reads, and that nothing is read from."""


def standard(name: str) -> str:
    """A column's name in lower case with underscores: "Image Path" and "imagePath" are image_path."""
    return re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).lower()


def find_columns(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Columns with one of these names, whatever their spelling, that hold something; in the order of `names`."""
    found = [key for key, value in row.items() if standard(str(key)) in names and not _is_nothing(value)]
    return sorted(found, key=lambda key: names.index(standard(key)))


def find_column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The one column with one of these names; None when there is none.

    Raises:
        RowError: when there are several that differ.
    """
    found = find_columns(row, names)
    if any(row[key] != row[found[0]] for key in found):
        raise RowError(
            f"both {found[0]} and {next(k for k in found if row[k] != row[found[0]])} are there; leave one out"
        )
    return found[0] if found else None


def find_images(row: Mapping[str, Any], folder: Path) -> tuple[str | None, list[ImageReference]]:
    """The images of a row beside its text, and the column that they are in.

    Args:
        row: its columns.
        folder: what paths are relative to.

    Raises:
        RowError: for a value that is no image, a file that is not there, or columns with different images.
    """
    columns = find_columns(row, IMAGES)
    if not columns:
        return None, []
    first, *others = columns
    images = _references(row, first, folder)
    for column in others:
        # The name of a picture whose bytes are there is a label: data sets of the Hub keep both.
        encoded = all(isinstance(image.source, bytes) for image in images)
        if not (encoded and _is_name(row[column])) and not _same(row[column], images, folder):
            raise RowError(f"both {first} and {column} are there; leave one out")
    return first, images


def find_answers(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The columns that the right answers are in, and the answers: none when there is no such column.

    Raises:
        RowError: for an answer that is no text, and for columns that disagree.
    """
    columns = find_columns(row, ANSWERS) or find_columns(row, LABELS)
    given = {column: row[column] if isinstance(row[column], list | tuple) else [row[column]] for column in columns}
    for column, answers in given.items():
        if not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise RowError(f"{column} should be text, or a list of texts")
        first = given[columns[0]]
        if not (set(first) <= set(answers) or set(answers) <= set(first)):
            raise RowError(f"both {columns[0]} and {column} are there; leave one out")
    return columns, list(dict.fromkeys(answer for answers in given.values() for answer in answers))


def check_unread(row: Mapping[str, Any], read: Collection[str], shown: Sequence[ImageReference], folder: Path) -> None:
    """Refuse a row with a column that nothing is read from though it belongs to the prompt: an image above all.

    Args:
        row: its columns.
        read: columns that something was read from.
        shown: the images that were.
        folder: what paths are relative to.

    Raises:
        RowError: naming the column.
    """
    for column, value in row.items():
        if column in read or _is_nothing(value):
            continue
        name = standard(str(column))
        if name in _PART_OF_PROMPT:
            raise RowError(f"nothing is read from the column {column}; put it into the question, or leave it out")
        if name not in IMAGES and looks_like_image(value) and not _is_label(value, shown, folder):
            raise RowError(f"the column {column} holds an image that is not read; call it image, or leave it out")


def _is_label(value: Any, shown: Sequence[ImageReference], folder: Path) -> bool:
    """Whether an image's name only says where a picture that is shown comes from."""
    if not shown or not _is_name(value):
        return False
    for text in [value] if isinstance(value, str) else value:
        try:
            found = read_reference(text, folder)
        except RowError:
            continue  # an address, or a file of somebody else's computer
        if not all(isinstance(image.source, bytes) or _is_file(image, found.source) for image in shown):
            return False
    return True


def _references(row: Mapping[str, Any], column: str, folder: Path) -> list[ImageReference]:
    value = row[column]
    values = value if isinstance(value, list | tuple) else [value]
    try:
        return [read_reference(each, folder) for each in values]
    except RowError as error:
        plain = column in ("image", "images")
        raise RowError(str(error) if plain else f"{column}: {error}") from None


def _same(value: Any, images: Sequence[ImageReference], folder: Path) -> bool:
    try:
        others = [read_reference(each, folder) for each in (value if isinstance(value, list | tuple) else [value])]
    except RowError:
        return False
    return others == list(images)


def _is_file(image: ImageReference, path: Path | bytes) -> bool:
    return isinstance(image.source, Path) and isinstance(path, Path) and image.source.resolve() == path.resolve()


def _is_name(value: Any) -> bool:
    """Whether a value is text, or texts, that name images and do not hold them."""
    texts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(text, str) and not holds_bytes(text) for text in texts)


def _is_nothing(value: Any) -> bool:
    """Whether a column is empty: tables give every row all columns of the others."""
    return value is None or (isinstance(value, list | tuple) and not value)
