"""The ablation as a picture: exact answers about full pages, a dot for each run, a bar for the mean of a variant.

python -m recipes.ablation.picture --runs docs/evidence-runs.jsonl.gz --out docs/evidence.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from recipes.ablation.pages import DENSE
from recipes.ablation.runs import Outcome, outcomes
from recipes.ablation.table import by_name, page_scores

ROW, LEFT, WIDTH, TOP = 20, 210, 520, 44
LOW, HIGH = 0.0, 1.0
COLOURS = {"pair": "#1f6feb", "lora": "#bc4c00", "other": "#57606a"}


def picture(runs: Sequence[Outcome]) -> str:
    """An SVG of the runs, a row for each variant in the order in which they first come."""
    groups = by_name(runs)
    height = TOP + ROW * len(groups) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{LEFT + WIDTH + 90}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="14" fill="#1f2328">{escape("Exact answers about full pages")}</text>',
    ]
    for tick in np.arange(0.2, 1.01, 0.2):
        x = _x(float(tick))
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 24}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle" fill="#57606a">{tick:.1f}</text>')
    for row, (name, found) in enumerate(groups.items()):
        parts += _row(name, [float(page_scores(run, DENSE).mean()) for run in found], TOP + ROW * row + ROW // 2)
    return "\n".join([*parts, "</svg>", ""])


def _row(name: str, shares: Sequence[float], y: int) -> list[str]:
    """A variant: its name, the bar of its mean, the dots of its runs, and the mean as a number."""
    kind = "pair" if "pair" in name else "lora" if "lora" in name else "other"
    colour, mean = COLOURS[kind], sum(shares) / len(shares)
    return [
        f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#1f2328">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y - 5}" width="{_x(mean) - LEFT:.1f}" height="10" fill="{colour}" opacity="0.25"/>',
        *(f'<circle cx="{_x(share):.1f}" cy="{y}" r="3" fill="{colour}"/>' for share in shares),
        f'<text x="{LEFT + WIDTH + 8}" y="{y + 4}" fill="#1f2328">{mean:.3f}</text>',
    ]


def _x(share: float) -> float:
    return round(LEFT + WIDTH * (share - LOW) / (HIGH - LOW), 1)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description="Draws the runs of the ablation.")
    parser.add_argument("--runs", type=Path, required=True, help="runs.jsonl of the ablation")
    parser.add_argument("--out", type=Path, required=True, help="SVG to write")
    given = parser.parse_args()
    given.out.write_text(picture(outcomes(given.runs)), encoding="utf-8")


if __name__ == "__main__":
    main()
