r"""A row of a data set, in any of the usual forms, as turns of text and images. Images are named here, not opened.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]},
                  {"role": "assistant", "content": "An answer."}]}
    {"messages": [{"role": "user", "content": "<image>Who?"}, ...], "images": ["a.png"]}
    {"conversations": [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}], "image": "a.png"}
    {"texts": [{"user": "Who?", "assistant": "Me."}], "images": ["a.png"]}
    {"image": "a.png", "question": "Who?", "answer": "Me."}

Parts {"type": "image"} without an image stand for one of "images" too, as `<image>` does. Columns may have the other
names that `inputs.row_columns` lists; of several right answers the first one is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rave_mlx.inputs.image_markers import MARKER, check_placeholders, split_at_markers
from rave_mlx.inputs.image_reference import ImageReference, read_reference
from rave_mlx.inputs.row_columns import (
    IMAGES,
    QUESTIONS,
    check_unread,
    find_answers,
    find_column,
    find_columns,
    find_images,
    standard,
)
from rave_mlx.inputs.text_files import RowError

_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
_ROLES = ("system", "developer", "user", "assistant")
_FORMS = 'messages, conversations, texts, or question and answer with "image"'
_CHATS = ("messages", "conversations", "texts")
_WEIGHTS = ("weight", "loss", "train", "tool_calls", "function_call", "reasoning_content", "thinking")
"""Keys of a message that other trainers read, with another outcome than without them."""
_PART_KEYS = {"type", "text", "image", "path", "url", "data", "image_url", "bytes", "base64", "page"}
_PART_SOURCES = ("image", "path", "url", "image_url", "data", "bytes", "base64")


class DataError(RowError):
    """Rows that cannot be trained on."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: "system", "developer", "user" or "assistant".
        parts: texts and images in their order.
        plain: whether its content was text and not a list of parts.
    """

    role: str
    parts: tuple[str | ImageReference, ...]
    plain: bool

    @property
    def text(self) -> str:
        """Its text, without images."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class _Row:
    """A row while it is read: its columns, the images listed beside its text, and those of them that are left."""

    columns: Mapping[str, Any]
    folder: Path
    listed: Sequence[ImageReference]
    unused: Iterator[ImageReference]

    def split(self, text: str, number: int) -> list[str | ImageReference]:
        """Text with an image for every marker."""
        pieces = split_at_markers(text)
        parts: list[str | ImageReference] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [self.next_image(number), piece]
        return parts

    def next_image(self, number: int) -> ImageReference:
        """The image that the next marker stands for."""
        found = next(self.unused, None)
        if found is None:
            what = "no image is left for it" if self.listed else "the row has no image"
            raise DataError(f"message {number}: {MARKER} is a place for an image, but {what}")
        return found


def read_row(columns: Any, folder: Path) -> tuple[Turn, ...]:
    """The turns of a row.

    Args:
        columns: the row as its file has it.
        folder: what image paths are relative to.

    Raises:
        RowError: what is wrong with the row, without its name.
    """
    if not isinstance(columns, Mapping):
        raise DataError(f"expected an object, found {_kind(columns)}")
    chats = find_columns(columns, _CHATS)
    if len(chats) > 1:
        raise DataError(f"both {chats[0]} and {chats[1]} are there; leave one out")
    column, listed = find_images(columns, folder)
    row = _Row(columns, folder, listed, iter(listed))
    if chats:
        turns, used = _chat(row, chats[0]), {chats[0]}
    else:
        turns, used = _question(row)
    shown = [part for turn in turns for part in turn.parts if isinstance(part, ImageReference)]
    left = sum(1 for _ in row.unused)
    if left:
        raise DataError(
            f"{column}: {len(listed)} images are listed, the text has places for {len(listed) - left}; "
            f"put {MARKER} where each belongs"
        )
    check_unread(columns, {*used, *find_columns(columns, IMAGES)}, shown, folder)
    _check(turns)
    return tuple(turns)


def unused_columns(row: Any) -> set[str]:
    """Columns that nothing is read from."""
    if not isinstance(row, Mapping):
        return set()
    chats = find_columns(row, _CHATS)
    used = chats or [*find_columns(row, QUESTIONS), *find_answers(row)[0]]
    return {str(key) for key in row if key not in {*used, *find_columns(row, IMAGES)} and row[key] is not None}


def other_answers(row: Any) -> bool:
    """Whether a row has more right answers than the one that is trained on."""
    return isinstance(row, Mapping) and not find_columns(row, _CHATS) and len(find_answers(row)[1]) > 1


def _check(turns: Sequence[Turn]) -> None:
    for number, turn in enumerate(turns, 1):
        if turn.role == "assistant" and any(isinstance(part, ImageReference) for part in turn.parts):
            raise DataError(f"message {number}: an answer holds an image; models answer in text")
        if turn.role == "assistant" and not turn.text.strip():
            raise DataError(f"message {number}: the answer is empty")
        if not turn.parts:
            raise DataError(f"message {number}: the {turn.role} turn is empty")
        if turn.role != "assistant":
            check_placeholders(turn.text, f"message {number}")
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("no assistant turn, so there is nothing to train on")


