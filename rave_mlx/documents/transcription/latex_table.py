r"""Tables that models write in LaTeX: `\begin{tabular}{|l|r|} a & b \\ \hline ... \end{tabular}`."""

from __future__ import annotations

import re

from rave_mlx.documents.transcription.table import Cell, Table, place_cells

_RULES = re.compile(r"\\(?:hline|toprule|midrule|bottomrule|cline\s*\{[^}]*\}|cmidrule\s*(?:\([^)]*\))?\s*\{[^}]*\})")
_MULTI = re.compile(r"\\multi(column|row)\s*\{\s*(\d{1,3})\s*\}\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}\s*")
_ESCAPED = re.compile(r"\\([%&$#_{}])")
TABULAR = re.compile(
    r"\\begin\s*\{(tabular\*?|array)\}\s*(?:\{[^{}]*\})?\s*\{(?:[^{}]|\{[^{}]*\})*\}(?P<body>.*?)(?:\\end\s*\{\1\}|\Z)",
    re.DOTALL,
)
"""A table; its body."""


def read_tabular(body: str) -> Table:
    """The table between `\\begin{tabular}{...}` and `\\end{tabular}`."""  # noqa: D301 - as LaTeX is written
    rows: list[list[Cell]] = []
    covered: dict[int, int] = {}
    for line in re.split(r"\\\\(?:\s*\[[^\]]*\])?", _RULES.sub("", body)):
        if not line.strip():
            continue
        cells, column = [], 0
        for part in re.split(r"(?<!\\)&", line):
            text, height, width = _read_cell(part.strip())
            # Below a cell of several rows LaTeX writes an empty one.
            if covered.get(column, 0) > 0 and not text:
                covered[column] -= 1
            else:
                cells.append(Cell(text, 0, 0, height, width))
                covered[column] = height - 1
            column += width
        rows.append(cells)
    return place_cells(rows)


def _read_cell(text: str) -> tuple[str, int, int]:
    """Text, rows and columns of a cell."""
    height = width = 1
    while match := _MULTI.match(text):
        if match[1] == "row":
            height = max(1, int(match[2]))
        else:
            width = max(1, int(match[2]))
        text = text[match.end() :].strip()
        if text.startswith("{") and text.endswith("}"):
            text = text[1:-1].strip()
    return plain_latex(text), height, width


def plain_latex(text: str) -> str:
    """Text without the commands that only change its looks; formulas stay as they are."""
    text = re.sub(r"\\(?:textbf|textit|emph|underline|text|mathbf|mathrm)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:centering|small|footnotesize|bfseries|itshape)\b\s*", "", text)
    return _ESCAPED.sub(r"\1", text).strip()
