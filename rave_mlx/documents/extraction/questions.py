"""How a model that answers questions is asked for a field: in the wordings that the built-in model was trained on."""

from __future__ import annotations

import itertools
import re

from rave_mlx.documents.extraction.fields import ITEM, Field

_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_LONGEST = 8
"""Words of a description that is asked for as it is; a longer one is an explanation."""
CELL = "Read the text."
"""What a piece of a table is asked: all that is on it."""


def name_of(field: Field, root: Field) -> str:
    """What a field is called in a question: "due date", "customer name" for `name` inside `customer`.

    Args:
        field: a single value.
        root: the whole, for the names of the objects that it is in.
    """
    words, node = [], root
    for part in itertools.takewhile(lambda part: part != ITEM, field.path[:-1]):
        node = next(inner for inner in node.fields if inner.name == part)
        words.append(node.label)
    words.append(field.label)
    return " ".join(words)


def questions_of(field: Field, root: Field) -> tuple[str, ...]:
    """What is asked for a field, the surest of whose answers counts.

    A description that is a question is asked as it is, and nothing else. A short one is asked for beside the name: it
    may have the words of the page where the name has not.

    Args:
        field: a single value.
        root: the whole, for the names of the objects that it is in.
    """
    description = " ".join(field.description.split())
    if description.endswith("?"):
        return (description,)
    questions = [f"What is the {name_of(field, root)}?"]
    plain = _ARTICLE.sub("", description.rstrip(". "))
    if plain and len(plain.split()) <= _LONGEST and plain.casefold() != field.label.casefold():
        questions.append(f"What is the {plain[:1].lower() + plain[1:] if plain[1:2].islower() else plain}?")
    return tuple(questions)
