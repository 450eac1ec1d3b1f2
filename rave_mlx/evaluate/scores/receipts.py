"""Fields of receipts: F1 over all fields that were read and that are there (CORD, as the code of Donut counts them)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.scores.text import Row


def fields(answer: str, row: Row) -> Score:
    """Fields of a receipt that were read right, against all that were read or should have been.

    A field is a name with a value; a wrong value is one read too much and one missed.
    """
    said, true = Counter(flat(read_object(answer))), Counter(flat(json.loads(row["ground_truth"])["gt_parse"]))
    hits = (said & true).total()
    errors = (said - true).total() + (true - said).total()
    possible = hits + errors / 2
    return Score(hits / possible if possible else 1.0, {"": (float(hits), possible)})


def read_object(answer: str) -> Any:
    """The JSON object that an answer holds, from its first brace to its last; empty where there is none."""
    first, last = answer.find("{"), answer.rfind("}")
    try:
        return json.loads(answer[first : last + 1]) if first >= 0 else {}
    except (ValueError, RecursionError):
        return {}


def flat(value: Any) -> list[tuple[str, str]]:
    """Names and values of all fields, names of inner ones after those around them; empty ones are left out."""
    return _flat(_even(value), "")


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [f for key, inner in value.items() for f in _flat(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [field for inner in value for field in _flat(inner, name)]
    return [(name, value)]


def _even(value: Any) -> Any:
    """Every value as text in a list, without what is empty; a list of mixed things keeps its texts and numbers."""
    if not value:
        return {}
    if isinstance(value, dict):
        inner = {str(key): _even(each) for key, each in value.items()}
        return {key: each if isinstance(each, list) else [each] for key, each in inner.items() if each}
    if not isinstance(value, list):
        return [str(value).strip()]
    if all(isinstance(each, dict) for each in value):
        return [even for each in value if (even := _even(each))]
    return [str(each).strip() for each in value if type(each) in (str, int, float) and str(each).strip()]
