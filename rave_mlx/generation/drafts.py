"""Guesses of how an answer goes on, for exact speculative decoding: what is guessed wrong is not written.

A digital PDF already holds the text that a model reads off its picture. `TextDrafts` follows the answer in it and
guesses the text that comes next; `LookupDrafts` guesses what followed the last few tokens when they stood in the prompt
or the answer before (prompt lookup decoding: Saxena, 2023); `DraftChain` asks several sources in turn.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import takewhile

from rave_mlx.generation.job import DraftSource
from rave_mlx.generation.page_alignment import Follower, PageIndex
from rave_mlx.inputs.images.pdf_text import Box, PageText
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.inputs.prompt.tokenizer import TextStream, Tokenizer

_SPACE = re.compile(r"\s")
_WEAK = 4
"""Tokens that are guessed from a place that only a few letters speak for."""
_FIRM = 12
"""Letters in a row from which on as many tokens are guessed as are asked for."""
_TAIL = 48
"""Characters of the answer that are tokenized along with a guess, so that its first token is the right one."""
_LONGEST = 64
_PATIENCE = 8
"""Most tokens for which a source that guesses wrong again and again keeps silent."""


class Pace:
    """How often and how much a source guesses: more after guesses that were right, less after wrong ones."""

    def __init__(self) -> None:
        self._guess: list[int] = []
        self._at = 0
        self._silent_until = 0
        self._wrong = 0
        self._most = 16

    def room(self, answer: Sequence[int], most: int, *, firm: bool) -> int:
        """How many tokens may be guessed now; learns from what became of the guess before.

        Args:
            answer: the answer so far.
            most: how many are asked for.
            firm: whether there is good reason for the guess; then it is made even if those before were wrong.
        """
        if self._guess and len(answer) > self._at:
            came = answer[self._at : self._at + len(self._guess)]
            right = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self._guess, came, strict=False))))
            self._wrong = 0 if right else self._wrong + 1
            self._most = min(_LONGEST, self._most * 2) if right == len(self._guess) else max(_WEAK, right + 1)
            self._silent_until = len(answer) + (min(_PATIENCE, 1 << self._wrong - 2) if self._wrong > 1 else 0)
            self._guess = []
        return 0 if not firm and len(answer) < self._silent_until else min(most, self._most)

    def guessed(self, answer: Sequence[int], guess: list[int]) -> list[int]:
        """Remember a guess; returns it."""
        self._guess, self._at = guess, len(answer)
        return guess


class TextDrafts:
    """Guesses an answer from the text layer of the page that is read.

    Args:
        tokenizer: of the model.
        page: the page's text layer, any text, or the index of one, which several answers about a page may share.
        part: the part of the page that is read, in fractions of it: the answer is likely to begin with the text there,
            and to end with it. None: not known.
        stop: id that ends an answer; guessed at the end of that part.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        page: str | PageText | PageIndex,
        *,
        part: Box | None = None,
        stop: int | None = None,
    ):
        self._tokenizer, self._stop = tokenizer, stop
        self._page = page if isinstance(page, PageIndex) else PageIndex.of(page)
        self._end = len(self._page.at)
        self._begin: int | None = None
        inside = None if part is None or self._page.layer is None else self._page.layer.inside(part)
        if inside is not None:
            self._begin, self._end = (bisect_left(self._page.at, place) for place in inside)
        self._restart()

    def _restart(self) -> None:
        self._stream: TextStream = self._tokenizer.stream()
        self._follower = Follower(self._page)
        if self._begin is not None:
            self._follower = Follower(self._page, self._begin, _FIRM, last=self._begin)
        self._pace = Pace()
        self._seen: list[int] = []
        self._tail = ""

    def draft(self, answer: Sequence[int], most: int) -> list[int]:
        """At most `most` ids that may follow the answer so far (ids)."""
        if self._seen and (len(answer) < len(self._seen) or answer[len(self._seen) - 1] != self._seen[-1]):
            self._restart()
        for index in answer[len(self._seen) :]:
            self._seen.append(index)
            text = self._stream.add(index)
            self._follower.add(text)
            self._tail = (self._tail + text)[-_TAIL:]
        follower = self._follower
        follower.relocate()
        firm = follower.place is not None and follower.run >= _FIRM
        room = self._pace.room(answer, most, firm=firm or follower.in_value)
        place = follower.place if follower.place is not None else self._resumed()
        if room < 1 or place is None or not self._page.letters:
            return []
        if not firm:
            room = min(room, max(_WEAK, follower.run))
        end = self._end if place <= self._end else len(self._page.at)
        text = self._continuation(place, end, 6 * room + 24)
        guess = self._tokens(text, room)
        if self._stop is not None and self._begin is not None and len(guess) < room and end == self._end:
            guess.append(self._stop)
        return self._pace.guessed(answer, guess)

    def _resumed(self) -> int | None:
        """The place that was left, where the answer begins something new: a JSON string, a cell, a line."""
        between = self._follower.between.rstrip(" ")
        return self._follower.last if between and between[-1] in '"|>\n' else None

    def _continuation(self, place: int, end: int, length: int) -> str:
        """About `length` characters of what the answer writes next, if it goes on with letter `place` of the page.

        Args:
            place: index of the letter.
            end: index of the letter before which the text ends.
            length: how much is needed; less at the end.
        """
        follower, page = self._follower, self._page
        if place >= end:
            rest, begun = follower.escaped(_SPACE.split(page.gap(end), maxsplit=1)[0]), follower.between
            return rest[len(begun) :] if rest.startswith(begun) else ""
        parts = [follower.upto(place)]
        size = len(parts[0])
        while place < end and size < length:
            # A ligature of the page stands for several letters.
            stop = place + 1
            while stop < end and page.at[stop] == page.at[place]:
                stop += 1
            parts.append(page.text[page.at[place]])
            if follower.ends_value(stop):
                parts.append(follower.escaped(_SPACE.split(page.gap(stop), maxsplit=1)[0]) + '"')
                return "".join(parts)
            if stop < end:
                parts.append("" if page.at[stop] == page.at[place] + 1 else follower.expected(stop))
            else:  # of what comes after the last letter only what belongs to it
                parts.append(follower.escaped(_SPACE.split(page.gap(stop), maxsplit=1)[0]))
            size += len(parts[-1]) + len(parts[-2])
            place = stop
        return "".join(parts)

    def _tokens(self, text: str, most: int) -> list[int]:
        """The first tokens of a text that follows the answer, as the model would write them."""
        if not text:
            return []
        tail = self._tail[_word_start(self._tail) :]
        ids, starts = self._tokenizer.encode(tail + text, first=False)
        if len(tail) in starts:
            return ids[starts.index(len(tail)) :][:most]
        # The answer's last token is only a part of what the tokenizer would write here.
        return self._tokenizer.encode(text, first=False)[0][:most]


