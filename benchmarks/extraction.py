"""How well fields of office documents are extracted: exact, certainty, box on the value, by field.

    python benchmarks/office_documents.py PAPERS --count 30
    python benchmarks/extraction.py run PAPERS ROWS [--adapter DIR]     # rave-mlx extract for each kind; goes on
    python benchmarks/extraction.py score PAPERS ROWS [OTHER_ROWS]      # Markdown tables

A value is exact when it equals the truth as the schema has it: text to the letter (white space apart), numbers by their
value, days as ISO dates; null where the paper does not have the field. A box is on the value when its middle lies in
the value's own box. Of a list, its rows are compared in order, cell by cell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from office_schemas import schema_of

KINDS = ("invoice", "statement", "claim")
SURE = 0.9


@dataclass(frozen=True)
class Found:
    """One field of one document, or one cell of a table: what is true and what was found.

    Attributes:
        name: of the field; of a list with its column.
        truth, value: as JSON values.
        certainty: of `value`.
        on: whether the box is on the value; None where there is no value, or no truth.
        page_two: whether the truth stands on the second page.
    """

    name: str
    truth: Any
    value: Any
    certainty: float
    on: bool | None
    page_two: bool = False

    @property
    def right(self) -> bool:
        """Whether the value is the truth."""
        if isinstance(self.truth, str) and isinstance(self.value, str):
            return " ".join(self.truth.split()) == " ".join(self.value.split())
        if isinstance(self.truth, int | float) and isinstance(self.value, int | float):
            return abs(self.truth - self.value) < 1e-9
        return bool(self.truth == self.value)


def compare(papers: Path, rows: Path) -> tuple[list[Found], int, int]:
    """Every field and cell; how many documents there are, and how many lists have as many rows as is true."""
    truths = {t["file"]: t for t in map(json.loads, (papers / "truth.jsonl").read_text("utf-8").splitlines())}
    found: list[Found] = []
    documents = lists = 0
    for kind in KINDS:
        file = rows / f"{kind}.jsonl"
        for line in file.read_text("utf-8").splitlines() if file.exists() else []:
            row = json.loads(line)
            truth = truths[Path(row["file"]).name]
            documents += 1
            found += _fields(row, truth)
            for name, items in truth["fields"].items():
                if isinstance(items, list):
                    given = (row["fields"] or {}).get(name)
                    lists += isinstance(given, list) and len(given) == len(items)
    return found, documents, lists


def _fields(row: dict[str, Any], truth: dict[str, Any]) -> Iterator[Found]:
    places = {place["field"]: place for place in truth["places"]}
    for name, value in truth["fields"].items():
        given = (row["fields"] or {}).get(name)
        if not isinstance(value, list):
            yield _found(name, name, value, given, places)
            continue
        cells = given if isinstance(given, list) else []
        for number, item in enumerate(value):
            for column, true in item.items():
                cell = cells[number][column] if number < len(cells) else None
                yield _found(f"{name}[].{column}", f"{name}.{number}.{column}", true, cell, places)


def _found(name: str, path: str, truth: Any, given: dict[str, Any] | None, places: dict[str, Any]) -> Found:
    given = given or {"value": None, "certainty": 0.0, "page": None, "box": None}
    place, on = places.get(path), None
    if given["value"] is not None and place is not None:
        on = given["box"] is not None and given["page"] == place["page"] and _holds(place["box"], given["box"])
    second = place is not None and place["page"] == 2
    return Found(name, truth, given["value"], given["certainty"], on, second)


def _holds(outer: list[float], inner: list[float]) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def share(marks: list[bool]) -> str:
    """How many of how many."""
    return f"{sum(marks)}/{len(marks)}" if marks else "–"


def table(papers: Path, rows: Path) -> str:
    """The measurement of one run as Markdown."""
    found, documents, lists = compare(papers, rows)
    single = [f for f in found if "[]" not in f.name]
    sure = [f for f in single if f.certainty >= SURE]
    nulls = [f for f in single if f.value is None]
    lines = [
        f"{documents} documents. Single fields exact: {share([f.right for f in single])}; of those that are there "
        f"{share([f.right for f in single if f.truth is not None])}, on the second page "
        f"{share([f.right for f in single if f.page_two])}; absent ones null "
        f"{share([f.right for f in single if f.truth is None])}.",
        f"Values with a certainty of {SURE} or more: {sum(f.value is not None for f in sure)} of "
        f"{len(single) - len(nulls)}; right {share([f.right for f in sure if f.value is not None])}. Nulls that are "
        f"right: {share([f.right for f in nulls])}; with such a certainty "
        f"{share([f.right for f in nulls if f.certainty >= SURE])}.",
        f"Box on the value, of right values: {share([f.on for f in single if f.right and f.on is not None])}; of all "
        f"values: {share([f.on for f in single if f.on is not None])}. Cells exact: "
        f"{share([f.right for f in found if '[]' in f.name])}; lists with the true number of rows: {lists}.",
        "",
        "| field | exact | sure and right | box on it |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(f.name for f in sorted(found, key=lambda f: "[]" in f.name)):
        own = [f for f in found if f.name == name]
        certain = [f.right for f in own if f.certainty >= SURE and f.value is not None]
        on = [f.on for f in own if f.right and f.on is not None]
        lines.append(f"| {name} | {share([f.right for f in own])} | {share(certain)} | {share(on)} |")
    return "\n".join(lines)


def run(papers: Path, rows: Path, more: list[str]) -> None:
    """`rave-mlx extract` over each kind of document."""
    rows.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        schema = rows / f"{kind}.json"
        schema.write_text(json.dumps(schema_of(kind)), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "from rave_mlx.cli.entry import run; run()",
            "extract",
            f"{papers}/*-{kind}.*",
            "--schema",
            str(schema),
        ]
        done = subprocess.run([*command, "--out", str(rows / f"{kind}.jsonl"), "--resume", *more], check=False)
        if done.returncode not in (0, 1):  # 1: some documents failed, their rows say why.
            sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "score"))
    parser.add_argument("papers", type=Path)
    parser.add_argument("rows", type=Path, nargs="+")
    given, more = parser.parse_known_args()
    if given.what == "run":
        run(given.papers, given.rows[0], more)
    else:
        print("\n\n".join(f"### {rows.name}\n\n{table(given.papers, rows)}" for rows in given.rows))


if __name__ == "__main__":
    main()
