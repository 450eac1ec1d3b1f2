"""Measures of published benchmarks: each gives an answer to a row of the data set a score.

They give the numbers of the code that published figures are computed with (`tests/golden/benchmark_scores.json`), its
oddities included; each file names what it follows.
"""

from __future__ import annotations

from collections.abc import Callable

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.scores import choice, ocrbench_v2, pages, receipts, text, vqa
from rave_mlx.evaluate.scores.text import Row

SCORES: dict[str, Callable[[str, Row], Score]] = {
    "anls": text.anls,
    "relaxed": text.relaxed,
    "vqa_accuracy": vqa.vqa_accuracy,
    "contained": text.contained,
    "contained_without_points": text.contained_without_points,
    "equal": text.equal,
    "letter": choice.letter,
    "letter_or_words": choice.letter_or_words,
    "first_letter": choice.first_letter,
    "page": pages.page_score,
    "fields": receipts.fields,
    "ocrbench_v2": ocrbench_v2.ocrbench_v2,
}
"""Measures by the name that a benchmark's file gives: (answer, row of the data set) -> score."""

CHECKS: dict[str, Callable[[Row | None], None]] = {"page": pages.check, "ocrbench_v2": ocrbench_v2.check}
"""For measures that need further packages: raises UsageError where a row (None: any) needs one that is not there."""
