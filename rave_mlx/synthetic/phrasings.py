"""Phrasings of every kind of question: those of training, and those that are held out.

Known phrasings are written out, or composed from the parts of patterns; a composition that is held out is left
away. `{}` stands for the name of what is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Phrasings:
    """Templates of one kind of question: known ones, half of those drawn `usual`, half `composed`, and held ones."""

    usual: tuple[str, ...]
    held: tuple[str, ...]
    composed: tuple[str, ...] = ()


def _phrasings(usual: tuple[str, ...], held: tuple[str, ...], *patterns: str) -> Phrasings:
    return Phrasings(usual, held, tuple(s for pattern in patterns for s in compose(pattern, held)))


def compose(pattern: str, held: tuple[str, ...] = ()) -> tuple[str, ...]:
    """All sentences of a pattern such as `[Read|Give] the title[| of this page].`, without those held out.

    A sentence that differs from a held one in case or its last mark only is held out as well.
    """
    parts = [part.split("|") for part in re.split(r"[\[\]]", pattern)]
    out = {_bare(text) for text in held}
    return tuple(s for s in ("".join(choice) for choice in product(*parts)) if _bare(s) not in out)


def _bare(text: str) -> str:
    return text.rstrip("?.").lower()


FIELD = _phrasings(
    (
        "What is the {}?", "What is the {}?", "{}?", "Find the {}.", "Read the {}.", "What does the {} field say?",
        "Give the {}.", "Tell me the {}.", "What is written for {}?", "{}", "What's the {}?", "What is {}?",
        "Extract the {}.", "{}:", "Can you find the {}?", "Which {} is given?",
    ),
    ("Return the value of {}.", "Please read out the {}.", "What value does {} have?", "Look up the {}."),
    "[|Please |Can you |Could you ][find|read|give me|show me|tell me|extract|get|print] the {}"
    "[.|?| on this page.| of this document.| here.]",
    "[What is|What's|Which is|What do you see for|What does it say for] the {}"
    "[?| here?| on this page?| on the form?| in this document?]",
    "[value of|value for|the] {}[|?]",
)  # fmt: skip
WHO = _phrasings(("Who is the {}?", "Who is {}?", "Name of the {}?"), ("Who is named as {}?",))
WHEN = _phrasings(("When is the {}?", "When is it {}?"), ("On what date is the {}?",))
MUCH = _phrasings(("How much is the {}?", "How much is {}?", "What amount is the {}?"), ("How high is the {}?",))
PRICE = _phrasings(
    (
        "What is the price of {}?", "How much is {}?", "Price of {}?", "What does {} cost?", "How much is the {}?",
        "How much does the {} cost?", "{} price?", "{}?",
    ),
    ("How much for {}?", "What do I pay for {}?"),
    "[What is|What's|Tell me|Give me|Read|Find] the [price|cost|amount] [of|for] [|the ]{}[.|?]",
)  # fmt: skip
QUANTITY = _phrasings(
    (
        "How many {}?", "What is the quantity of {}?", "Quantity of {}?", "How many {} were bought?", "{} quantity?",
        "How many {} are there?", "How many of {}?", "Number of {}?", "What is the number of {}?", "Count of {}?",
        "How many times {}?", "How many units of {}?", "How many {} are listed?", "{}: how many?", "Qty of {}?",
    ),
    ("What number of {} is listed?",),
    "[What is|What's|Tell me|Give me|Read|Find|Show|Which is] the [quantity|number|count|qty] of "
    "[|the ]{}[.|?| sold?| on the list?]",
    "How many [|pieces of |units of |items of |of the ]{} "
    "[were bought|were ordered|were sold|are listed|are on the list|did they buy|are there|does it list]?",
    "[Which|What] [quantity|count|qty] of {} [was bought|was ordered|was sold|is given|is shown|does it list]?",
)  # fmt: skip
CELL = _phrasings(
    (
        "What is the {column} of {row}?", "What is the {column} for {row}?", "{row} {column}?", "{column} of {row}?",
        "Which {column} does {row} have?", "{column} for {row}", "In the row {row}, what is the {column}?",
        "What is the {column} of the {row}?",
    ),
    ("{row}: {column}?", "What does column {column} say for {row}?"),
    "[What is|What's|Tell me|Give me|Read|Find|Show] the {column} [of|for|in the row] [|the ]{row}[.|?]",
)  # fmt: skip
CHART = _phrasings(
    ("What is the value of {}?", "What is the value for {}?", "How high is {}?", "{}?", "Value of {}?"),
    ("What value does the chart show for {}?",),
)
REVERSE = _phrasings(
    ("Which field says {}?", "What is {}?", "Which label has {}?", "What does {} belong to?"),
    ("Where does it say {}?",),
)
REVERSE_ROW = _phrasings(
    ("Which row has {}?", "What costs {}?", "Which item is {}?", "What has {}?"), ("Which entry shows {}?",)
)
LINE = _phrasings(
    (
        "Read line {}.", "What does line {} say?", "Line {}", "Transcribe line {}.", "Line number {}?",
        "What is written in line {}?", "Give line {}.", "Which text is in line {}?",
    ),
    ("What is in line {}?",),
    "[Read|Give me|Show|Print|Copy|Tell me|What is] [line|line number|line no.] {}[.|?| of the page.]",
)  # fmt: skip
LAST = _phrasings(
    (
        "Read the last line.", "What is the last line?", "What does the last line say?", "Last line?",
        "What is written at the bottom?", "Give the last line.", "What is in the bottom line?",
    ),
    ("Bottom line?",),
    "[Read|Show|Print|Copy|Tell me|What is] the [last|bottom|final] line[.|?| of the page.]",
)  # fmt: skip
FIRST_LINE = _phrasings(
    (
        "Read the first line.", "What is the first line?", "What does the top line say?", "First line?",
        "What is written in the first line?", "Give the first line.", "What is in the top line?",
    ),
    ("Top line?",),
    "[Read|Show|Print|Copy|Tell me|What is] the [first|top|uppermost] line[.|?| of the page.]",
)  # fmt: skip
TITLE = _phrasings(
    (
        "What is the title?", "What is the heading?", "Read the title.", "Title?", "Read the heading.", "Heading?",
        "What is the title of this document?", "What is the document's title?", "What is the page called?",
        "What is this page's heading?", "What is the headline?", "Which title does the page have?", "Give the title.",
        "What is at the top of the page?", "Tell me the heading.", "What is this page about?",
    ),
    ("What is the title of the page?", "Which heading does it have?", "What is this document called?"),
    "[What is|What's|Read|Give|Give me|Tell me|Show|Find|Which is] the [title|heading|headline|main heading] of "
    "[this|the] [page|document|form|sheet|paper][.|?]",
    "[What|Which] [title|heading|headline] "
    "[does it have|does this page have|does the document have|is given|is printed at the top|stands at the top]?",
    "[What|How] is [this page|the page|it|the document|this sheet] [called|titled|headed]?",
)  # fmt: skip
READ = _phrasings(
    (
        "Read the text.", "Transcribe the document.", "Read everything.", "What does it say?", "OCR",
        "Read the document.", "What is written here?",
    ),
    ("Transcribe all text.",),
    "[Read|Transcribe|Copy|Print|Type out] "
    "[all the text|the whole page|the whole text|this page|all words|the page][.| for me.]",
)  # fmt: skip
COUNT = _phrasings(
    ("How many items are there?", "How many rows does it list?", "Number of entries?"), ("Count the items.",)
)
