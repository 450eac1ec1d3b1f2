"""Pages of `synthetic.meaning`, asked for values by what they mean, in people's words.

Values are always from the held-out side of their split. The splits further hold out roles, phrasings, layouts or
fonts, one at a time, then all of them (`held_out`). Figures are broken down by kind of question, by layout and by how a
value is asked for; kind "absent" is what is not on the page, "unclear" what makes no sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item
from rave_mlx.synthetic.meaning import MeaningConfig, held_out, make

SEED = 970_000
"""Far from the seeds of training and of the other tasks."""
_FAMILIAR = MeaningConfig(held_values=True)
SPLITS = {
    "familiar": _FAMILIAR,
    "roles": replace(_FAMILIAR, held_roles=True),
    "phrasing": replace(_FAMILIAR, held_phrasing=True),
    "layouts": replace(_FAMILIAR, held_layouts=True),
    "fonts": replace(_FAMILIAR, held_fonts=True),
    "held_out": held_out(),
}
_PER_PAGE = 6
_LONGEST = 300


def meaning(pages: int, only: str | None = None) -> Iterator[Item]:
    """Questions about `pages` pages of every split, at most six a page.

    Args:
        pages: how many a split.
        only: one of `SPLITS`; None for all of them.

    Raises:
        UsageError: for a split that does not exist.
    """
    if only is not None and only not in SPLITS:
        raise UsageError(f"--task meaning:{only}: no such split; splits: {', '.join(SPLITS)}")
    splits = SPLITS if only is None else {only: SPLITS[only]}
    for index, (name, config) in enumerate(splits.items()):
        for number in range(pages):
            page = make(Random(SEED + number), replace(config, width=_width(number)))
            progress = (index * pages + number + 1) / (len(splits) * pages)
            for q in page.questions[:_PER_PAGE]:
                tags = {
                    "split": name,
                    "kind": q.kind,
                    "layout": page.layout,
                    "style": q.style or "-",
                    "role": q.role or "-",
                }
                yield Item(page.image, q.text, (q.answer,), tags, _LONGEST, progress)


def _width(number: int) -> int:
    """Widths in turn, so that few pages are too large to be seen in full."""
    return (288, 352, 416, 480, 544, 640)[number % 6]
