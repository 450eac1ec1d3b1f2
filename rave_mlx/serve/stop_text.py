"""Texts that end an answer: found across the borders of tokens, and never shown, not even in part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class StopText(Generic[T]):
    """An answer's text on its way out: what could be the beginning of a stop text is held back.

    Attributes:
        stops: texts that end the answer; none of them is empty.
        found: whether one came; nothing comes out after it.
    """

    stops: Sequence[str]
    found: bool = False
    _held: str = ""
    _entries: list[tuple[int, T]] = field(default_factory=list)
    """What goes with the held text: (where its characters begin in it, the entry)."""

    def add(self, text: str, entry: T) -> tuple[str, list[T]]:
        """A token came.

        Args:
            text: its characters.
            entry: what goes out with the first of them, as its log-probability.

        Returns:
            The text that can go out now, and the entries that go with it.
        """
        if self.found:
            return "", []
        self._entries.append((len(self._held), entry))
        self._held += text
        # The one that is complete first, as if characters came one by one.
        ends = [(at + len(stop), at) for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._release(min(ends)[1])
        return self._release(len(self._held) - self._undecided())

    def finish(self) -> tuple[str, list[T]]:
        """The answer has ended: what was held back."""
        return ("", []) if self.found else self._release(len(self._held), everything=True)

    def _undecided(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = max(map(len, self.stops), default=1) - 1
        return next(
            (n for n in range(min(longest, len(self._held)), 0, -1)
             if any(stop.startswith(self._held[-n:]) for stop in self.stops)), 0,
        )  # fmt: skip

    def _release(self, length: int, *, everything: bool = False) -> tuple[str, list[T]]:
        out, self._held = self._held[:length], self._held[length:]
        # An entry without characters of its own (a part of a character) goes with the text before it.
        going = [entry for at, entry in self._entries if at < length or everything or not self._held]
        self._entries = [(at - length, entry) for at, entry in self._entries[len(going) :]]
        return out, going
