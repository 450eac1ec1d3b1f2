"""Rows of documents as flat records: what are nested fields in a row become columns of a table.

A field is a column with its value; its certainty, page and box are columns behind all values. A field inside another is
`vendor.name`. A list of plain values is one cell, joined with "; ". A list of objects is a table of its own, with a
record for each item, which says what document it belongs to and its number there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
DETAILS = ("certainty", "page", "box")
"""What is known of a value beside the value."""
_FIRST, _LAST = ("file", "item", "pages", "error"), ("sha256",)
_JOINT = "; "


@dataclass
class Columns:
    """The columns of one table, and the types of what stands in them."""

    types: dict[str, set[type]] = field(default_factory=dict)

    def note(self, record: Record) -> None:
        """Columns of a record that are new, and its types."""
        for name, value in record.items():
            kinds = self.types.setdefault(name, set())
            if value is not None:
                # A whole number that no column of numbers can hold becomes text.
                kinds.add(str if isinstance(value, int) and abs(value) >= 1 << 63 else type(value))

    def ordered(self) -> list[str]:
        """The document first, then values, then what is known of them."""
        names = list(self.types)
        detail = [name for name in names if is_detail(name, names)]
        first = [name for name in _FIRST if name in names]
        last = [name for name in _LAST if name in names]
        values = [name for name in names if name not in {*detail, *first, *last}]
        return [*first, *values, *detail, *last]


def is_detail(name: str, names: Iterable[str]) -> bool:
    """Whether a column tells something about the value of another: "total (page)"."""
    value, space, rest = name.rpartition(" (")
    return bool(space) and rest.removesuffix(")") in DETAILS and value in names


def records(row: Mapping[str, Any]) -> Iterator[tuple[str, Record]]:
    """The records that a row becomes, each with its table: "" for the documents, the path of a list for its items."""
    lists: list[tuple[str, list[Any]]] = []
    flat: Record = {}
    _flatten(row.get("fields") or {}, "", flat, lists)
    yield "", _beside({name: _cell(value) for name, value in row.items() if name != "fields"}, flat)
    for path, items in lists:
        for number, item in enumerate(items, 1):
            flat, deeper = {}, list[tuple[str, list[Any]]]()
            _flatten(item, "", flat, deeper)
            # A list in a list stays one cell.
            flat.update({name: _cell(values) for name, values in deeper})
            yield path, _beside({"file": row.get("file"), "item": number}, flat)


def _beside(known: Record, flat: Record) -> Record:
    """Fields beside what is known of the document; one with a name that is taken is "fields.file"."""
    taken = {*known, *_FIRST, *_LAST}
    return known | {
        f"fields.{name}" if name.partition(" (")[0] in taken else name: value for name, value in flat.items()
    }


def _flatten(fields: Mapping[str, Any], prefix: str, record: Record, lists: list[tuple[str, list[Any]]]) -> None:
    """Put the fields of an object into a record; lists of objects aside."""
    for name, value in fields.items():
        path = f"{prefix}{name}"
        if _is_leaf(value):
            record[path] = _cell(value["value"])
            record.update({f"{path} ({detail})": _cell(value.get(detail)) for detail in DETAILS})
        elif isinstance(value, Mapping):
            _flatten(value, f"{path}.", record, lists)
        elif isinstance(value, list) and value and all(map(_is_leaf, value)):
            record[path] = _JOINT.join(str(each["value"]) for each in value if each["value"] is not None)
            record[f"{path} (certainty)"] = min(each.get("certainty") or 0.0 for each in value)
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            lists.append((path, value))
        elif isinstance(value, list):
            record[path] = json.dumps(_plain(value), ensure_ascii=False) if value else None
        else:
            record[path] = _cell(value)


def _is_leaf(value: Any) -> bool:
    """Whether this is a value with what is known of it, and not an object whose fields have these names."""
    return (
        isinstance(value, Mapping)
        and {"value", "certainty"} <= set(value)
        and not isinstance(value["value"], Mapping | list)
        and not isinstance(value["certainty"], Mapping)
    )


def _cell(value: Any) -> Any:
    """A value that fits into a cell; lists and objects as JSON."""
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, Mapping | list) else value


def _plain(value: Any) -> Any:
    """Values alone, without what is known of them."""
    if _is_leaf(value):
        return value["value"]
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
