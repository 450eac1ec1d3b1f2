"""Values, places and certainty of the fields in an answer that is JSON, also where the answer was cut."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rave_mlx.documents.extraction.fields import ITEM, Field, Scalar
from rave_mlx.documents.extraction.json_text import Piece, scan
from rave_mlx.documents.extraction.schema_grammar import blank


@dataclass(frozen=True)
class Leaf:
    """One single value of an answer.

    Attributes:
        field: whose value it is.
        path: names and list indices from the whole down to it, as `("items", 0, "price")`.
        value: the value.
        span: [start, stop) of its characters in the answer's text, without quotes; None where nothing was written.
        tokens: [first, stop) of the answer's tokens that wrote it; None where nothing was written or no tokens given.
        certainty: the least probability of these tokens; 0 where nothing was written, 1 for a constant.
    """

    field: Field
    path: tuple[str | int, ...]
    value: Scalar
    span: tuple[int, int] | None = None
    tokens: tuple[int, int] | None = None
    certainty: float = 0.0


@dataclass(frozen=True)
class JsonAnswer:
    """What an answer says about the fields of a schema.

    Attributes:
        value: an object with all fields of the schema; those that were not written are null.
        text: its JSON: the answer itself where it is whole.
        whole: whether the answer was complete.
        leaves: its single values in the order of the schema, those that were not written included.
    """

    value: dict[str, Any]
    text: str
    whole: bool
    leaves: tuple[Leaf, ...]


def read_json(text: str, field: Field) -> JsonAnswer:
    """The values in an answer that follows a schema, or that followed it until it was cut.

    Every value that is finished is kept. One that the cut went through is dropped, since the part that is there may
    mean something else ("12" of "120"), and all that is missing becomes null: what comes out follows the schema.

    Args:
        text: the answer.
        field: the whole, of the kind "object".

    Raises:
        ValueError: for a text that is no JSON, no beginning of it, or not of this schema; none that was written under
            the schema's constraint is.
    """
    piece = scan(text)
    leaves: list[Leaf] = []
    value = _fill(field, None if piece.value is None and not piece.finished else piece, (), leaves)
    whole = piece.finished and json.loads(text) == value
    if piece.finished and not whole:
        raise ValueError("the answer lacks properties of the schema")
    return JsonAnswer(value, text if whole else json.dumps(value, ensure_ascii=False), whole, tuple(leaves))


def with_tokens(
    answer: JsonAnswer, text: str, tokens: Sequence[bytes], probabilities: NDArray[np.float32]
) -> tuple[Leaf, ...]:
    """The leaves of an answer with their tokens and certainty.

    A token belongs to a value when at least one byte of the value is in it: a token that closes the name and begins
    the value does, one that only holds the quote before it, or the quote and the comma behind it, does not. A text
    without characters has the tokens of its two quotes.

    Args:
        answer: what `read_json` found.
        text: the text that it read.
        tokens: (T,) the bytes that each token of the answer adds to the text.
        probabilities: (T,) of the tokens.
    """
    stops = list(accumulate(map(len, tokens)))
    starts = [0, *stops[:-1]]
    encoded = list(accumulate((len(c.encode("utf-8", "surrogatepass")) for c in text), initial=0))
    found = []
    for leaf in answer.leaves:
        if leaf.span is None or not tokens:
            found.append(leaf)
            continue
        start, stop = leaf.span if leaf.span[0] < leaf.span[1] else (leaf.span[0] - 1, leaf.span[1] + 1)
        first, last = bisect_right(stops, encoded[start]), bisect_left(starts, encoded[stop])
        certainty = 1.0 if leaf.field.constant else float(probabilities[first:last].min())
        found.append(Leaf(leaf.field, leaf.path, leaf.value, leaf.span, (first, last), certainty))
    return tuple(found)


def _fill(field: Field, piece: Piece | None, path: tuple[str | int, ...], leaves: list[Leaf]) -> Any:
    """The value of a field: what `piece` holds of it, null for the rest."""
    if piece is not None and piece.finished and not _is_kind(field, piece.value):
        raise ValueError(f"{field.dotted or 'the answer'} is not of the kind {field.kind}")
    if field.is_leaf:
        leaf = _unwritten(field, path) if piece is None else Leaf(field, path, piece.value, _span(piece))
        leaves.append(leaf)
        return leaf.value
    if (piece is None and field.nullable) or (piece is not None and piece.value is None):
        span = None if piece is None else _span(piece)
        leaves += [Leaf(inner, path + inner.path[len(path) :], None, span) for inner in _single(field)]
        return None
    if field.kind == "array":
        return _fill_list(field, piece, path, leaves)
    found: dict[str, Piece] = {} if piece is None else piece.value
    unknown = next((name for name in found if name not in {inner.name for inner in field.fields}), None)
    if unknown is not None:
        raise ValueError(f"the schema has no field {unknown!r} in {field.dotted or 'the whole'}")
    return {inner.name: _fill(inner, found.get(inner.name), (*path, inner.name), leaves) for inner in field.fields}


def _fill_list(field: Field, piece: Piece | None, path: tuple[str | int, ...], leaves: list[Leaf]) -> list[Any]:
    """The items of a list; one that was cut before anything in it was finished is left out."""
    assert field.item is not None
    items: list[Piece | None] = [] if piece is None else [item for item in piece.value if _holds_something(item)]
    items += [None] * (field.limits.min_items - len(items))
    return [_fill(field.item, item, (*path, i), leaves) for i, item in enumerate(items)]


def _is_kind(field: Field, value: Any) -> bool:
    if value is None:
        return field.is_leaf or field.nullable
    return isinstance(value, {"object": dict, "array": list}.get(field.kind, str | int | float))


def _holds_something(piece: Piece) -> bool:
    inner = piece.value.values() if isinstance(piece.value, dict) else piece.value
    return piece.finished or any(_holds_something(part) for part in inner)


def _single(field: Field) -> list[Field]:
    """The single values below a field that are in no list."""
    return [leaf for leaf in field.leaves() if ITEM not in leaf.path[len(field.path) :]]


def _unwritten(field: Field, path: tuple[str | int, ...]) -> Leaf:
    return Leaf(field, path, blank(field), certainty=float(field.constant))


def _span(piece: Piece) -> tuple[int, int]:
    """The characters of a single value without quotes."""
    quote = isinstance(piece.value, str)
    return piece.start + quote, piece.end - quote
