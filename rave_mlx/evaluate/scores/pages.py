"""OmniDocBench (Ouyang et al. 2024): text, tables and formulas of a page in Markdown, matched and compared one by one.

As lmms-eval does it: elements are matched by edit distance over the whole page, whatever their order; what is not
matched counts as wrong. The benchmark's own code also splits and joins lines before it matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.metrics import edit_distance
from rave_mlx.evaluate.scores.markdown_elements import read_elements, true_elements
from rave_mlx.evaluate.scores.tables import check_tables, missing, teds, whole_html
from rave_mlx.evaluate.scores.text import Row

_MOST_COST = 0.7
"""Pairs that differ more are no match."""
_CONTENT_KEPT = ("text", "mathrm", "mathbf", "mathit", "mathsf", "mathcal", "mathbb", "boldsymbol", "textbf", "textit")
_LEFT_OUT = (
    r"\\hspace\{[^}]*\}", r"\\vspace\{[^}]*\}", r"\\tag\{[^}]*\}", r"\\label\{[^}]*\}", r"\\quad", r"\\qquad", r"\\,",
    r"\\;", r"\\!", r"\\ ",
)  # fmt: skip
Pair = tuple[int, int]


def page_score(answer: str, row: Row) -> Score:
    """Text, tables and formulas of a page: the mean of what it has; parts are weighted by characters, or tables."""
    true, said = true_elements(row["page"]), read_elements(answer)
    parts = {
        "text": _text_part(true["text"], said["text"], plain_text),
        "table": _table_part(true["table"], said["table"]),
        "formula": _text_part(true["formula"], said["formula"], plain_formula),
    }
    # A part that is there is possible by at least one point, or by characters that all fall away.
    shares = [points / possible if possible else 1.0 for kind, (points, possible) in parts.items() if true[kind]]
    return Score(sum(shares) / len(shares) if shares else 0.0, parts)


def plain_text(text: str) -> str:
    """Letters and digits in lower case with single spaces."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join("".join(c if c.isalnum() or _is_chinese(c) else " " for c in text).split())


def _is_chinese(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in _CHINESE)


_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def plain_formula(text: str) -> str:
    """LaTeX without environments, styles, spaces and labels, in lower case."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\\(?:begin|end)\{[^}]*\}", "", text)
    for command in _CONTENT_KEPT:
        text = re.sub(rf"\\{command}\{{([^}}]*)\}}", r"\1", text)
    for pattern in _LEFT_OUT:
        text = re.sub(pattern, " ", text)
    return " ".join(text.lower().split())


def _plain_html(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip().lower())


def _text_part(true: Sequence[str], said: Sequence[str], plain: Callable[[str], str]) -> tuple[float, float]:
    """Characters that are right, and of how many: of each pair the longer, of what has no partner all of it."""
    wanted, found = [plain(text) for text in true], [plain(text) for text in said]
    partner = dict(_matches(wanted, found))
    right, possible = 0, 0
    for number, text in enumerate(wanted):
        other = found[partner[number]] if number in partner else ""
        length = max(len(text), len(other))
        right += length - edit_distance(text, other)
        possible += length
    return float(right), float(possible)


def _table_part(true: Sequence[str], said: Sequence[str]) -> tuple[float, float]:
    """TEDS of the matched tables, and how many tables there are."""
    pairs = _matches([_plain_html(table) for table in true], [_plain_html(table) for table in said])
    return sum(_alike(said[b], true[a]) for a, b in pairs), float(len(true))


def _alike(answer: str, truth: str) -> float:
    """TEDS; of tables that are none to the parser, how alike their HTML is."""
    try:
        return max(0.0, min(1.0, teds(whole_html(answer), whole_html(truth))))
    except ValueError:
        said, true = _plain_html(answer), _plain_html(truth)
        return 1.0 - edit_distance(true, said) / max(len(true), len(said), 1)


def _matches(true: Sequence[str], said: Sequence[str]) -> list[Pair]:
    """The pairs whose differences are least all together, without those that differ too much."""
    if not true or not said:
        return []
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise missing("scipy") from None
    costs = np.array([[edit_distance(a, b) / max(len(a), len(b), 1) for b in said] for a in true])
    chosen = zip(*linear_sum_assignment(costs), strict=True)
    return [(int(a), int(b)) for a, b in chosen if costs[a, b] <= _MOST_COST]


def language(page: Mapping[str, Any]) -> str:
    """The language of a page as its annotation says: "en", "cn" or "mixed"."""
    said = ((page.get("page_info") or {}).get("page_attribute") or {}).get("language", "")
    names = {"chinese": "cn", "english": "en"}
    if (of_page := next((short for name, short in names.items() if name in said), None)) is not None:
        return of_page
    votes: dict[str, int] = {}
    for element in page.get("layout_dets", []):
        attribute = element.get("attribute") or {}
        said = attribute.get("text_language", "") or attribute.get("language", "")
        if (short := next((short for name, short in names.items() if name in said), None)) is not None:
            votes[short] = votes.get(short, 0) + 1
    return max(votes, key=lambda name: votes[name]) if votes else "mixed"


def check(row: Row | None) -> None:
    """See that what the measure needs is there, before hours of answers.

    Args:
        row: of the data set, all of which need the same.

    Raises:
        UsageError: naming what is missing.
    """
    del row
    check_tables()
    _matches(["a"], ["a"])
