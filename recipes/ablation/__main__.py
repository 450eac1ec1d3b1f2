"""Runs the ablation and prints its table; see the package."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from recipes.ablation.runs import Budget, measure_start, run_all, the_start
from recipes.ablation.table import table
from recipes.ablation.train import Plan
from recipes.ablation.variants import SEVERAL, VARIANTS

WHOLE = Budget(Plan(2000, taught=0.6), (24, 48, 96), 160, tuple(VARIANTS), SEVERAL)
SMALL = Budget(
    Plan(900, taught=0.6),
    (24, 48, 96),
    64,
    ("none", "pair r=14", "lora", "wider", "sum", "frozen, pair r=14", "frozen, lora"),
    1,
)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.ablation", description="Does the pair gate help? Trains, measures, prints a table."
    )
    parser.add_argument("--out", type=Path, help="folder of the runs; the same command goes on where it was stopped")
    parser.add_argument(
        "--small",
        action="store_true",
        help="seven variants from a shorter start, one seed",
    )
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    given = parser.parse_args()
    budget = SMALL if given.small else WHOLE
    out = given.out or Path("runs") / ("ablation-small" if given.small else "ablation")
    torch.set_num_threads(given.threads)
    os.nice(10)  # Hours of work: whatever else runs on the machine goes first.
    begun = time.monotonic()

    def report(line: str) -> None:
        print(f"[{(time.monotonic() - begun) / 60:6.1f} min] {line}", flush=True)

    outcomes = run_all(out, budget, report)
    print(table(outcomes, measure_start(the_start(out, budget.start, report), budget)))


if __name__ == "__main__":
    main()
