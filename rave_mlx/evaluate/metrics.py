"""Exact match, ANLS and character error rate.

Where a question has several right answers, the best one counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

ANLS_THRESHOLD = 0.5
"""Below this similarity an answer is worth nothing (Biten et al., ICCV 2019)."""


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance of two texts, or of two rows of anything: insertions, deletions and substitutions.

    A column of the table is kept as bits that say where it rises and falls (Myers 1999, Hyyrö 2003), so that whole
    pages are compared at once.
    """
    if not a:
        return len(b)
    places: dict[Hashable, int] = {}
    for i, x in enumerate(a):
        places[x] = places.get(x, 0) | 1 << i
    last, distance = 1 << (len(a) - 1), len(a)
    full = 2 * last - 1
    rises, falls = full, 0
    for y in b:
        equal = places.get(y, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        up = falls | (full & ~(diagonal | rises))
        down = rises & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & full, (down << 1) & full
        rises = down | (full & ~(diagonal | up))
        falls = up & diagonal
    return distance


def exact(answer: str, truths: Sequence[str]) -> bool:
    """Whether the answer is one of the right ones, character by character; white space around it does not count."""
    return answer.strip() in {truth.strip() for truth in truths}


def anls(answer: str, truths: Sequence[str]) -> float:
    """Normalized Levenshtein similarity of one answer, of which ANLS is the average (Biten et al., ICCV 2019).

    Case and runs of white space are ignored.
    """
    return max(_similarity(_plain(answer), _plain(truth)) for truth in truths)


def _plain(text: str) -> str:
    """In lower case, with single spaces."""
    return " ".join(text.lower().split())


def _similarity(answer: str, truth: str) -> float:
    """1 for equal texts; 0 below the threshold."""
    loss = edit_distance(answer, truth) / max(len(answer), len(truth), 1)
    return 1 - loss if loss < ANLS_THRESHOLD else 0.0


def character_errors(answer: str, truths: Sequence[str]) -> tuple[int, int]:
    """Character errors against the closest right answer, and its length; sums of both give the error rate."""
    answer = answer.strip()
    return min((edit_distance(answer, truth.strip()), len(truth.strip())) for truth in truths)
