"""Strict configuration sections: frozen dataclasses that read plain JSON and refuse what they do not know.

A dropped key (a rotary base, say) changes a model's answers in silence, so unknown keys are errors, by name.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """A configuration section: strict reading, plain-JSON writing."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> Self:
        """Build the section from plain JSON values.

        Raises:
            ConfigError: for a key that is unknown, missing or of the wrong type; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected an object, found {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(f"{where}: unknown key{'s' * (len(unknown) > 1)} {', '.join(unknown)}")
        required = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
        missing = sorted(n for n in required if n not in data)
        if missing:
            raise ConfigError(f"{where}: missing key{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return cls(**{name: _read(value, hints[name], f"{where}.{name}") for name, value in data.items()})

    def to_dict(self) -> dict[str, Any]:
        """The section as plain JSON values; `from_dict` reads it back to an equal object."""
        return {f.name: _write(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _read(value: Any, hint: Any, where: str) -> Any:
    """Check `value` (from JSON) against a type hint and convert lists to tuples, objects to sections."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [a for a in args if a is not type(None)]
        if len(choices) > 1 and all(isinstance(a, type) and issubclass(a, Part) for a in choices):
            return value if isinstance(value, Part) else _section(value, choices, where)
        for choice in choices[:-1]:
            try:
                return _read(value, choice, where)
            except ConfigError:
                continue
        return _read(value, choices[-1], where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return tuple(_read(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected an object, found {value!r}")
        return {str(k): _read(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Part):
        return value if isinstance(value, hint) else hint.from_dict(value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:
            raise ConfigError(f"{where}: {value!r} is not a finite number")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _section(value: Any, choices: list[type[Part]], where: str) -> Part:
    """One of several sections, told apart by their `kind`; the first one when it is not given."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected an object, found {value!r}")
    kinds = {choice.kind: choice for choice in choices}  # type: ignore[attr-defined]  # a default of each
    kind = value.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise ConfigError(f"{where}.kind: {kind!r} is not one of {', '.join(map(repr, kinds))}")
    return kinds[kind].from_dict(value, where)


def _write(value: Any) -> Any:
    """A field as plain JSON values."""
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_write(v) for v in value]
    if isinstance(value, dict):
        return {k: _write(v) for k, v in value.items()}
    return value


def positive(part: Part, *names: str) -> None:
    """Refuse numbers below 1 in these fields.

    Raises:
        ConfigError: naming the field.
    """
    for name in names:
        if getattr(part, name) < 1:
            raise ConfigError(f"{type(part).__name__}.{name} must be at least 1, found {getattr(part, name)}")
