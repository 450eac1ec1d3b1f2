r"""A row of a data set, in any of the usual forms, as turns of text and pictures. Images are named here, not opened.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]},
                  {"role": "assistant", "content": "An answer."}]}
    {"messages": [{"role": "user", "content": "<image>Who?"}, ...], "images": ["a.png"]}
    {"conversations": [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}], "image": "a.png"}
    {"image": "a.png", "question": "Who?", "answer": "Me."}

Parts {"type": "image"} without an image stand for one of "images" too; prompt and response are question and answer.
An image is a path (relative to the row's file), a `data:` or `file:` URL, bytes, or {"bytes": ..., "path": ...}.
`<image>` stands for one only where the row brings a list of images.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rave_mlx.errors import RaveError

MARKER = "<image>"
_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
_FORMS = 'messages, conversations, or question and answer (or prompt and response) with "image"'
_USED = {"messages", "conversations", "image", "images", "question", "answer", "prompt", "response"}


class DataError(RaveError):
    """Rows that cannot be trained on."""


@dataclass(frozen=True)
class Picture:
    """An image of a row: a file or encoded bytes, and the page that is meant."""

    source: Path | bytes
    page: int = 1


@dataclass(frozen=True)
class Turn:
    """A message. `plain` where its content was text and not a list of parts."""

    role: str
    parts: tuple[str | Picture, ...]
    plain: bool

    @property
    def text(self) -> str:
        """Its text, pictures left out."""
        return "".join(part for part in self.parts if isinstance(part, str))


def read_row(row: Any, folder: Path) -> tuple[Turn, ...]:
    """The turns of a row; image paths are relative to `folder`.

    Raises:
        DataError: what is wrong with the row, without its name.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"expected an object, found {_kind(row)}")
    listed = _pictures(row, folder)
    supply = iter(listed)
    marks = bool(listed)
    if row.get("messages") is not None:
        turns = [_message(m, i, supply, marks, folder) for i, m in enumerate(_list(row, "messages"), 1)]
    elif row.get("conversations") is not None:
        turns = [_shared(m, i, supply) for i, m in enumerate(_list(row, "conversations"), 1)]
    else:
        turns = _question(row, listed, supply)
    if next(supply, None) is not None:
        used = sum(isinstance(part, Picture) for turn in turns for part in turn.parts)
        raise DataError(f"{len(listed)} images are listed, the text has places for {used}")
    _check(turns)
    return tuple(turns)


def unused_columns(row: Any) -> set[str]:
    """Columns that nothing is read from."""
    return {str(key) for key in row if key not in _USED} if isinstance(row, Mapping) else set()


def _check(turns: Sequence[Turn]) -> None:
    for number, turn in enumerate(turns, 1):
        if turn.role == "assistant" and any(isinstance(part, Picture) for part in turn.parts):
            raise DataError(f"message {number}: an answer holds an image; models answer in text")
        if turn.role == "assistant" and not turn.text.strip():
            raise DataError(f"message {number}: the answer is empty")
        if not turn.parts:
            raise DataError(f"message {number}: the {turn.role} turn is empty")
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("no assistant turn, so there is nothing to train on")


def _message(message: Any, number: int, supply: Iterator[Picture], marks: bool, folder: Path) -> Turn:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise DataError(f'message {number}: expected an object with "role" and "content"')
    role, content = message["role"], message["content"]
    if role not in ("system", "developer", "user", "assistant"):
        raise DataError(f"message {number}: role {role!r} is not one of system, user and assistant")
    if content is None or isinstance(content, str):
        return _turn(role, _split(content or "", supply, number) if marks else [content or ""], plain=True)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(f"message {number}: content must be text or a list of parts, found {_kind(content)}")
    parts: list[str | Picture] = []
    for part in content:
        parts += _part(part, number, supply, marks, folder)
    return _turn(role, parts, plain=False)


