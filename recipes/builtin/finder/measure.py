"""Measure a finder on pages that it has not seen: how often it says the right words, by kind of question.

    python -m recipes.builtin.finder.measure --run RUN --pages 60
    python -m recipes.builtin.finder.measure --run RAVE_DIR/finder --split phrasing --by sort,layout,role

The words of a page are given as they are printed, so figures are about finding, not about reading. Values are always
from the held-out side; the splits hold out roles, phrasings or layouts one at a time, then all of them (`held_out`).
Right is an answer of exactly the words that the generator says. `sure` are answers with a probability of 0.9 or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rave_mlx import backend
from rave_mlx.models.finder.answer_spans import Span
from rave_mlx.models.finder.finder import Finder, Found, load_finder
from rave_mlx.synthetic.meaning import MeaningConfig, held_out
from recipes.builtin.finder.pages import Asked, WordPage, make_page, said

SEED = 970_000
"""Far from the seeds of training."""
SPLITS = {
    "familiar": MeaningConfig(held_values=True),
    "roles": MeaningConfig(held_values=True, held_roles=True),
    "phrasing": MeaningConfig(held_values=True, held_phrasing=True),
    "layouts": MeaningConfig(held_values=True, held_layouts=True),
    "held_out": held_out(),
}
SURE = 0.9
_PER_PAGE = 6


@dataclass(frozen=True)
class Answered:
    """A question with what came of it.

    Attributes:
        tags: split, layout, and of the question its sort and role.
        question: its text.
        truth: the words of the answer, or a kind of `KINDS` where the answer is no words of the page.
        answer: what the finder says, likewise.
        right: whether it says those very words, or that kind.
        certainty: the probability that the finder gives its answer.
    """

    tags: Mapping[str, str]
    question: str
    truth: str
    answer: str
    right: bool
    certainty: float


def measure(finder: Finder, pages: int, splits: Iterable[str] = tuple(SPLITS)) -> Iterator[Answered]:
    """Ask a finder about held-out pages, at most six questions a page.

    Args:
        finder: which is measured.
        pages: how many a split.
        splits: names in `SPLITS`.
    """
    for split in splits:
        for number in range(pages):
            page = make_page(Random(SEED + number), SPLITS[split])
            for asked in page.asked[:_PER_PAGE]:
                tags = {"split": split, "layout": page.layout, "sort": asked.sort, "role": asked.role}
                yield judge(finder.find(asked.question, page.words), asked, page, tags)


def judge(found: Found, asked: Asked, page: WordPage, tags: Mapping[str, str]) -> Answered:
    """What a finder makes of a question, beside the truth.

    Args:
        found: by the finder.
        asked: the question.
        page: which it is about.
        tags: to keep with it.
    """
    on_page = found.kinds["span"] + found.kinds["absent"]
    choices: list[tuple[str, float, Span | None]] = [("absent", on_page * found.absent, None)]
    choices += [("span", on_page * span.probability, span) for span in found.spans]
    choices += [(kind, share, None) for kind, share in found.kinds.items() if kind not in ("span", "absent")]
    kind, certainty, span = max(choices, key=lambda choice: choice[1])
    truth = said(page.words, asked.spans) if asked.kind == "span" else asked.kind
    right = kind == asked.kind
    if right and span is not None:
        words = {n for each in asked.spans for n in range(each.first, each.last + 1)}
        right = set(span.words) == words and sorted(span.text.split()) == sorted(truth.split())
    return Answered(tags, asked.question, truth, kind if span is None else span.text, right, certainty)


def table(rows: Sequence[Answered], tag: str) -> list[str]:
    """Lines of a table: for each value of a tag how many questions, how many right, and of the sure ones.

    Args:
        rows: what was answered.
        tag: to break down by.
    """
    groups: dict[str, list[Answered]] = {}
    for row in rows:
        groups.setdefault(row.tags[tag], []).append(row)
    lines = [f"{tag:<24}{'asked':>7}{'right':>8}{'sure':>7}{'right':>8}"]
    for name, group in [*sorted(groups.items(), key=lambda pair: -len(pair[1])), ("all", list(rows))]:
        sure = [row for row in group if row.certainty >= SURE]
        lines.append(f"{name:<24}{len(group):>7}{_share(group):>8}{len(sure):>7}{_share(sure):>8}")
    return lines


def _share(rows: Sequence[Answered]) -> str:
    return f"{sum(row.right for row in rows) / len(rows):.3f}" if rows else "-"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a finder on pages that it has not seen.")
    parser.add_argument("--run", type=Path, required=True, help="a training's folder, or a finder's")
    parser.add_argument("--pages", type=int, default=40, help="pages a split")
    parser.add_argument("--split", choices=tuple(SPLITS), help="one split of the pages; default: all")
    parser.add_argument("--by", default="split,sort,layout", help="of split, sort, layout, role: what to break down by")
    parser.add_argument("--wrong", action="store_true", help="print what was answered wrongly")
    options = parser.parse_args()
    backend.prepare()
    splits = [options.split] if options.split else list(SPLITS)
    rows = list(measure(load_finder(options.run), options.pages, splits))
    for row in rows:
        if options.wrong and not row.right:
            print(f"{row.tags['split']} {row.tags['layout']}: {row.question} -> {row.answer!r}, not {row.truth!r}")
    for tag in options.by.split(","):
        print("\n".join(table(rows, tag)), end="\n\n")


if __name__ == "__main__":
    main()
