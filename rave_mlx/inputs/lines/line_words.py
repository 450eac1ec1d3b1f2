"""Where the words of a line stand, whose text and ink are known: its white gaps are shared out among them."""

from __future__ import annotations

import numpy as np

from rave_mlx.inputs.lines.cells import stretches
from rave_mlx.inputs.lines.ink import Ink

_WIDEST, _GAIN = 1.5, 1.2
"""A gap counts for a space the more, the wider it is: up to so many line heights, with this weight."""
_PLAY, _LETTER = 0.35, 0.35
"""How far a word may be from the width that its letters would have: a share of it, and of the line's height."""


def word_spans(ink: Ink, words: list[str]) -> list[tuple[float, float]]:
    """First and last column of each word of a line, in pixels of its ink.

    Of the white gaps those are taken for spaces that are wide and leave every word about as wide as its letters; where
    there are too few, words are spread evenly.

    Args:
        ink: (height, width) marks of the line.
        words: of its text, from the left; not empty.
    """
    height, width = ink.shape
    if len(words) == 1 or not height or not width:
        return _even(width, words)
    gaps = [gap for gap in stretches(~np.asarray(ink.any(axis=0))) if gap[0] > 0 and gap[1] < width]
    spaces = len(words) - 1
    if len(gaps) < spaces:
        return _even(width, words)
    chosen = _choose(np.array(gaps, float), height, width, [len(word) for word in words])
    starts = [0.0, *(float(gap[1]) for gap in chosen)]
    ends = [*(float(gap[0]) for gap in chosen), float(width)]
    return list(zip(starts, ends, strict=True))


def _even(width: float, words: list[str]) -> list[tuple[float, float]]:
    """Every letter, and the space between two words, equally wide."""
    total, at, out = sum(map(len, words)) + len(words) - 1, 0, []
    for word in words:
        out.append((width * at / total, width * (at + len(word)) / total))
        at += len(word) + 1
    return out


def _choose(gaps: np.ndarray, height: int, width: int, letters: list[int]) -> np.ndarray:
    """The gaps (spaces, 2) that part the words best, by dynamic programming.

    Args:
        gaps: (n, 2) first and last column of each gap, n at least the number of spaces.
        height, width: of the line.
        letters: how many each word has.
    """
    spaces, wide = len(letters) - 1, gaps[:, 1] - gaps[:, 0]
    inked = width - np.sort(wide)[::-1][:spaces].sum()
    letter = max(1e-6, inked / sum(letters))
    gain = _GAIN * np.minimum(wide / height, _WIDEST)

    def misfit(pixels: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(((pixels - count * letter) / (_PLAY * count * letter + _LETTER * height)) ** 2)

    cost = misfit(gaps[:, 0], letters[0]) - gain
    came: list[np.ndarray] = []
    for count in letters[1:-1]:
        # (before, after): the word between two gaps, of which the first comes first.
        between = misfit(gaps[None, :, 0] - gaps[:, None, 1], count)
        between[np.tril_indices(len(gaps))] = np.inf
        total = cost[:, None] + between
        came.append(total.argmin(axis=0))
        cost = total.min(axis=0) - gain
    at = int((cost + misfit(width - gaps[:, 1], letters[-1])).argmin())
    picked = [at]
    for back in reversed(came):
        at = int(back[at])
        picked.append(at)
    return np.asarray(gaps[picked[::-1]])
