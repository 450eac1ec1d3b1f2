"""Typed reading of a foreign config.json: what is needed and absent, or of the wrong type, is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from rave_mlx.errors import ConfigError


class Keys:
    """A JSON object and where it came from."""

    def __init__(self, data: Mapping[str, Any], where: str):
        self._data = data
        self.where = where

    def section(self, name: str, *, fallback: bool = False) -> Keys:
        """A nested object; with `fallback`, the object itself where the nesting does not exist (older configs).

        Raises:
            ConfigError: when it is missing.
        """
        inner = self._data.get(name)
        if inner is None and fallback:
            return self
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{self.where}: {name} is missing")
        return Keys(inner, f"{self.where}.{name}")

    def over(self, defaults: Mapping[str, Any]) -> Keys:
        """The same, with defaults for keys that are absent."""
        return Keys({**defaults, **self._data}, self.where)

    def get(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """The value, or `default` when the key is absent or null. An integer serves where a float is asked for.

        Args:
            name: the key.
            kind: the type, or types, that it may have.
            default: for a key that is absent or null.

        Raises:
            ConfigError: for a value of another type.
        """
        value = self._data.get(name)
        if value is None:
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(
                f"{self.where}: {name} should be {' or '.join(k.__name__ for k in kinds)}, found {value!r}"
            )
        return value

    def need(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """The value; ConfigError when it is absent.

        Raises:
            ConfigError: when it is absent or of another type.
        """
        value = self.get(name, kind, None)
        if value is None:
            raise ConfigError(f"{self.where}: {name} is missing")
        return value

    def numbers(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        """A list of numbers.

        Raises:
            ConfigError: for anything else.
        """
        values = self.get(name, list, list(default))
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            raise ConfigError(f"{self.where}: {name} should be a list of numbers, found {values!r}")
        return tuple(float(v) for v in values)

    def require(self, name: str, value: Any) -> None:
        """Refuse a setting other than the one that is implemented.

        Raises:
            ConfigError: for another value.
        """
        found = self._data.get(name, value)
        if found != value:
            raise ConfigError(f"{self.where}: {name} {found!r} is not supported, only {value!r}")

    def choice(self, name: str, options: Mapping[Any, str], default: Any) -> Any:
        """One of `options`, translated; ConfigError for another value.

        Args:
            name: the key.
            options: what its values are translated to.
            default: the value of a key that is absent.

        Raises:
            ConfigError: for another value.
        """
        value = self._data.get(name, default)
        if not isinstance(value, (str, int, float, NoneType)) or value not in options:
            raise ConfigError(f"{self.where}: {name} {value!r} is not one of {', '.join(map(str, options))}")
        return options[value]
