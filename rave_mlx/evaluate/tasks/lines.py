"""Questions from a JSONL file: {"image": path, "question": text, "answer": text or list of texts} a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item


def read_lines(path: Path) -> Iterator[Item]:
    """Items of a file; image paths are relative to it, other keys with text become tags.

    The whole file is checked before the first item.

    Raises:
        UsageError: naming file, line and what is wrong with it.
    """
    items = [
        _item(line, f"{path}, line {number}", path.parent)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip()
    ]
    if not items:
        raise UsageError(f"{path}: no questions in it")
    yield from items


def _item(line: str, where: str, folder: Path) -> Item:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected an object with image, question and answer")
    for key in ("image", "question"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise UsageError(f"{where}: {key} is missing or not text")
    image = folder / Path(row["image"]).expanduser()
    if not image.is_file():
        raise UsageError(f"{where}: no image {row['image']}")
    longest = row.get("max_tokens", Item.longest)
    if not isinstance(longest, int) or longest < 1:
        raise UsageError(f"{where}: max_tokens should be a positive number")
    known = ("image", "question", "answer", "answers", "max_tokens")
    tags = {key: value for key, value in row.items() if key not in known and isinstance(value, str)}
    return Item(image, row["question"], _answers(row, where), tags, longest)


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...]:
    given = row.get("answers", row.get("answer"))
    answers = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
    if not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UsageError(f"{where}: answer should be text, or a list of texts")
    return answers
