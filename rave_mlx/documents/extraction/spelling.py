"""A letter that was misread is put right from the text layer: where a digital page itself says almost the same."""

from __future__ import annotations

import difflib
import re

from rave_mlx.inputs.images.pdf_text import Box, PageText

ALIKE = 0.86
"""How alike an answer and the page's text must be, as `difflib` measures it: one letter in seven may differ."""
_LEAST = 4
"""Characters of an answer that is put right; of shorter ones too much is alike."""


def respelled(answer: str, page: PageText | None, part: Box) -> str:
    """An answer as the page's text layer spells it; as it is where the layer says nothing that is like it, or several.

    Args:
        answer: in one line.
        page: the text layer of the page, None where it has none.
        part: what the model was shown, in fractions of the page.
    """
    if page is None or len(answer) < _LEAST or re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", page.text):
        return answer
    size = len(answer.split())
    best: dict[str, float] = {}
    for start, stop in page.lines():
        words = [match.span() for match in re.finditer(r"\S+", page.text[start:stop])]
        for first in range(len(words)):
            for last in range(first + max(1, size - 1), min(len(words), first + size + 1) + 1):
                span = start + words[first][0], start + words[last - 1][1]
                text = " ".join(page.text[slice(*span)].split())
                if abs(len(text) - len(answer)) <= 0.2 * len(answer) and _inside(page.box(*span), part):
                    ratio = difflib.SequenceMatcher(None, answer, text, autojunk=False).ratio()
                    if ratio >= ALIKE:
                        best[text] = max(ratio, best.get(text, 0.0))
    ranked = sorted(best.items(), key=lambda item: -item[1])
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return answer
    return ranked[0][0]


def _inside(box: Box | None, part: Box) -> bool:
    """Whether the middle of a box lies in a part of the page."""
    if box is None:
        return False
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return part[0] <= x <= part[2] and part[1] <= y <= part[3]
