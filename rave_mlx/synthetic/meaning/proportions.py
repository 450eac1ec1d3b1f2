"""How often each kind of question is asked of a page: the one place where that is decided.

`ask.choose` draws `QUESTIONS` of what a page can be asked, kind by kind with these weights; a kind that a page has no
question of leaves its share to the others.
"""

KINDS = (
    "value", "entry", "absent", "yesno", "list", "about", "summary", "whole", "greeting", "unclear", "extreme", "which",
)  # fmt: skip
"""Kinds of questions; `questions` of a `document.MeaningPage` have one of them."""
SHARES = {
    "value": 46.0,  # a value by its role
    "entry": 21.0,  # a value of a row of a list or table
    "absent": 13.0,  # what is not there, which something near it might seem to be
    "yesno": 5.0,  # switches, closed days, whether something is printed at all
    "list": 1.5,  # all things with their prices
    "about": 2.0,  # what the page is
    "summary": 1.5,
    "whole": 1.5,  # the whole text, where it is short
    "greeting": 0.7,
    "unclear": 1.8,  # letters without sense, and what has nothing to do with the page
    "extreme": 2.0,  # the dearest thing, the highest bar
    "which": 4.0,  # the name of the row that has a value
}
QUESTIONS = 12
"""Most questions of a page."""
MOST_ABSENT = 4
"""Of so many questions of a page at most one is for what is not there, about."""
STYLES = {"ask": 46.0, "frame": 28.0, "label": 9.0, "schema": 17.0}
"""How a value is asked for: a whole sentence, its noun in a frame, its printed label, a name as of a schema."""
LOWER, NO_MARK, TYPO, POLITE = 0.42, 0.35, 0.07, 0.12
"""How often a question is typed in lower case, without its question mark, with a slip, with a please."""
NAMED_PAGE = 0.22
"""How often a question says which page it is about."""