def _chat(row: _Row, column: str) -> list[Turn]:
    """The turns of a column of messages."""
    messages = row.columns[column]
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise DataError(f"{column} should be a list of messages, found {_kind(messages)}")
    if standard(column) == "texts":
        return _pairs(row, messages)
    read: Callable[[_Row, Any, int], Turn] = _message if standard(column) == "messages" else _shared
    if isinstance(messages[0], Mapping) and {"from", "value"} <= set(messages[0]):
        read = _shared  # both names are in use for both forms
    elif isinstance(messages[0], Mapping) and {"role", "content"} <= set(messages[0]):
        read = _message
    return [read(row, message, number) for number, message in enumerate(messages, 1)]


def _message(row: _Row, message: Any, number: int) -> Turn:
    """A turn as OpenAI and transformers write it."""
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise DataError(f'message {number}: expected an object with "role" and "content"')
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise DataError(f"message {number}: role {role!r} is not one of system, user and assistant")
    _check_keys(message, number)
    if content is None or isinstance(content, str):
        return _turn(role, row.split(content or "", number), plain=True)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(f"message {number}: content must be text or a list of parts, found {_kind(content)}")
    parts: list[str | ImageReference] = []
    for part in content:
        parts += _part(row, part, number)
    return _turn(role, parts, plain=False)


def _part(row: _Row, part: Any, number: int) -> list[str | ImageReference]:
    # Tables give every part all keys of the others, empty.
    given = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
    kind = given.get("type")
    if kind == "text" and isinstance(given.get("text"), str):
        return row.split(given["text"], number)
    if kind not in ("image", "image_url"):
        raise DataError(
            f'message {number}: expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}; '
            f"got {str(part)[:60]}"
        )
    unknown = sorted(set(given) - _PART_KEYS)
    if unknown:
        raise DataError(f"message {number}: nothing is read from {unknown[0]} of an image; leave it out")
    page = given.get("page")
    if page is not None and (not isinstance(page, int) or page < 1):
        raise DataError(f"message {number}: page {page!r} is not a number from 1")
    source = next((given[key] for key in _PART_SOURCES if key in given), None)
    if source is None:
        return [row.next_image(number)]
    if isinstance(source, Mapping) and "url" in source:
        source = source["url"]
    return [read_reference(source, row.folder, page)]


def _shared(row: _Row, message: Any, number: int) -> Turn:
    """A turn of a ShareGPT conversation."""
    if not isinstance(message, Mapping) or not isinstance(message.get("value"), str):
        raise DataError(f'message {number}: expected an object with "from" and "value"')
    role = _SPEAKERS.get(str(message.get("from")))
    if role is None:
        raise DataError(f"message {number}: speaker {message.get('from')!r} is not one of {', '.join(_SPEAKERS)}")
    _check_keys(message, number)
    return _turn(role, row.split(message["value"], number), plain=True)


def _pairs(row: _Row, pairs: Sequence[Any]) -> list[Turn]:
    """Turns of The Cauldron's form: pairs of user and assistant, all images before the first question."""
    turns: list[Turn] = []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, Mapping) or not all(isinstance(pair.get(key), str) for key in ("user", "assistant")):
            raise DataError(f'texts {number}: expected an object with "user" and "assistant"')
        turns += _asked(row, pair["user"], pair["assistant"], 2 * number - 1)
    return turns


def _question(row: _Row) -> tuple[list[Turn], set[str]]:
    """The turns of a row with a question and its answer, and the columns that they are in."""
    question, (answered, answers) = find_column(row.columns, QUESTIONS), find_answers(row.columns)
    if question is None and not answered:
        raise DataError(f"none of {_FORMS} is there")
    if question is None or not isinstance(row.columns[question], str):
        raise DataError(f"{question or 'question'} is missing or not text")
    if not answers:
        raise DataError("answer is missing or not text")
    return _asked(row, row.columns[question], answers[0], 1), {
        question,
        *find_columns(row.columns, QUESTIONS),
        *answered,
    }


def _asked(row: _Row, question: str, answer: str, number: int) -> list[Turn]:
    """A question, behind the images that it does not place itself, and its answer."""
    parts: Sequence[str | ImageReference] = [*row.unused, question]
    if MARKER in question:
        parts = row.split(question, number)
    return [_turn("user", parts, plain=True), _turn("assistant", row.split(answer, number + 1), plain=True)]


def _check_keys(message: Mapping[str, Any], number: int) -> None:
    """Refuse what would change a turn if it were read, images above all."""
    for key, value in message.items():
        if (key in _WEIGHTS or standard(str(key)) in IMAGES) and value not in (None, [], "", 1):
            raise DataError(f"message {number}: nothing is read from {key}; write images as parts of the content")


def _turn(role: str, parts: Sequence[str | ImageReference], *, plain: bool) -> Turn:
    return Turn(role, tuple(part for part in parts if part != ""), plain)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
