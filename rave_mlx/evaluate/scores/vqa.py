"""VQA accuracy: how many of ten people gave this answer, after both are brought into one form (Goyal et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.scores.text import Row, texts

_AGREED = 3
"""People who must agree for a full point."""
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset(("a", "an", "the"))
_MARKS = ';/[]"{}()=+\\_-><@`?!'
_POINT = re.compile(r"\.(?!\d)")
_MOST_POINTS = 32
"""The published code takes no more full stops away."""
_SHORT_FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _misspelt() -> Iterator[tuple[str, str]]:
    """Short forms with one apostrophe left out, each with the form it stands for."""
    for form in _SHORT_FORMS.split():
        for place, mark in enumerate(form):
            if mark == "'":
                yield form[:place] + form[place + 1 :], form
    # The published table has this one the other way round.
    yield "somebody'd", "somebodyd"


_SPELT = dict(_misspelt())


def vqa_accuracy(answer: str, row: Row) -> Score:
    """Mean over the annotators of whether three of the others agree with the answer, a third of a point each."""
    said, truths = plain(answer), [plain(truth) for truth in texts(row["answers"])]
    points = []
    for index in range(len(truths)):
        others = truths[:index] + truths[index + 1 :]
        points.append(min(1.0, others.count(said) / _AGREED))
    return Score(sum(points) / len(points) if points else 0.0)


def plain(text: str) -> str:
    """An answer without case, articles and punctuation, with digits for small numbers and whole short forms."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = _POINT.sub("", _without_marks(text), count=_MOST_POINTS).lower().split()
    words = [_DIGITS.get(word, word) for word in words]
    return " ".join(_SPELT.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    """Marks beside a space are left out, others leave a space."""
    out = text
    for mark in _MARKS:
        out = out.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    return out
