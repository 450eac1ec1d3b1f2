"""Exact match, ANLS and character error rate.

Where a question has several right answers, the best one counts.
"""

from __future__ import annotations

from collections.abc import Sequence

ANLS_THRESHOLD = 0.5
"""Below this similarity an answer is worth nothing (Biten et al., ICCV 2019)."""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


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
