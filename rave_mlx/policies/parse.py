"""From `--attention rave+var:paper,rho=0.9` to policies, and back to a line that names what went wrong.

NAME[:PRESET][:key=value,...] joined by "+": `none` and `rave` switch the model's gates off and on, every other name is
a policy. A list of numbers is written with slashes: `dims=458/2570`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Attention, Policy, Steering
from rave_mlx.policies.registry import POLICIES


def steering(attention: Attention) -> Steering:
    """Read a choice of attention.

    Raises:
        UsageError: for a name, preset, field or value that does not exist; the message lists what does.
    """
    if attention is None:
        return Steering()
    if isinstance(attention, Steering):
        return attention
    parts: list[str | Policy] = []
    for part in [attention] if isinstance(attention, str | Policy) else attention:
        parts += part.split("+") if isinstance(part, str) else [part]
    gates = {part for part in parts if part in ("none", "rave")}
    policies = tuple(_read(part) if isinstance(part, str) else part for part in parts if part not in gates)
    if len(gates) > 1:
        raise UsageError(f"--attention {attention}: none and rave exclude each other")
    names = [policy.name for policy in policies]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--attention: {twice[0]} is given twice; give its settings once")
    revising = [policy.name for policy in policies if policy.has("revise")]
    if len(revising) > 1:
        raise UsageError(f"--attention: {' and '.join(revising)} both choose what is read; take one of them")
    dropping = [policy.name for policy in policies if policy.drops or policy.has("after_block")]
    if len(dropping) > 1:
        raise UsageError(f"--attention: {' and '.join(dropping)} both drop visual tokens; take one of them")
    return Steering("rave" in gates, policies)


def _read(text: str) -> Policy:
    """One policy from NAME[:PRESET][:key=value,...]."""
    name, _, rest = text.strip().partition(":")
    if name not in POLICIES:
        raise UsageError(f"--attention: no policy is called {name!r}; there are none, rave, {', '.join(POLICIES)}")
    kind = POLICIES[name]
    settings = [part for part in rest.replace(":", ",").split(",") if part]
    fields: dict[str, Any] = {}
    if settings and "=" not in settings[0]:
        preset = settings.pop(0)
        if preset not in kind.presets:
            known = ", ".join(kind.presets) or "none"
            raise UsageError(
                f"--attention {text}: {name} has no preset {preset!r}; there are: {known}; or write key=value"
            )
        fields |= kind.presets[preset]
    hints = typing.get_type_hints(kind)
    known_fields = [f.name for f in dataclasses.fields(kind)]
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in known_fields or not equals:
            known = ", ".join(known_fields) or "no settings"
            raise UsageError(f"--attention {text}: {name} does not know {setting!r}; it has {known}")
        fields[key] = _value(value, hints[key], f"--attention {text}: {key}")
    return kind(**fields)


def _value(text: str, hint: Any, where: str) -> Any:
    """A value of a field's type: bool, int, float, str, a choice, a tuple of those, or None."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text == "none" and type(None) in args:
            return None
        return _value(text, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        if text not in args:
            raise UsageError(f"{where} is {text!r}; it can be {', '.join(map(str, args))}")
        return text
    if origin is tuple:
        return tuple(_value(part, args[0], where) for part in text.split("/") if part)
    if hint is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{where} is {text!r}; it can be true or false")
        return text == "true"
    try:
        return hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise UsageError(f"{where} is {text!r}; it must be {kind}") from None
