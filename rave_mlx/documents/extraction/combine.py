"""Results of several parts of a document as one: pages that did not fit into one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rave_mlx.documents.extraction.fields import Field
from rave_mlx.documents.extraction.results import Node, Value


def combine(field: Field, parts: Sequence[Node]) -> Node:
    """The result of a document from those of its parts, in the order of the pages.

    Of single values the surest that is there counts, the first of equals. Lists follow each other; where one part ends
    with the items that the next begins with, as pages that overlap do, they are taken once.

    Args:
        field: what the parts are results for.
        parts: at least one.
    """
    if len(parts) == 1:
        return parts[0]
    if field.kind == "object":
        inner = {f.name: combine(f, [p.fields[f.name] for p in parts if p.fields is not None]) for f in field.fields}
        return Node(fields=inner)
    if field.kind == "array":
        return _joined(field, parts)
    return Node(leaf=_surest([part.leaf for part in parts if part.leaf is not None]))


def _surest(values: Sequence[Value]) -> Value:
    there = [value for value in values if value.value is not None]
    if there:
        return max(there, key=lambda value: value.certainty)
    refused = [value for value in values if value.problem is not None]
    if refused:
        return max(refused, key=lambda value: value.certainty)
    # Nothing is there if no part has it: as sure as the least sure of them.
    return min(values, key=lambda value: value.certainty)


def _joined(field: Field, parts: Sequence[Node]) -> Node:
    lists = [part.items for part in parts if part.items is not None]
    if not lists:
        return parts[0]
    joined: list[Node] = []
    for items in lists:
        joined += items[_overlap(joined, items) :]
    most = field.limits.max_items
    return Node(items=tuple(joined if most is None else joined[:most]))


def _overlap(before: Sequence[Node], after: Sequence[Node]) -> int:
    """How many items at the beginning of `after` are those at the end of `before`."""
    ends, begins = [_key(node) for node in before], [_key(node) for node in after]
    sizes = range(min(len(ends), len(begins)), 0, -1)
    return next((size for size in sizes if ends[-size:] == begins[:size] and _on_one_border(before, after, size)), 0)


def _on_one_border(before: Sequence[Node], after: Sequence[Node], size: int) -> bool:
    """Whether repeated items may be the same print: they stand on one page, or where is not known."""
    old = {value.page for node in before[-size:] for _, value in node.leaves() if value.page is not None}
    new = {value.page for node in after[:size] for _, value in node.leaves() if value.page is not None}
    return not old or not new or old == new


def _key(node: Node) -> Any:
    return node.plain()
