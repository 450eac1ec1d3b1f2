"""Following an answer in the text of a page, character by character.

Only letters and digits count. What stands between them differs for good reasons: a page has line ends where its lines
are full, an answer has Markdown marks, HTML tags, JSON quotes and escapes. How the answer writes what parts words,
columns, lines and paragraphs is learnt from what it has written so far.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cached_property

from rave_mlx.generation.json_strings import JsonStrings, ValueStart
from rave_mlx.inputs.images.pdf_text import PageText

_GRAM = 4
"""Characters by which the page is looked up where the answer is not being followed."""
_FEWEST = 2
"""Characters that are enough close behind the place that was left."""
_NEAR = 240
_COMPARED = 48
_CANDIDATES = 24
_SOLID = 8
"""Characters in a row from which on a place is where the answer was, and no coincidence."""
_REMEMBERED = 6
_LONGEST_TAG = 80
_USUAL = {" ": " ", "\t": " ", "\n": "\n", "\n\n": "\n\n", "-\n": ""}
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, eq=False)
class PageIndex:
    """The text of a page, ready to be followed; may be shared by many answers.

    Attributes:
        text: as `inputs.images.pdf_text.PageText` has it: tabs between columns, empty lines between blocks.
        letters: its letters and digits, in lower case and compatibility form.
        at: where each of `letters` stands in `text`.
        layer: the text layer, where the text is one.
    """

    text: str
    letters: str
    at: tuple[int, ...]
    layer: PageText | None = None

    @classmethod
    def of(cls, page: str | PageText) -> PageIndex:
        """The index of a text layer, or of any text."""
        text = page if isinstance(page, str) else page.text
        pairs = [(letter, i) for i, character in enumerate(text) for letter in plain_letters(character)]
        letters = "".join(letter for letter, _ in pairs)
        return cls(text, letters, tuple(i for _, i in pairs), None if isinstance(page, str) else page)

    @cached_property
    def grams(self) -> dict[str, list[int]]:
        """For every `_GRAM` letters in a row, the indices after them, ascending."""
        found: dict[str, list[int]] = {}
        for i in range(_GRAM, len(self.letters) + 1):
            found.setdefault(self.letters[i - _GRAM : i], []).append(i)
        return found

    def gap(self, index: int) -> str:
        """What stands between letter `index` and the one before; behind the last letter, the rest."""
        start = self.at[index - 1] + 1 if index else 0
        return self.text[start : self.at[index] if index < len(self.at) else len(self.text)]

    def locate(self, tail: str, last: int) -> tuple[int, int]:
        """The place after the longest stretch that ends like `tail`: (index of the next letter, letters that match).

        Among equal ones the first behind `last` is taken. (0, 0) where there is none.
        """
        candidates = self.grams.get(tail[-_GRAM:], []) if len(tail) >= _GRAM else []
        if len(candidates) > _CANDIDATES:
            middle = bisect_left(candidates, last)
            candidates = candidates[max(0, middle - _CANDIDATES // 4) :][:_CANDIDATES]
        best = max(((self._match(tail, end), end >= last, -end) for end in candidates), default=None)
        if best is not None:
            return -best[2], best[0]
        short = tail[-_GRAM:]
        for size in range(min(len(short), _GRAM - 1), _FEWEST - 1, -1):
            found = self.letters.find(short[-size:], last, last + _NEAR)
            if found >= 0 and self.gap(found):
                return found + size, size
        return 0, 0

    def locate_words(self, letters: str) -> int | None:
        """The index after the first place where whole words have these letters; None where there is none."""
        at = self.letters.find(letters) if letters else -1
        while at >= 0:
            stop = at + len(letters)
            if stop < len(self.at) and self.gap(stop) and (at == 0 or self.gap(at)):
                return stop
            at = self.letters.find(letters, at + 1)
        return None

    def _match(self, tail: str, end: int) -> int:
        """How many letters before `end` are the last ones of `tail`."""
        size = 0
        while size < min(len(tail), end, _COMPARED) and tail[-1 - size] == self.letters[end - 1 - size]:
            size += 1
        return size


def plain_letters(character: str) -> str:
    """The letters and digits of a character in lower case, ligatures and width forms taken apart."""
    if character.isascii():
        return character.lower() if character.isalnum() else ""
    return "".join(c for c in unicodedata.normalize("NFKC", character).lower() if c.isalnum())


@dataclass(eq=False)
class Follower:
    """Where on a page an answer is.

    Attributes:
        page: the page's text.
        place: index of the letter that is expected next; None where the answer is not on the page.
        run: letters in a row that were those of the page.
        between: what the answer has written since its last letter.
        last: where the answer last was for certain, or where it is likely to begin.
        json: whether the answer is JSON, where quotes and line ends are escaped.
    """

    page: PageIndex
    place: int | None = 0
    run: int = 0
    between: str = ""
    last: int = 0
    json: bool = False
    _tail: str = ""
    _tag: str = ""
    _escape: str = ""
    _begun: str = ""
    _lost: bool = False
    _written: dict[str, deque[str]] = field(default_factory=dict)
    _strings: JsonStrings = field(default_factory=JsonStrings)
    _value: ValueStart | None = None
    _goes_on: dict[str, bool] = field(default_factory=dict)
    _opener: str = '": "'

    def add(self, text: str) -> None:
        """Follow what the answer goes on with."""
        for character in text:
            if len(self._begun) < 8 and not (self._begun == "" and character.isspace()):
                self._begun += character
                self.json = self._begun[0] in "{[" or self._begun.startswith("```json")
            self._add(character)

    def _add(self, character: str) -> None:
        if self._tag:
            self._tag += character
            self.between += character
            opened = len(self._tag) == 2 and not (character.isalpha() or character in "/!")
            if character in ">\n" or opened or len(self._tag) > _LONGEST_TAG:
                self._tag = ""
            return
        if self._escape:
            self._escape += character
            self.between += character
            if self._escape[1] != "u" or not self.json:
                self._escape = ""
            elif len(self._escape) == 6:
                code, self._escape = self._escape[2:], ""
                if re.fullmatch(r"[0-9a-fA-F]{4}", code):
                    self._follow(chr(int(code, 16)))
            return
        if character == "\\" and self.json:
            self._escape = character
        elif character == "<":
            self._tag = character
        if plain_letters(character):
            self._follow(character)
        else:
            self.between += character
        if self.json and (key := self._strings.add(character, self.place)) is not None:
            self._expect_value(key)

    def _expect_value(self, key: str) -> None:
        """The value of a key comes next: what stands beside the key's words, or what follows the value before."""
        before = self._strings.before
        place = self.last if before is None else before
        label = self.page.locate_words(key)
        goes_on = label is None or self._goes_on.get(key, False)
        self._value = ValueStart(key, label, place)
        self.place, self.run, self._lost = (place if goes_on or label is None else label), 0, False

    def _begin_value(self, letter: str) -> None:
        """The first letter of a value tells where it is."""
        assert self._value is not None
        value, self._value, self._opener = self._value, None, self.between
        at = self.page.letters
        beside = value.label is not None and at[value.label : value.label + 1] == letter
        following = at[value.following : value.following + 1] == letter
        if beside != following:
            self._goes_on[value.key] = following
            self.place = value.following if following else value.label

    @property
    def in_value(self) -> bool:
        """Whether a value of JSON is being written that stands on the page, or is about to be."""
        return self._value is not None or (self.place is not None and self.run > 0 and self._strings.is_open)

    def ends_value(self, place: int) -> bool:
        """Whether a string of JSON is likely to end before letter `place`: at the end of a cell or line."""
        split = _split(self.page.gap(place)) if self.json else None
        return split is not None and split[1] != " " and split[1] not in self._written

    def _follow(self, character: str) -> None:
        """A character with letters has come."""
        for letter in plain_letters(character):
            if self._value is not None:
                self._begin_value(letter)
            self._tail = (self._tail + letter)[-_COMPARED:]
            place = self.place
            if place is not None and place < len(self.page.letters) and self.page.letters[place] == letter:
                if self.run and len(self._tail) > 1:
                    self._learn(self.page.gap(place), self.between)
                self.place, self.run, self._lost = place + 1, self.run + 1, False
            else:
                if place is not None and self.run >= _SOLID:
                    self.last = place
                self.place, self.run, self._lost = None, 0, True
            self.between = ""

    def relocate(self) -> None:
        """Look for the place of the answer on the page, where it has left it."""
        if self.place is None and self._lost:
            self._lost = False
            place, size = self.page.locate(self._tail, self.last)
            if size:
                self.place, self.run = place, size

    def _learn(self, gap: str, written: str) -> None:
        """Note how the answer writes what parts words on the page."""
        if len(written) > _LONGEST_TAG:
            return
        if gap.strip():
            self._written.setdefault(gap, deque(maxlen=_REMEMBERED)).append(written)
        split = _split(gap)
        if split is None:
            return
        before, kind, after = self.escaped(split[0]), split[1], self.escaped(split[2])
        inner = written[len(before) : len(written) - len(after)]
        if written == before + inner + after and (kind != " " or inner.isspace()):
            self._written.setdefault(kind, deque(maxlen=_REMEMBERED)).append(inner)

    def upto(self, place: int) -> str:
        """What the answer still writes before letter `place`, which it writes next."""
        gap, begun = self.page.gap(place), self.between
        if not self._tail and place:  # the answer begins here
            return "" if begun else self.escaped(re.split(r"\s", gap)[-1])
        if self._value is not None:
            return self._opener[len(begun) :] if self._opener.startswith(begun) else ""
        found = self.expected(place, begun)
        if found.startswith(begun):
            return found[len(begun) :]
        split = _split(gap)
        return " " if split is not None and split[1] in " \t" and not begun[-1:].isspace() else ""

    def expected(self, place: int, begun: str = "") -> str:
        """What the answer writes between letter `place` and the one before.

        Args:
            place: index of the letter.
            begun: what it has written of that already.
        """
        gap = self.page.gap(place)
        known = self._usual(gap, begun) if gap in self._written and gap.strip() else ""
        if known.startswith(begun) and known:
            return known
        if gap == "-\n":
            return self._usual(gap, begun)
        split = _split(gap)
        if split is not None:
            before, after = self.escaped(split[0]), self.escaped(split[2])
            return before + self._usual(split[1], begun.removeprefix(before)) + after
        parts = re.split(r"(\s+)", gap)
        return "".join(self._usual(_kind(part), "") if part.isspace() else self.escaped(part) for part in parts)

    def _usual(self, gap: str, begun: str) -> str:
        """How the answer writes a gap, or one of the kinds that part words; one that it has begun before others."""
        written = self._written.get(gap)
        if not written:
            return "\\n" * gap.count("\n") if self.json and gap in ("\n", "\n\n") else _USUAL[gap]
        counted = Counter(written)
        return max(written, key=lambda text: (text.startswith(begun), counted[text], text == written[-1]))

    def escaped(self, text: str) -> str:
        """A text of the page as the answer writes it."""
        return text.replace("\\", "\\\\").replace('"', '\\"') if self.json else text


def _split(gap: str) -> tuple[str, str, str] | None:
    """What stands before, as and after the only space of a gap; None for none or several."""
    if gap == "-\n":
        return "", gap, ""
    found = list(_SPACE.finditer(gap))
    if len(found) != 1:
        return None
    return gap[: found[0].start()], _kind(found[0].group()), gap[found[0].end() :]


def _kind(space: str) -> str:
    """Which of the kinds that part words a stretch of white space is."""
    ends = space.count("\n")
    return "\n\n" if ends > 1 else "\n" if ends else "\t" if "\t" in space or len(space) > 1 else " "
