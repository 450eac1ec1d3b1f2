"""The fields of a form, which are all text: read by kind, and refused where they are not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.json_text import from_bytes


class Form:
    """Fields that are taken out one by one; `close` refuses the rest. An empty field counts as none.

    Args:
        fields: texts by name.
    """

    def __init__(self, fields: Mapping[str, str]):
        self._left = dict(fields)
        self._asked: list[str] = []

    def text(self, name: str) -> str | None:
        """A text."""
        self._asked.append(name)
        value = self._left.pop(name, "").strip()
        return value or None

    def choice(self, name: str, options: Sequence[str]) -> str | None:
        """One of some texts.

        Raises:
            ApiError: for another one.
        """
        value = self.text(name)
        if value is not None and value not in options:
            raise ApiError(400, f"{name} is {value[:60]!r}; it can be {', '.join(options)}", param=name)
        return value

    def flag(self, name: str) -> bool | None:
        """True or false.

        Raises:
            ApiError: for anything else.
        """
        value = self.choice(name, ("true", "false", "1", "0"))
        return None if value is None else value in ("true", "1")

    def number(self, name: str, most: int) -> int | None:
        """A whole number from 1 to `most`.

        Raises:
            ApiError: for anything else.
        """
        value = self.text(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
            raise ApiError(400, f"{name} is {value[:60]!r}; it is a whole number from 1 to {most}", param=name)
        return int(value)

    def json(self, name: str) -> Any:
        """A JSON value; None where there is none.

        Raises:
            ApiError: for what is no JSON.
        """
        value = self.text(name)
        if value is None:
            return None
        try:
            return from_bytes(value.encode("utf-8", "surrogatepass"))
        except ApiError as error:
            raise ApiError(400, f"{name}: {error.message.replace('the body', 'the text')}", param=name) from None

    def close(self) -> None:
        """Refuse what was not asked for.

        Raises:
            ApiError: naming it.
        """
        for name in self._left:
            raise ApiError(
                400, f"there is no field {name[:60]!r}; there are file, {', '.join(self._asked)}", param=name[:60]
            )
