"""What a file of answers to the natural questions comes to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rave_mlx.synthetic import ABSENT

SURE = 0.9
CLOSE = 0.8


def read_answers(file: Path) -> list[dict[str, Any]]:
    """The answers of a file that `rave-mlx evaluate --out` wrote."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "answer" in row]


def table(rows: Iterable[Mapping[str, Any]], by: str = "kind") -> list[str]:
    """Lines of a Markdown table.

    n, exact, exact or ANLS of 0.8, sure answers (certainty of 0.9 or more) and how many of those are right, answers
    "not found" that are wrong, and those of them that are sure.

    Args:
        rows: answers as `evaluate` writes them.
        by: the tag by which they are broken down.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {"all": []}
    for row in rows:
        groups["all"].append(row)
        groups.setdefault(row["tags"].get(by, "-"), []).append(row)
    out = [
        f"| {by} | n | exact | exact or ANLS >= {CLOSE} | sure | sure and right "
        "| wrong not found | sure wrong not found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in groups.items():
        close = [row["exact"] or row["anls"] >= CLOSE for row in found]
        sure = [row["certainty"] >= SURE for row in found]
        missed = [row["answer"].strip() == ABSENT and not right for row, right in zip(found, close, strict=True)]
        n = max(len(found), 1)
        out.append(
            f"| {name} | {len(found)} | {sum(row['exact'] for row in found) / n:.2f} | {sum(close) / n:.2f} "
            f"| {sum(sure)} | {sum(map(all, zip(sure, close, strict=True)))} | {sum(missed)} "
            f"| {sum(map(all, zip(sure, missed, strict=True)))} |"
        )
    return out
