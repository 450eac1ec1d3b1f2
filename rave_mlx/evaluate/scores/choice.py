"""Scores of multiple choice: which letter an answer means, as lmms-eval reads it."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.scores.text import Row

LETTERS = "ABCD"
_EDGE = ",.!?;:'\""
_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
_AT_START, _AT_END, _PHRASE, _ANYWHERE = 10, 9, 7, 0
_MARKED = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""Ways to write a letter, and what each is worth against the others."""
_FIRST = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def chosen_letter(answer: str, letters: str = LETTERS) -> str:
    """The letter that an answer means; "" where there is none.

    The surest way of writing counts: a letter at the start, then one at the end, after a phrase as "the answer is", in
    parentheses, before a mark, anywhere. Of several written in one way, the last counts.
    """
    text = answer.strip()
    for mark in _EDGE:
        text = text.strip(mark)
    found = list(_candidates(f" {text} ", letters)) if text.strip() else []
    if not found:
        found = [(_ANYWHERE, f" {text} ".rfind(each), each) for each in letters if each in text]
    best = max(found, key=lambda each: each[:2], default=None)
    return best[2] if best else ""


def _candidates(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    """Worth, place and letter of everything that looks like a choice; of equals, the first counts."""
    inner, lower = text.strip(), text.lower()
    for form, worth in _MARKED:
        for each in letters:
            if (place := text.rfind(form.format(each))) >= 0:
                yield worth, place, each
    for phrase in _PHRASES:
        if (place := lower.find(phrase)) >= 0:
            for each in letters:
                if (behind := text.find(each, place + len(phrase))) >= 0:
                    yield _PHRASE, behind, each
    for each in letters:
        if inner.startswith(each) and not inner[1:2].isalpha():
            yield _AT_START, 0, each
    for each in letters:
        if inner.endswith(each) and not inner[-2:-1].isalpha():
            yield _AT_END, len(text) - 1, each


def letter(answer: str, row: Row) -> Score:
    """Whether the right letter is meant (MMStar); one part for each of its finer categories."""
    value = float(chosen_letter(answer) == str(row["answer"]).strip().upper())
    return Score(value, {str(row["l2_category"]): (value, 1.0)})


def letter_or_words(answer: str, row: Row) -> Score:
    """Whether the right letter is meant, or where the answer is no letter, the right words are given (RealWorldQA)."""
    truth = str(row["answer"]).strip()
    if truth.upper() in tuple(LETTERS):
        return Score(float(chosen_letter(answer) == truth.upper()))
    return Score(float(answer.lower().strip().rstrip(".") == truth.lower()))


def first_letter(answer: str, row: Row) -> Score:
    """Whether the answer is the right letter, or begins with it and a full stop (AI2D)."""
    first = _FIRST.match(answer)
    said = (first[1] if first else answer).lower().translate(_NO_PUNCTUATION)
    return Score(float(said == option_letter(row).lower()))


def option_letter(row: Row) -> str:
    """The letter of the right option, whose number the data set gives."""
    return string.ascii_uppercase[int(row["answer"])]
