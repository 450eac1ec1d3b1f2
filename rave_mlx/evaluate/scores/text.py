"""Scores of short answers as text: DocVQA's ANLS, ChartQA's relaxed accuracy, what an answer has to contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.metrics import edit_distance

Row = Mapping[str, Any]
_LEAST_SIMILARITY = 0.5
_TOLERANCE = 0.05
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
"""Full-width forms of ASCII, and the ideographic space, as plain ASCII."""
_SPACED_KIND = "HME100k"
"""Formulas of OCRBench, in which neither case nor spaces are evened out as elsewhere."""


def texts(value: Any) -> list[str]:
    """A column that holds one text or several, as a list."""
    return [value] if isinstance(value, str) else [str(each) for each in value]


def anls(answer: str, row: Row) -> Score:
    """Similarity to the closest right answer from 0.5 on (Biten et al., ICCV 2019), as lmms-eval counts it.

    Case and white space are evened out for the distance, not for the length that it is divided by.
    """
    return Score(_similarity(answer, texts(row["answers"])))


def _similarity(answer: str, truths: Sequence[str]) -> float:
    found = _even(answer)
    losses = []
    for truth in truths:
        length = max(len(truth.upper()), len(answer.upper()))
        losses.append(edit_distance(_even(truth), found) / length if length else 0.0)
    similarity = 1 - min(losses)
    return similarity if similarity >= _LEAST_SIMILARITY else 0.0


def _even(text: str) -> str:
    return " ".join(text.lower().split())


def relaxed(answer: str, row: Row) -> Score:
    """Within 5 % of a number, equal but for case to a text (Masry et al. 2022, section 5.1)."""
    truth = str(row["answer"])
    said, wanted = _number(answer), _number(truth)
    if said is not None and wanted:
        return Score(float(abs(said - wanted) / abs(wanted) <= _TOLERANCE))
    return Score(float(answer.lower() == truth.lower()))


def _number(text: str) -> float | None:
    """A number, or a percentage as a share."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def contained(answer: str, row: Row) -> Score:
    """Whether one of the right answers occurs in the answer (OCRBench)."""
    if row["dataset"] == _SPACED_KIND:
        said = answer.strip().replace("\n", " ").replace(" ", "")
        return Score(float(any(t.strip().replace("\n", " ").replace(" ", "") in said for t in texts(row["answer"]))))
    said = _folded(answer.strip())
    return Score(float(any(_folded(truth) in said for truth in texts(row["answer"]))))


def _folded(text: str) -> str:
    return text.translate(_WIDE).lower().strip().replace("\n", " ")


def contained_without_points(answer: str, row: Row) -> Score:
    """Whether the right answer occurs in the answer, full stops left out (MTVQA)."""
    said, truth = (text.strip().lower().replace(".", "") for text in (answer, str(row["answer"])))
    return Score(float(truth in said))


def equal(answer: str, row: Row) -> Score:
    """Whether the answer is the right word, case and white space around it apart (POPE)."""
    return Score(float(answer.lower().strip() == str(row["answer"]).lower().strip()))
