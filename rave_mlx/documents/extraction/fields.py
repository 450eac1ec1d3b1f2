"""What is to be extracted: a tree of fields, as a schema describes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "object", "array", "string", "number", "integer", "boolean", "date", "time", "date-time", "enum", "union"
]
Scalar = str | int | float | bool | None
"""A value that is no object and no array."""
ITEM = "[]"
"""What stands in a path for "an item of this list"."""
_WORD = re.compile(r"[_\-.\s]+|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Limits:
    """The bounds of a field's values, None where there is none. Lengths are in characters.

    Attributes:
        minimum, maximum: of a number, inclusive.
        above, below: bounds that a number must not reach.
        multiple_of: a number is a multiple of this.
        min_length, max_length: of a text.
        patterns: regular expressions, each of which must match somewhere in a text.
        format: a format of JSON Schema that a text has (`email`, `uri`, ...); dates and times are kinds of their own.
        min_items, max_items: of a list.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: float | None = None
    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[str, ...] = ()
    format: str | None = None
    min_items: int = 0
    max_items: int | None = None


@dataclass(frozen=True)
class Field:
    """One thing to extract, or an object or a list of them.

    Attributes:
        name: the property's name, as the result has it; empty for the whole and for the items of a list.
        path: the names from the whole down to it; `ITEM` stands for the items of a list.
        kind: what its values are. Dates and times are texts in ISO 8601, an "enum" is one of `choices`, a "union" is
            a value of one of `options`.
        title, description: what the schema says about it, for people and models; may be empty.
        nullable: whether the schema itself allows null. Every value that is no object and no list may be null anyway.
        constant: whether it has one value, which is not asked for.
        choices: of an enum.
        limits: bounds of its values.
        fields: of an object, in the order in which they are written.
        item: of a list.
        options: of a union, each a single value.
    """

    name: str
    path: tuple[str, ...]
    kind: Kind
    title: str = ""
    description: str = ""
    nullable: bool = False
    constant: bool = False
    choices: tuple[Scalar, ...] = ()
    limits: Limits = Limits()
    fields: tuple[Field, ...] = ()
    item: Field | None = None
    options: tuple[Field, ...] = ()

    @property
    def is_leaf(self) -> bool:
        """Whether its values are single ones: no object, no list."""
        return self.kind not in ("object", "array")

    @property
    def label(self) -> str:
        """Its name as a page or a person would say it: its title, or "due date" for `due_date` and `dueDate`."""
        if self.title:
            return self.title
        name = self.name or next((part for part in reversed(self.path) if part != ITEM), "")
        return " ".join(
            word if word.isupper() and len(word) > 1 else word.lower() for word in _WORD.split(name) if word
        )

    @property
    def dotted(self) -> str:
        """Its path as one text: `items[].price`."""
        return ".".join(self.path).replace(f".{ITEM}", ITEM)

    def leaves(self) -> Iterator[Field]:
        """Every field below it (or itself) that holds single values, in the order in which they are written."""
        if self.is_leaf:
            yield self
        elif self.item is not None:
            yield from self.item.leaves()
        for field in self.fields:
            yield from field.leaves()