def _part(part: Any, number: int, supply: Iterator[Picture], marks: bool, folder: Path) -> list[str | Picture]:
    # Tables give every part all keys of the others, empty.
    given = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
    kind = given.get("type")
    if kind == "text" and isinstance(given.get("text"), str):
        return _split(given["text"], supply, number) if marks else [given["text"]]
    if kind == "image":
        source = next((given[key] for key in ("image", "path", "url") if key in given), None)
        page = given.get("page", 1)
        if not isinstance(page, int) or page < 1:
            raise DataError(f"message {number}: page {page!r} is not a number from 1")
        return [_next(supply, number) if source is None else _picture(source, folder, page)]
    if kind == "image_url":
        url = given.get("image_url")
        return [_picture(url.get("url") if isinstance(url, Mapping) else url, folder)]
    raise DataError(
        f'message {number}: expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}; '
        f"got {str(part)[:60]}"
    )


def _shared(message: Any, number: int, supply: Iterator[Picture]) -> Turn:
    """A turn of a ShareGPT conversation."""
    if not isinstance(message, Mapping) or not isinstance(message.get("value"), str):
        raise DataError(f'message {number}: expected an object with "from" and "value"')
    role = _SPEAKERS.get(str(message.get("from")))
    if role is None:
        raise DataError(f"message {number}: speaker {message.get('from')!r} is not one of {', '.join(_SPEAKERS)}")
    return _turn(role, _split(message["value"], supply, number), plain=True)


def _question(row: Mapping[str, Any], listed: Sequence[Picture], supply: Iterator[Picture]) -> list[Turn]:
    for asked, answered in (("question", "answer"), ("prompt", "response")):
        if row.get(asked) is None and row.get(answered) is None:
            continue
        for key in (asked, answered):
            if not isinstance(row.get(key), str):
                raise DataError(f"{key} is missing or not text")
        question = row[asked]
        parts = _split(question, supply, 1) if listed and MARKER in question else [*supply, question]
        return [_turn("user", parts, plain=True), _turn("assistant", [row[answered]], plain=True)]
    raise DataError(f"none of {_FORMS} is there")


def _turn(role: str, parts: Sequence[str | Picture], *, plain: bool) -> Turn:
    return Turn(role, tuple(part for part in parts if part != ""), plain)


def _split(text: str, supply: Iterator[Picture], number: int) -> list[str | Picture]:
    """Text with a picture for every marker; a line break that only sets the marker apart goes with it."""
    first, *rest = re.split(rf"\n?{MARKER}\n?", text)
    parts: list[str | Picture] = [first]
    for piece in rest:
        parts += [_next(supply, number), piece]
    return parts


def _next(supply: Iterator[Picture], number: int) -> Picture:
    found = next(supply, None)
    if found is None:
        raise DataError(f"message {number}: there is a place for an image, but no image is left for it in the row")
    return found


def _pictures(row: Mapping[str, Any], folder: Path) -> list[Picture]:
    """The images that the row lists beside its text."""
    given = [row[key] for key in ("image", "images") if row.get(key) is not None]
    if len(given) > 1:
        raise DataError("both image and images are there; leave one out")
    if not given:
        return []
    many = isinstance(given[0], Sequence) and not isinstance(given[0], str | bytes)
    return [_picture(source, folder) for source in (given[0] if many else given)]


def _picture(source: Any, folder: Path, page: int = 1) -> Picture:
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return Picture(source, page)
    if not isinstance(source, str) or not source:
        raise DataError(f"an image is a path, bytes or a data: URL, found {_kind(source)}")
    if source.startswith("data:"):
        try:
            return Picture(base64.b64decode(source.partition(",")[2], validate=True), page)
        except binascii.Error:
            raise DataError("a data: URL is not valid base64") from None
    if re.match(r"https?://", source):
        raise DataError(f"image {source[:80]}: addresses are not fetched; download the image and name the file")
    path = folder / Path(source.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise DataError(f"no image {path}")
    return Picture(path, page)


def _list(row: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = row[key]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DataError(f"{key} should be a list of messages, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
