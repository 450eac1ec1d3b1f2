"""Answers that repeat themselves without end, as small models do on pages that are hard to read.

The text is looked at as a sequence of symbols: characters, and numbers, which count as equal whatever they are. An
answer loops when its end repeats one unit of symbols often, and each number in it stays as it is or counts on in equal
steps ("| 1 | |", "| 2 | |", ...). How often is often depends on what the unit says, since real pages repeat much: a
line of dots, thirty empty table rows, a column of zeros, a sheet of thirty equal labels.

| words of the unit (tags and numbers aside) | repeats that make a loop                                       |
|---------------------------------------------|----------------------------------------------------------------|
| none: dots, empty cells                     | 100, of 600 characters together                                |
| none, and a number                          | 80, of 400 characters together                                 |
| 1 (with a number: 2) to 4                   | 80 for a single word of 400 characters together; else 50       |
| 5 and more                                  | 32; of units above 200 characters 12                           |
| any, with a number that counts              | 100; with 5 words and more 64                                  |

Units of more than 512 symbols are looked for line by line: 10 repeats. Tokens without text, and digits, are looked for
token by token: 100 repeats, 400 tokens together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_LONGEST, _LONGEST_LINES, _LONGEST_TOKENS = 512, 100, 64
"""Longest unit that is looked for, in symbols, in lines, and in tokens."""
_LEAST = 10
"""Fewest repeats of anything."""
_EVERY = 16
"""Tokens after which is looked again."""
_NUMBER = 0
"""The symbol of a number."""
_TAG = re.compile(r"<[^<>\n]{0,60}>")
_WORD = re.compile(r"[^\W\d_]+")


class Repeats:
    """For a sequence that grows: how long its end has repeated what stood `lag` places before, for every lag.

    Args:
        longest: largest lag.
    """

    def __init__(self, longest: int):
        self._symbols = np.zeros(1024, np.int64)
        self._runs = np.zeros(longest, np.int64)
        self.length = 0

    def add(self, symbol: int) -> None:
        """The sequence goes on with a symbol."""
        if self.length == len(self._symbols):
            self._symbols = np.concatenate([self._symbols, np.zeros_like(self._symbols)])
        lags = min(self.length, len(self._runs))
        before = self._symbols[self.length - lags : self.length][::-1]
        self._runs[:lags] = (self._runs[:lags] + 1) * (before == symbol)
        self._symbols[self.length] = symbol
        self.length += 1

    def candidates(self, least: int) -> Iterator[tuple[int, int]]:
        """Lags at which a unit stands `least` times at the end at least, with the index where its second one begins.

        The shortest first; multiples of a lag are left out.
        """
        lags = np.arange(1, len(self._runs) + 1)
        found: list[int] = []
        for lag in lags[self._runs >= lags * (least - 1)].tolist():
            if not any(lag % shorter == 0 for shorter in found):
                found.append(lag)
                yield lag, self.length - int(self._runs[lag - 1])


class LoopWatch:
    """Watches one answer."""

    def __init__(self) -> None:
        self._tokens = Repeats(_LONGEST_TOKENS)
        self._symbols, self._lines = Repeats(_LONGEST), Repeats(_LONGEST_LINES)
        self._text = ""
        self._ends: list[int] = []
        self._starts: list[int] = []
        self._numbers: dict[int, str] = {}
        self._line_starts = [0]
        self._known_lines: dict[str, int] = {}

    def add(self, token: int, text: str) -> int | None:
        """A token came, with the text that it completes.

        Returns:
            How many tokens to keep, where the answer loops: up to the end of what is repeated, once. None: it does not.
        """
        self._tokens.add(token)
        for character in text:
            self._add_character(character)
        self._ends.append(len(self._text))
        if len(self._ends) % _EVERY:
            return None
        end = next((stop for stop in (self._text_loop(), self._line_loop()) if stop is not None), None)
        if end is not None:
            # The tokens that end in the first unit; one that goes beyond it is left out.
            return max(1, int(np.searchsorted(self._ends, end, side="right")))
        return self._token_loop()

    def _add_character(self, character: str) -> None:
        digit = character.isdecimal()
        if digit and self._text[-1:].isdecimal():
            self._numbers[self._symbols.length - 1] += character
        else:
            if digit:
                self._numbers[self._symbols.length] = character
            self._starts.append(len(self._text))
            self._symbols.add(_NUMBER if digit else ord(character))
        self._text += character
        if character == "\n":
            line = self._text[self._line_starts[-1] :]
            self._lines.add(self._known_lines.setdefault(line, len(self._known_lines)))
            self._line_starts.append(len(self._text))

    def _text_loop(self) -> int | None:
        """Where the first unit of a loop ends in the text."""
        for lag, second in self._symbols.candidates(_LEAST):
            repeats = (self._symbols.length - second) // lag + 1
            start, stop = self._starts[second - lag], self._starts[second]
            values = self._values(second - lag, lag, repeats)
            if values is None:
                continue
            counts = bool((values[:, 1:] != values[:, :1]).any())
            if _is_loop(self._text[start:stop], repeats, has_numbers=len(values) > 0, counts=counts):
                return stop
        return None

    def _values(self, start: int, lag: int, repeats: int) -> NDArray[np.int64] | None:
        """The numbers of a unit (numbers, repeats); None where one of them neither stays nor counts in equal steps."""
        places = [i for i in range(start, start + lag) if i in self._numbers]
        # The last number may not be at its end.
        whole = repeats - 1
        rows = [[_value(self._numbers[i + lag * k]) for k in range(whole)] for i in places]
        values = np.array(rows, np.int64).reshape(len(places), whole)
        steps = np.diff(values, axis=1)
        return values if bool((steps == steps[:, :1]).all()) else None

    def _line_loop(self) -> int | None:
        for lag, second in self._lines.candidates(_LEAST):
            start, stop = self._line_starts[second - lag], self._line_starts[second]
            if stop - start > _LONGEST:
                return stop
        return None

    def _token_loop(self) -> int | None:
        for lag, second in self._tokens.candidates(100):
            if self._tokens.length - second + lag >= 400:
                # Of what the text shows as it is, the text decides.
                shown = self._text[self._ends[second - 1] :]
                return None if re.search(r"[^\d\ufffd]", shown) else second
        return None


def _is_loop(unit: str, repeats: int, *, has_numbers: bool, counts: bool) -> bool:
    """Whether so many repeats of a unit are too many; see the table above."""
    words = len(set(_WORD.findall(_TAG.sub(" ", unit))))
    together = len(unit) * repeats
    if counts:
        return repeats >= (100 if words < 5 else 64)
    if words >= 5:
        return repeats >= (32 if len(unit) <= 200 else 12)
    if words + has_numbers >= 2:
        return repeats >= 50
    if words + has_numbers == 1:
        return repeats >= 80 and together >= 400
    return repeats >= 100 and together >= 600


def _value(digits: str) -> int:
    """A number to compare; the end of one that is very long."""
    return int(digits[-15:])


def loop_in(ids: Sequence[int], texts: Sequence[str]) -> int | None:
    """How many tokens of a whole answer to keep where it loops; None where it does not.

    Args:
        ids: its tokens.
        texts: the text that each of them completes.
    """
    watch = LoopWatch()
    found = (watch.add(token, text) for token, text in zip(ids, texts, strict=True))
    return next((kept for kept in found if kept is not None), None)