def _word_start(text: str) -> int:
    """Where the space before the second word from the end begins, or 0."""
    start = len(text.rstrip())
    for _ in range(2):
        start = len(text[:start].rstrip())
        while start > 0 and not text[start - 1].isspace():
            start -= 1
    return len(text[:start].rstrip())


class LookupDrafts:
    """Guesses what followed the answer's last tokens when they last stood in the prompt or in the answer.

    Args:
        prompt: of the answer; what its images became is left out.
        longest: tokens in a row by which is looked first.
        shortest: fewest that count.
    """

    def __init__(self, prompt: Prompt | None = None, *, longest: int = 4, shortest: int = 2):
        visual = [] if prompt is None else prompt.token_map.visual.tolist()
        ids = [] if prompt is None else prompt.ids[0].tolist()
        self._tokens = [-1 if seen else index for index, seen in zip(ids, visual, strict=True)]
        self._read = len(self._tokens)
        self._sizes = range(longest, shortest - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}
        self._pace = Pace()
        for end in range(1, len(self._tokens)):
            self._note(end)

    def draft(self, answer: Sequence[int], most: int) -> list[int]:
        """At most `most` ids that may follow the answer so far (ids)."""
        room = self._pace.room(answer, most, firm=False)
        for index in answer[len(self._tokens) - self._read :]:
            self._tokens.append(index)
            self._note(len(self._tokens) - 1)
        if room < 1:
            return []
        for size in self._sizes:
            start = self._after.get(tuple(self._tokens[len(self._tokens) - size :]))
            if start is not None:
                guess = self._tokens[start : start + (room if size > 2 else min(room, _WEAK))]
                return self._pace.guessed(answer, list(takewhile(lambda index: index >= 0, guess)))
        return []

    def _note(self, end: int) -> None:
        """Remember what comes after the tokens before `end`, which is a token already."""
        for size in self._sizes:
            if end >= size:
                self._after[tuple(self._tokens[end - size : end])] = end


class DraftChain:
    """The guess of the first source that has one.

    Args:
        sources: the most reliable first.
    """

    def __init__(self, *sources: DraftSource):
        self._sources = sources

    def draft(self, answer: Sequence[int], most: int) -> list[int]:
        """At most `most` ids that may follow the answer so far (ids)."""
        for source in self._sources:
            if guess := source.draft(answer, most):
                return guess
        return []
