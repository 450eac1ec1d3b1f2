"""Question and page as word pieces: what a finder reads."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from rave_mlx.errors import ModelError
from rave_mlx.inputs.lines.page_words import PageWord, arrange
from rave_mlx.models.finder.network import SIZE_EDGES, FinderInput

_CLS, _SEP = "[CLS]", "[SEP]"
IN_CELL, NEXT_CELL, NEXT_ROW = 1, 2, 3
"""A piece in the middle of a cell, the first of a further cell of a row, the first of a row."""
_LONGEST_QUESTION = 60
"""Word pieces of a question that are read."""


@dataclass(frozen=True)
class Piece:
    """A word piece of a page.

    Attributes:
        id: of the piece.
        word: number of the word that it is a part of.
        start, end: its characters of that word.
        place: row, left and right side, in word heights.
        size: class of its height, from 1.
        starts: `IN_CELL`, `NEXT_CELL` or `NEXT_ROW`.
    """

    id: int
    word: int
    start: int
    end: int
    place: tuple[float, float, float]
    size: int
    starts: int


class WordPieces:
    """The tokenizer of a finder.

    Args:
        file: its `tokenizer.json`.

    Raises:
        ModelError: when that is missing, or no tokenizer with the tokens of BERT.
    """

    def __init__(self, file: Path):
        if not file.is_file():
            raise ModelError(f"{file}: is missing; download or convert the model again")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
            raise ModelError(f"{file}: is no tokenizer ({error}); download or convert the model again") from None
        ids = [self._tokenizer.token_to_id(name) for name in (_CLS, _SEP)]
        if None in ids:
            raise ModelError(f"{file}: has no {_CLS} or no {_SEP}; it is not the tokenizer of a finder")
        self._cls, self._sep = ids

    @property
    def size(self) -> int:
        """Pieces of the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def page(self, words: Sequence[PageWord]) -> list[Piece]:
        """The pieces of a page's words, in the order of reading."""
        out = []
        for placed in arrange(words):
            encoded = self._tokenizer.encode(words[placed.number].text, add_special_tokens=False)
            place, size = (placed.row, placed.left, placed.right), bisect.bisect(SIZE_EDGES, placed.height) + 1
            for count, (piece, (start, end)) in enumerate(zip(encoded.ids, encoded.offsets, strict=True)):
                starts = IN_CELL if count else placed.starts + 1
                out.append(Piece(piece, placed.number, start, end, place, size, starts))
        return out

    def question(self, text: str) -> list[int]:
        """The pieces of a question."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[:_LONGEST_QUESTION]

    def join(self, question: Sequence[int], page: Sequence[Piece]) -> FinderInput:
        """What the network reads: the question and pieces of a page."""
        start = len(question) + 2
        ids = np.array([self._cls, *question, self._sep, *(p.id for p in page), self._sep], np.int32)
        places, sizes, starts = np.zeros((len(ids), 3), np.float32), np.zeros_like(ids), np.zeros_like(ids)
        for index, piece in enumerate(page, start):
            places[index], sizes[index], starts[index] = piece.place, piece.size, piece.starts
        return FinderInput(ids, places, sizes, starts, start)
