"""Documents as people have them, with questions as people ask them: values by what they mean.

`make(seed)` draws one page: receipts of tills, card slips, invoices, statements, bills, letters, forms of ruled boxes,
cards, tickets, settings, tables, timetables, posters, charts; in many faces and sizes, worn or clean, whole or cut. Its
questions have one right answer each: a value, a row of a list, yes or no, `not found` for what is not there, a
sentence for
what makes no sense. `proportions.py` says how many of which.

    from rave_mlx.synthetic import meaning
    page = meaning.make(7)
    for q in page.questions: print(q.text, "->", q.answer)

`roles*.py` hold what values can mean, how they are labelled and asked for; `layouts/` writes the pages on a `Paper`;
`ask.py` and its neighbours ask; `printing.py` wears the page; `document.py` puts it together. Held out of training are
whole roles, layouts, fonts, one phrasing in eight, and the values that `synthetic.values` holds out. The same seed,
configuration, fonts and Pillow give the same page.
"""

from __future__ import annotations

from rave_mlx.synthetic.meaning.document import (
    QUOTE_MARK,
    MeaningConfig,
    MeaningPage,
    MeaningQuestion,
    held_out,
    make,
)
from rave_mlx.synthetic.meaning.layouts.register import LAYOUTS
from rave_mlx.synthetic.meaning.proportions import KINDS
from rave_mlx.synthetic.meaning.roles import ROLES
from rave_mlx.synthetic.meaning.talk import GREETED, UNCLEAR
from rave_mlx.synthetic.questions import ABSENT

__all__ = [
    "ABSENT",
    "GREETED",
    "KINDS",
    "LAYOUTS",
    "QUOTE_MARK",
    "ROLES",
    "UNCLEAR",
    "MeaningConfig",
    "MeaningPage",
    "MeaningQuestion",
    "held_out",
    "make",
]
