"""Measure a run on pages that are asked by meaning, and on the natural pages; or export it as a rave directory.

    python -m recipes.builtin.measure --run RUN --pages 60
    python -m recipes.builtin.measure --run RUN --natural FOLDER        # drawn by recipes.builtin.natural --out FOLDER
    python -m recipes.builtin.measure --run RUN --export RAVE_DIR       # then: rave-mlx evaluate --model RAVE_DIR ...
    python -m recipes.builtin.measure --run RUN --blend 0.7 --export RAVE_DIR

`--blend` takes the mean of the run's weights and those it started from, so many parts of the former: a short run on
other pages learns them at the cost of the earlier ones; a mean keeps most of both (Wortsman et al., arXiv 2109.01903).

`--run` may be a running training, whose last saved state is read. Pages are seen at one size, without panes and
views: it is quick, and lower than what the package reaches; compare runs with each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.metrics import anls, exact
from rave_mlx.evaluate.tasks.meaning_pages import SPLITS, meaning
from rave_mlx.evaluate.tasks.question_files import read_lines
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.synthetic.meaning import QUOTE_MARK
from recipes.builtin import packed
from recipes.builtin.infer import Reader
from recipes.builtin.model import Nano
from recipes.builtin.natural.table import table

MOST = 160
"""Tokens of an answer."""


def answers(reader: Reader, items: Iterable[Item]) -> Iterator[Mapping[str, Any]]:
    """Answers with their measures, in the form that `natural.table` sums up.

    Args:
        reader: the model.
        items: questions; those that follow each other about one image are asked together.
    """
    for _, group in groupby(items, key=lambda item: id(item.image)):
        asked = list(group)
        found = reader.sure_answers(open_image(asked[0].image), [item.question for item in asked], MOST)
        for item, (text, certainty) in zip(asked, found, strict=True):
            # A model that quotes gives the value behind the line it stands in.
            value = text.rsplit(QUOTE_MARK, 1)[-1]
            yield {
                "question": item.question, "truths": item.answers, "answer": value, "tags": dict(item.tags),
                "exact": exact(value, item.answers), "anls": anls(value, item.answers), "certainty": certainty,
            }  # fmt: skip


@torch.no_grad()
def blend(model: Nano, start: Nano, share: float) -> None:
    """Replace the weights of a model by the mean of its own, `share` parts, and those of the model it started from."""
    for own, first in zip(model.parameters(), start.parameters(), strict=True):
        own.lerp_(first, 1 - share)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a run of the built-in reader.")
    parser.add_argument("--run", type=Path, default=packed.BUILT_IN, help="a training's directory, or a model's")
    parser.add_argument("--pages", type=int, default=40, help="pages a split")
    parser.add_argument("--split", choices=tuple(SPLITS), help="one split of the pages; default: all")
    parser.add_argument("--by", default="split,kind,layout,style,role", help="tags to break figures down by")
    parser.add_argument("--natural", type=Path, help="a JSONL file of recipes.builtin.natural to measure instead")
    parser.add_argument("--export", type=Path, help="write a rave directory instead of measuring")
    parser.add_argument("--blend", type=float, default=1.0, help="share of the run's weights; the rest is the built-in")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reader = Reader(options.run)
    if options.blend != 1:
        blend(reader.model, Reader(packed.BUILT_IN).model, options.blend)
    if options.export is not None:
        packed.save(reader.model, packed.BUILT_IN, options.export)
        return
    items = read_lines(options.natural) if options.natural is not None else meaning(options.pages, options.split)
    rows = list(answers(reader, items))
    by = ("kind",) if options.natural is not None else options.by.split(",")
    for tag in by:
        print("\n".join(table(rows, tag)), end="\n\n")


if __name__ == "__main__":
    main()
