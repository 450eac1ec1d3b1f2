"""Pages of the generator that the built-in model was trained on, with what it has never seen.

What is asked for is always unseen (`is_unseen`). The splits further hold out fonts, layouts, labels or phrasings, one
at a time, then all of them. Every question of the first split is also asked of another page, which shows what can be
guessed without looking.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from random import Random

from PIL import Image

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item
from rave_mlx.synthetic import PageConfig, Question, held_out_page, make, words
from rave_mlx.synthetic.pages import INVOICE_TITLES
from rave_mlx.synthetic.values import held_out

SEED = 990_000
"""Far from the seeds of training."""
SHUFFLED = "values, another page"
_FAMILIAR = PageConfig(held_values=True)
SPLITS = {
    "values": _FAMILIAR,
    "values+fonts": replace(_FAMILIAR, held_fonts=True),
    "values+layouts": replace(_FAMILIAR, held_layouts=True),
    "values+labels": replace(_FAMILIAR, held_labels=True),
    "values+phrasing": replace(_FAMILIAR, held_phrasing=True),
    "all": held_out_page(),
}
_VALUE_KINDS = ("field", "price", "quantity")
_LONGEST = 200
_LONGEST_COUNT = 3
"""Digits of the largest counts that the generator draws."""


def docs(pages: int, only: str | None = None) -> Iterator[Item]:
    """Questions about `pages` generated pages of every split.

    Args:
        pages: how many a split; those of fewer pages are the first of those of more.
        only: one of `SPLITS`; None: all of them, and the control.

    Raises:
        UsageError: for a split that does not exist.
    """
    if only is not None and only not in SPLITS:
        raise UsageError(f"--task docs:{only}: no such split; splits: {', '.join(SPLITS)}")
    return _questions(pages, SPLITS if only is None else {only: SPLITS[only]}, control=only is None)


def _questions(pages: int, splits: Mapping[str, PageConfig], control: bool) -> Iterator[Item]:
    """Questions about each page; with `control`, those of the split "values" about the page before it as well."""
    for index, (name, split) in enumerate(splits.items()):
        previous: Image.Image | None = None
        for number in range(pages):
            rng = Random(SEED + number)
            config = replace(split, width=rng.randint(192, 448), height=rng.randint(64, 400))
            page = make(rng, config, with_words=False)
            asked = list(_pick(rng, [q for q in page.questions if is_unseen(q)]))
            progress = (index * pages + number + 1) / (len(splits) * pages)
            for image, label in ((page.image, name), (previous if control and name == "values" else None, SHUFFLED)):
                for q in asked if image is not None else ():
                    tags = {"split": label, "kind": group(q.kind), "layout": page.layout, "font": page.font}
                    assert image is not None
                    yield Item(image, q.text, (q.answer,), tags, _LONGEST, progress)
            previous = page.image


def group(kind: str) -> str:
    """The kind under which figures are broken down: fields, prices and quantities are all "value"."""
    return "value" if kind in _VALUE_KINDS else kind


def is_unseen(question: Question) -> bool:
    """Whether no training page can have had this answer to this kind of question.

    Values of open kinds are split by hash (`values.held_out`). Answers from a list that training draws from as well are
    left out: quantities, names, colours and the like, titles of the list and of companies named after people. Other
    questions (lines, whole texts, counts, what is absent) do not ask for one value and stay.
    """
    if question.kind == "quantity":
        return False
    if question.kind == "title":
        return question.answer.lower() not in _listed_titles()
    if question.kind in ("field", "price", "cell"):
        return held_out(question.answer) and not _is_listed(question.answer)
    return True


@cache
def _listed_titles() -> frozenset[str]:
    """Titles from lists, in lower case: training draws from the same."""
    companies = (f"{last} {shop}" for last in words.LAST for shop in words.SHOP)
    return frozenset(title.lower() for title in (*words.TITLES, *INVOICE_TITLES, *companies))


def _is_listed(answer: str) -> bool:
    """Whether a value is of a kind that has too few values to hold any out."""
    count = answer.isdigit() and len(answer) <= _LONGEST_COUNT
    return count or answer.endswith("%") or answer.lower() in _listed_values()


@cache
def _listed_values() -> frozenset[str]:
    """Values of the kinds with fixed lists (`values.CLOSED_KINDS`), in lower case."""
    lists = (words.COLORS, words.CURRENCIES, words.LANGUAGES, words.PAYMENTS, words.COUNTRIES, words.FIRST, words.LAST)
    return frozenset(value.lower() for values in lists for value in values)


def _pick(rng: Random, questions: Iterable[Question]) -> Iterator[Question]:
    """At most three values or cells, a line, the title, one other; the whole text of every fourth page."""
    by: dict[str, list[Question]] = defaultdict(list)
    for q in questions:
        by[group(q.kind)].append(q)
    wanted = {"value": 3, "cell": 3, "chart": 2, "line": 1, "title": 1, "read": int(rng.random() < 0.25)}
    for kind, found in by.items():
        yield from rng.sample(found, min(len(found), wanted.get(kind, int(rng.random() < 0.5))))
