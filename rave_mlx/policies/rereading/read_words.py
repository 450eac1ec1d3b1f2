"""The words of a picture, read line by line: what stands where, and how certain that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import Image

from rave_mlx.errors import RaveError
from rave_mlx.generation.job import Answer, Failed, Job
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.lines.cells import PageInk, split_into_cells
from rave_mlx.inputs.lines.line_crops import LineCrop, crop_lines, line_pictures
from rave_mlx.inputs.lines.line_words import word_spans
from rave_mlx.inputs.lines.page_lines import PageLine, find_lines
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_image
from rave_mlx.models.line_reader.reader import LineReader
from rave_mlx.models.lmm import LMM

_ROWS = 16
"""Lines that are read at a time."""
_OTHER_HEIGHTS, _SURE = (21.0, 14.0), 0.95
"""Heights in pixels in which a line is read again, where the mean probability of its letters is below `_SURE`."""


@dataclass(frozen=True)
class ReadWord:
    """A word that was read, its box in pixels of the level page, and the least probability of its letters."""

    word: PageWord
    certainty: float

    def moved_down(self, offset: float) -> ReadWord:
        """The word `offset` pixels further down, as on the second of two pages that are read as one."""
        word = self.word
        return replace(self, word=replace(word, top=word.top + offset, bottom=word.bottom + offset))


def printed_words(reader: LineReader, picture: Image.Image) -> tuple[ReadWord, ...]:
    """Find the printed lines of a page and have them read, cell by cell, by a reader of lines.

    Args:
        reader: of lines.
        picture: the page, upright.
    """
    page, ink = split_into_cells(find_lines(picture))
    out: list[ReadWord] = []
    for line, text in zip(page.lines, reader.read(line_pictures(page, reader.config.height)), strict=True):
        out += _placed(list(zip(text.words, text.certainties, strict=True)), line, ink)
    return tuple(out)


def read_words(lmm: LMM, picture: Image.Image, instruction: str, gate: bool | None) -> tuple[ReadWord, ...]:
    """Find the printed lines of a page and have them read, cell by cell, by the model itself.

    Args:
        lmm: the model.
        picture: the page, upright.
        instruction: what the model is asked of the picture of a line.
        gate: whether pair gates are used; None: where the model has any that do something.

    Raises:
        RaveError: where a line cannot be read; nothing is left out in silence.
    """
    page, ink = split_into_cells(find_lines(picture))
    crops = crop_lines(page)
    read = _answers(lmm, crops, instruction, gate)
    for height in _OTHER_HEIGHTS:
        doubtful = [number for number, answer in enumerate(read) if _sureness(answer) < _SURE]
        larger = crop_lines(page, height)
        again = _answers(lmm, [larger[number] for number in doubtful], instruction, gate)
        for number, answer in zip(doubtful, again, strict=True):
            read[number] = max(read[number], answer, key=_sureness)
    out: list[ReadWord] = []
    for first, behind in _lines(crops):
        answers = [answer for answer in read[first:behind] if answer.text.strip()]
        out += _placed([word for answer in answers for word in _certain_words(lmm, answer)], crops[first].line, ink)
    return tuple(out)


def _answers(lmm: LMM, crops: Sequence[LineCrop], instruction: str, gate: bool | None) -> list[Answer]:
    """What the model reads in each picture.

    Raises:
        RaveError: where one cannot be read.
    """
    scheduler = Scheduler(lmm, rows=_ROWS, prefix_bytes=0)
    out = []
    for answer in scheduler.run(_jobs(lmm, crops, instruction, gate)):
        if answer.error is not None:
            raise answer.error
        out.append(answer)
    return out


def _sureness(answer: Answer) -> float:
    """The mean probability of an answer's tokens, geometric; 0 for none."""
    found = answer.probabilities
    return 0.0 if found is None or not len(found) else float(np.exp(np.log(np.maximum(found, 1e-6)).mean()))


def _jobs(lmm: LMM, crops: Sequence[LineCrop], instruction: str, gate: bool | None) -> Iterator[Job | Failed]:
    """One job for each picture, its number for a key."""
    for number, crop in enumerate(crops):
        try:
            image = read_image(crop.picture, lmm.config.image)
            message = Message("user", (image, TextPart(instruction)))
            yield Job(lmm.prompt([message]), max_tokens=crop.most, gate=gate, key=number)
        except RaveError as error:
            yield Failed(error, number)


def _lines(crops: Sequence[LineCrop]) -> Iterator[tuple[int, int]]:
    """The pictures of each line: first, and behind the last."""
    bounds = [*(number for number, crop in enumerate(crops) if not crop.goes_on), len(crops)]
    yield from pairwise(bounds)


def _placed(words: Sequence[tuple[str, float]], line: PageLine, ink: PageInk) -> Iterator[ReadWord]:
    """The words of one line, each with its certainty, and where they stand."""
    if not words:
        return
    left, top, right, bottom = line.box
    part = ink.within(line.box)
    factor = (right - left) / max(1, part.shape[1])
    spans = word_spans(part, [text for text, _ in words])
    for (text, certainty), (first, behind) in zip(words, spans, strict=True):
        yield ReadWord(PageWord(text, left + first * factor, top, left + behind * factor, bottom), certainty)


def _certain_words(lmm: LMM, answer: Answer) -> Iterator[tuple[str, float]]:
    """The words of an answer, and of each the least probability of a token of it, the one behind it included."""
    stop, probabilities = set(lmm.config.tokens.stop), np.asarray(answer.probabilities)
    stream, text, ends = lmm.tokenizer.stream(), "", list[int]()
    for token in answer.ids:
        text += stream.finish() if token in stop else stream.add(token)
        ends.append(len(text))
    at = 0
    for word in text.split():
        at = text.index(word, at)
        first, last = np.searchsorted(ends, at, side="right"), np.searchsorted(ends, at + len(word), side="left") + 1
        yield word, float(probabilities[first : last + 1].min())
        at += len(word)
