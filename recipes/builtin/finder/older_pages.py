"""Pages of the older generator (`synthetic.make`) as words, with those of its questions that are answered by words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.synthetic import PageConfig, make
from recipes.builtin.finder.pages import Asked, WordPage, WordSpan

_WIDTHS, _HEIGHTS = (304, 352, 400, 448, 496, 592), (144, 176, 208, 256, 304, 368, 432)
_READ = ("line", "read")
"""Kinds of questions for what is printed; one of a page is kept, and is for the model to answer."""
_ABSENT = "not found"


def older_page(rng: Random) -> WordPage:
    """The next page.

    Args:
        rng: the generator to draw from.
    """
    page = make(rng, PageConfig(width=rng.choice(_WIDTHS), height=rng.choice(_HEIGHTS)), mode="L", with_words=True)
    words = tuple(PageWord(word.text, *word.box) for word in page.words)
    questions = [(each.text, each.answer, each.kind) for each in page.questions]
    rng.shuffle(questions)
    return WordPage(words, tuple(_asked(questions, [word.text for word in words])), "older")


def _asked(questions: Sequence[tuple[str, str, str]], words: Sequence[str]) -> Iterator[Asked]:
    """The questions with the words of their answers; those left out whose answer does not stand there just once."""
    read = False
    for question, answer, sort in questions:
        if sort in _READ:
            if not read:
                yield Asked(question, "whole", answer, (), f"older-{sort}", sort)
            read = True
        elif answer == _ABSENT:
            yield Asked(question, "absent", answer, (), f"older-{sort}", sort)
        else:
            wanted = answer.split()
            found = [n for n in range(len(words) - len(wanted) + 1) if list(words[n : n + len(wanted)]) == wanted]
            if len(found) == 1:
                first, last = found[0], found[0] + len(wanted) - 1
                yield Asked(
                    question, "span", answer, (WordSpan(first, 0, last, len(words[last])),), f"older-{sort}", sort
                )
