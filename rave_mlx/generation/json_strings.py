"""Keys and values of JSON that is being written, character by character."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValueStart:
    """A value that is about to be written.

    Attributes:
        key: the letters and digits of its key, in lower case.
        label: index of the letter on the page that follows the words of the key there; None where they do not stand.
        following: index of the letter that follows the value before.
    """

    key: str
    label: int | None
    following: int


@dataclass(eq=False)
class JsonStrings:
    """Which string of a JSON text is a key. Escapes are not shown to it.

    Attributes:
        before: where on the page the answer was when the last string began; None where it was not there.
    """

    before: int | None = None
    _open: str | None = None
    _closed: str = ""

    @property
    def is_open(self) -> bool:
        """Whether a string has begun and not ended."""
        return self._open is not None

    def add(self, character: str, place: int | None) -> str | None:
        """Take the next character; the letters and digits of a key when it is complete.

        Args:
            character: of the JSON text.
            place: where on the page the answer is.
        """
        if character == '"':
            if self._open is None:
                self._open, self.before = "", place
            else:
                self._closed, self._open = self._open, None
        elif self._open is not None:
            self._open += character.lower() if character.isalnum() else ""
        elif not character.isspace():
            key, self._closed = self._closed, ""
            return key if character == ":" and key else None
        return None
