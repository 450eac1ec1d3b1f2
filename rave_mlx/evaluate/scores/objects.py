"""Answers that are dictionaries: fields and values, charts, as OCRBench v2 reads them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from rave_mlx.evaluate.scores.tables import teds

_FENCE = re.compile(r"```(?:python|json)?\n(.*?)\n```", re.DOTALL | re.IGNORECASE)
_PAIR = re.compile(r"""["']?([\w\s]+)["']?\s*[:=]\s*["']?([^\n,"'{}]+)["']?""")
_ASSIGNED = re.compile(r"^\s*\w+\s*=\s*")
_COMMENT = re.compile(r"#.*")
_NOT_READ = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def read_fields(answer: str) -> dict[str, str]:
    """Fields that an answer names, from JSON, Python or lines as "name: value"; empty where there are none."""
    fenced = _FENCE.search(answer)
    content = fenced[1] if fenced else answer.strip()
    data = _parsed(content)
    if data is None:
        data = {name.strip(): value.strip() for name, value in _PAIR.findall(content)}
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        return {}
    return {name.strip(): str(value).strip() for name, value in data.items()}


def _parsed(content: str) -> Any:
    """What JSON or Python says; None for neither, an empty tuple for what is no dictionary."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    try:
        data = ast.literal_eval(content)
    except _NOT_READ:
        return None
    return data if isinstance(data, dict) else ()


def read_truth(text: str) -> dict[str, list[Any]]:
    """The right values of every field; several values of one field are alternatives.

    Raises:
        ValueError: for a data set whose answer is no dictionary.
    """
    text = text.strip('"')
    try:
        data = json.loads(text)
    except ValueError:
        data = ast.literal_eval(text)
        data = data if isinstance(data, dict) else ast.literal_eval(str(data))
    if not isinstance(data, dict):
        raise ValueError("no dictionary of fields")
    return {name: value if isinstance(value, list) else [value] for name, value in data.items()}


def fields_score(said: Mapping[str, str], true: Mapping[str, list[Any]]) -> float:
    """The share of fields, of both together, whose value is right but for case and white space."""
    points = []
    for name in dict.fromkeys((*said, *true)):
        values = [_even(value) for value in true.get(name, [None])]
        if name in said or values != [None]:
            points.append(float(name in said and _even(said[name]) in values))
    return sum(points) / len(points) if points else 0.0


def _even(value: Any) -> str | None:
    return None if value is None else str(value).lower().strip().replace("\n", " ").replace(" ", "")


def chart_score(answer: str, truth: str) -> float:
    """How alike two dictionaries are as tables of two columns (`teds`).

    Raises:
        ValueError: as of `teds`.
    """
    said = read_nested(answer)
    return teds(_as_table(said), _as_table(read_nested(truth))) if said else 0.0


def read_nested(answer: str) -> dict[Any, Any]:
    """A dictionary in Python's form, the longest that is fenced; empty where there is none."""
    fenced = _FENCE.findall(answer)
    content = max(fenced, key=len) if fenced else answer.strip()
    content = _COMMENT.sub("", _ASSIGNED.sub("", content.strip(), count=1))
    end = content.rfind("}")
    try:
        data = ast.literal_eval(content[: end + 1] if end >= 0 else content)
    except _NOT_READ:
        return {}
    return data if isinstance(data, dict) else {}


def _as_table(data: Mapping[Any, Any]) -> str:
    """A row for every name; the characters of a value stand apart, as in the published code."""
    rows = "".join(f"  <tr><td>{name}</td><td>{' '.join(str(value))}</td></tr>\n" for name, value in data.items())
    return f"<html><body><table>\n{rows}</table></body></html>"
