"""Draw the natural pages; or the table of a file of answers to them.

python -m recipes.builtin.natural --out FOLDER
python -m recipes.builtin.natural --table FOLDER/answers.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipes.builtin.natural import SETS, write
from recipes.builtin.natural.table import read_answers, table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Ordinary pages with natural questions.")
    parser.add_argument("--out", type=Path, help="folder to draw pages and questions into")
    parser.add_argument("--set", choices=SETS, default="development", help="which set to draw")
    parser.add_argument("--table", type=Path, help="answers that rave-mlx evaluate wrote, to be summed up")
    options = parser.parse_args()
    if options.out is not None:
        print(write(options.set, options.out))
    if options.table is not None:
        print("\n".join(table(read_answers(options.table))))
    if options.out is None and options.table is None:
        sys.exit("say --out FOLDER or --table ANSWERS")


if __name__ == "__main__":
    main()
