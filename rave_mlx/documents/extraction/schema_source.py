"""A user's schema from wherever it is: a JSON file, a dict, a pydantic model, or a list of names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.inputs.text_files import RowError, read_text


def read_schema(source: Any) -> tuple[dict[str, Any], str]:
    """The JSON Schema that `source` is or names, not looked into yet, and a name of it for messages.

    Args:
        source: the path of a JSON file, a dict, or a pydantic model class.

    Raises:
        UsageError: for a file that cannot be read or is no JSON object, and for anything else.
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source)), str(source)
    if isinstance(source, Mapping):
        return _from_mapping(source), "schema"
    if isinstance(source, type) and callable(getattr(source, "model_json_schema", None)):
        return _from_pydantic(source), source.__name__
    what = source.__name__ if isinstance(source, type) else type(source).__name__
    raise UsageError(f"a schema is a JSON file, a dict or a pydantic model class, not {what}")


def schema_of_names(text: str) -> dict[str, Any]:
    """The schema of text fields named in a list, as "total, due date, vendor".

    The names are the properties of the result just as they are written, spaces and capitals included.

    Raises:
        UsageError: for an empty list, or a name that comes twice.
    """
    names = [" ".join(name.split()) for name in text.split(",")]
    names = [name for name in names if name]
    if not names:
        raise UsageError('--fields names nothing; write what to look for, as --fields "total, due date, vendor"')
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--fields: {twice!r} is named twice")
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def _from_file(file: Path) -> dict[str, Any]:
    try:
        text = read_text(file)
    except RowError as error:
        raise UsageError(str(error)) from None
    try:
        schema = json.loads(text, object_pairs_hook=_no_name_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not a usable schema ({error})") from None
    if not isinstance(schema, dict):
        raise UsageError(f'{file}: a schema is a JSON object, as {{"type": "object", "properties": {{...}}}}')
    return schema


def _from_pydantic(model: type) -> dict[str, Any]:
    """The schema of a pydantic model. A Decimal, which pydantic also reads from any text, is a number in it."""
    from pydantic.json_schema import GenerateJsonSchema

    class Numbers(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            whole: dict[str, Any] = super().decimal_schema(schema)
            return next((option for option in whole.get("anyOf", ()) if option.get("type") == "number"), whole)

    schema: dict[str, Any] = model.model_json_schema(schema_generator=Numbers)  # type: ignore[attr-defined]
    return schema


def _from_mapping(source: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that is JSON through and through: whoever changes the original later changes nothing here."""
    try:
        schema: dict[str, Any] = json.loads(json.dumps(dict(source), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the schema is not JSON ({error})") from None
    return schema


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} comes twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
