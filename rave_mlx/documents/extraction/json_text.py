"""JSON texts whose parts know where they stand, and that may end in the middle."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERALS = {"null": None, "true": True, "false": False}
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Piece:
    """A value in a JSON text.

    Attributes:
        value: the value; pieces for the values of an object (by name) and of a list.
        start, end: its characters, quotes and brackets included.
        finished: whether the text holds all of it. A number at the very end might go on.
    """

    value: Any
    start: int
    end: int
    finished: bool


def scan(text: str) -> Piece:
    """A JSON text as pieces. What a text that ends too early holds of a value is its finished parts.

    Raises:
        ValueError: for what is no JSON and no beginning of it.
    """
    piece = _value(text, _skip(text, 0))
    if piece is None:
        return Piece(None, len(text), len(text), False)
    rest = _skip(text, piece.end)
    if piece.finished and rest < len(text):
        raise ValueError(f"more text behind the JSON, from character {rest}: {text[rest : rest + 40]!r}")
    return piece


def _skip(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _value(text: str, start: int) -> Piece | None:
    """The value that starts here; None where so little of it is there that nothing can be said."""
    if start >= len(text):
        return None
    first = text[start]
    if first == "{":
        return _object(text, start)
    if first == "[":
        return _list(text, start)
    if first == '"':
        found = _string(text, start)
        return None if found is None else Piece(found[0], start, found[1], True)
    for name, literal in _LITERALS.items():
        if text.startswith(name, start):
            return Piece(literal, start, start + len(name), True)
        if name.startswith(text[start:]):
            return None
    number = _NUMBER.match(text, start)
    if number and number.end() < len(text) and text[number.end()] not in ".eE":
        return Piece(json.loads(number.group()), start, number.end(), True)
    if re.fullmatch(r"-?[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]*)?", text[start:]):
        return None
    raise ValueError(f"not JSON from character {start}: {text[start : start + 40]!r}")


def _string(text: str, start: int) -> tuple[str, int] | None:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Invalid control"):
            raise ValueError(f"not JSON: a line break or another control character in a text ({error})") from None
        return None
    return value, end


def _object(text: str, start: int) -> Piece:
    found: dict[str, Piece] = {}
    at = _skip(text, start + 1)
    if text.startswith("}", at):
        return Piece(found, start, at + 1, True)
    while at < len(text):
        if text[at] != '"':
            raise ValueError(f"not JSON: a name is missing at character {at}: {text[at : at + 40]!r}")
        name = _string(text, at)
        if name is None:
            break
        at = _skip(text, name[1])
        if at >= len(text):
            break
        if text[at] != ":":
            raise ValueError(f"not JSON: a colon is missing at character {at}")
        value = _value(text, _skip(text, at + 1))
        if value is None:
            break
        found[name[0]] = value
        after = _next(text, value, "}")
        if after is None:
            break
        if text[after] == "}":
            return Piece(found, start, after + 1, True)
        at = _skip(text, after + 1)
    return Piece(found, start, len(text), False)


def _list(text: str, start: int) -> Piece:
    found: list[Piece] = []
    at = _skip(text, start + 1)
    if text.startswith("]", at):
        return Piece(found, start, at + 1, True)
    while (value := _value(text, at)) is not None:
        found.append(value)
        after = _next(text, value, "]")
        if after is None:
            break
        if text[after] == "]":
            return Piece(found, start, after + 1, True)
        at = _skip(text, after + 1)
    return Piece(found, start, len(text), False)


def _next(text: str, value: Piece, close: str) -> int | None:
    """Where the comma or the bracket behind a value stands; None where the text ends before."""
    at = _skip(text, value.end)
    if not value.finished or at >= len(text):
        return None
    if text[at] not in f",{close}":
        raise ValueError(f"not JSON: a comma or {close} is missing at character {at}")
    return at
