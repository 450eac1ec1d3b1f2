"""What was extracted from a document: values, how certain each is, where it stands, and the row of a file they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rave_mlx.documents.extraction.fields import Scalar

Box = tuple[float, float, float, float]
Unit = Literal["point", "pixel"]


@dataclass(frozen=True)
class Value:
    """One extracted value.

    Attributes:
        value: as the schema wants it; None where the document does not have it, or what it has does not fit.
        certainty: the probability that the model gave to the least likely token of the value, or of the answer that
            there is none; 0 where nothing is known.
        page: on which page it stands, from 1; None where that is not known, or there is no value.
        box: left, top, right, bottom on that page: points from its top left corner for a PDF, pixels for a picture.
        raw: what the model wrote, where `value` is not simply that.
        problem: why what the model wrote is no value of this field.
    """

    value: Scalar = None
    certainty: float = 0.0
    page: int | None = None
    box: Box | None = None
    raw: str | None = None
    problem: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The value as JSON values; `raw` and `problem` only where there are any."""
        row: dict[str, Any] = {"value": self.value, "certainty": round(float(self.certainty), 4), "page": self.page}
        row["box"] = None if self.box is None else [round(float(side), 2) for side in self.box]
        if self.raw is not None and (self.problem is not None or self.raw != self.value):
            row["raw"] = self.raw
        if self.problem is not None:
            row["problem"] = self.problem
        return row


@dataclass(frozen=True)
class Node:
    """An extracted object or list, or a single value: a tree in the shape of the schema.

    Attributes:
        leaf: of a single value.
        fields: of an object, by name.
        items: of a list.
    """

    leaf: Value | None = None
    fields: Mapping[str, Node] | None = None
    items: tuple[Node, ...] | None = None

    def as_row(self) -> Any:
        """The tree as JSON values: objects, lists, and at the leaves the rows of `Value`."""
        if self.leaf is not None:
            return self.leaf.as_row()
        if self.fields is not None:
            return {name: node.as_row() for name, node in self.fields.items()}
        return [node.as_row() for node in self.items or ()]

    def plain(self) -> Any:
        """The values alone, in the shape of the schema."""
        if self.leaf is not None:
            return self.leaf.value
        if self.fields is not None:
            return {name: node.plain() for name, node in self.fields.items()}
        return [node.plain() for node in self.items or ()]

    def leaves(self, path: str = "") -> Iterator[tuple[str, Value]]:
        """Every single value with its path: `total`, `items[0].price`."""
        if self.leaf is not None:
            yield path, self.leaf
        for name, node in (self.fields or {}).items():
            yield from node.leaves(f"{path}.{name}" if path else name)
        for number, node in enumerate(self.items or ()):
            yield from node.leaves(f"{path}[{number}]")


@dataclass(frozen=True)
class Extraction:
    """What was extracted from one document.

    Attributes:
        file: its name as it was given.
        sha256: of its bytes; None where it could not be read.
        pages: how many pages it has; None where that is not known.
        fields: the extracted tree; None where the document failed.
        unit: what boxes count in: points of a PDF, pixels of a picture.
        error: why it failed.
        instance: the pydantic object, where the schema was given as a class and every value it requires is there.
    """

    file: str
    sha256: str | None
    pages: int | None
    fields: Node | None
    unit: Unit = "pixel"
    error: str | None = None
    instance: Any = field(default=None, compare=False)

    @property
    def values(self) -> dict[str, Any] | None:
        """The values alone, in the shape of the schema; None where the document failed."""
        if self.fields is None:
            return None
        found: dict[str, Any] = self.fields.plain()
        return found

    def as_row(self) -> dict[str, Any]:
        """The line of JSON that a run writes for the document."""
        fields = None if self.fields is None else self.fields.as_row()
        row = {"file": self.file, "sha256": self.sha256, "pages": self.pages, "unit": self.unit, "fields": fields}
        return row | {"error": self.error}
