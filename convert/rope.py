"""Rotary settings of a foreign configuration, of every era.

transformers 5 writes everything into `rope_parameters`; transformers 4 wrote `rope_theta` beside `rope_scaling`, whose
kind was called `type` and later `rope_type`. Where a file says the same thing twice, both have to agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rave_mlx.config import RopeConfig, RopeScaling
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

_Kind = Literal["linear", "dynamic", "yarn", "longrope", "llama3"]
_KINDS: dict[Any, _Kind | None] = {
    "default": None,
    "mrope": None,
    "linear": "linear",
    "dynamic": "dynamic",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "llama3": "llama3",
}
_ORIGINAL = "original_max_position_embeddings"
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}
_KEYS: dict[str | None, set[str]] = {
    None: set(),
    "linear": {"factor"},
    "dynamic": {"factor", _ORIGINAL},
    "yarn": {
        "factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"
    },
    "longrope": {"factor", _ORIGINAL, "attention_factor", "short_factor", "long_factor"},
    "llama3": {"factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"},
}  # fmt: skip


def read_rope(text: Keys, *, default_theta: float | None = None, partial: bool = False) -> RopeConfig:
    """The decoder's rotary settings.

    Args:
        text: the section with the decoder's keys.
        default_theta: what an absent base means; None: it has to be there.
        partial: whether a part of a head may be rotated; which, `rotated_share` says.

    Raises:
        ConfigError: for keys and kinds that are not known, missing or contradict each other.
    """
    if not partial and rotated_share(text) != 1:
        raise ConfigError(f"{text.where}: partial_rotary_factor {rotated_share(text)} is not supported, only 1.0")
    modern, old = text.get("rope_parameters", dict, None), text.get("rope_scaling", dict, None)
    found = [
        _read(text, data, name, default_theta) for name, data in (("rope_parameters", modern), ("rope_scaling", old))
        if data
    ] or [_read(text, {}, "rope_parameters", default_theta)]  # fmt: skip
    if found[-1] != found[0]:
        raise ConfigError(f"{text.where}: rope_parameters and rope_scaling contradict each other; remove one of them")
    return found[0]


def rotated_share(text: Keys, default: float = 1.0) -> float:
    """The share of a head that is rotated; `default` where nothing is said."""
    rope = text.get("rope_parameters", dict, None) or text.get("rope_scaling", dict, {})
    flat = text.get("partial_rotary_factor", float, default)
    share: float = Keys(rope, text.where).get("partial_rotary_factor", float, flat)
    return share


def context(rope: RopeConfig, max_positions: int) -> int:
    """How far the positions of a model go whose configuration says `max_positions`.

    For these kinds that number may be the context before stretching (transformers' documentation asks for it).
    """
    scaling = rope.scaling
    if scaling is None or scaling.kind not in ("dynamic", "yarn") or scaling.original_positions is None:
        return max_positions
    return max(max_positions, int(scaling.factor * scaling.original_positions))


def _read(text: Keys, data: Mapping[str, Any], name: str, default_theta: float | None) -> RopeConfig:
    keys = Keys({k: v for k, v in data.items() if v is not None}, f"{text.where}.{name}")
    kind = _kind(keys, data)
    unknown = sorted(k for k, v in data.items() if v is not None and k not in _COMMON | _KEYS[kind])
    if unknown:
        raise ConfigError(f"{keys.where}: unknown with rope type {kind or 'default'!r}: {', '.join(unknown)}")
    return RopeConfig.from_dict(
        {
            "theta": _theta(text, keys, default_theta),
            "sections": keys.get("mrope_section", list, None),
            "interleaved": keys.get("mrope_interleaved", bool, False),
            "scaling": None if kind is None else _scaling(text, keys, kind),
        },
        keys.where,
    )


def _kind(keys: Keys, data: Mapping[str, Any]) -> _Kind | None:
    names = [data[key] for key in ("rope_type", "type") if data.get(key) is not None] or ["default"]
    strange = [name for name in names if not isinstance(name, str) or name not in _KINDS]
    if strange:
        raise ConfigError(f"{keys.where}: rope type {strange[0]!r} is not one of {', '.join(_KINDS)}")
    kind = _KINDS[names[0]]
    if kind != _KINDS[names[-1]]:
        raise ConfigError(f"{keys.where}: rope_type {names[0]!r} contradicts type {names[-1]!r}")
    # The first Phi-3 with a long context called longrope so.
    return "longrope" if kind == "yarn" and "short_factor" in data else kind


def _theta(text: Keys, keys: Keys, default: float | None) -> float:
    inner, flat = keys.get("rope_theta", float, None), text.get("rope_theta", float, None)
    if inner is not None and flat is not None and inner != flat:
        raise ConfigError(f"{text.where}: rope_theta {flat} contradicts {keys.where}.rope_theta {inner}")
    theta = next((value for value in (inner, flat, default) if value is not None), None)
    if theta is None:
        raise ConfigError(f"{text.where}: neither rope_parameters.rope_theta nor rope_theta is given")
    return float(theta)


def _scaling(text: Keys, keys: Keys, kind: _Kind) -> RopeScaling:
    if keys.get("factor", float, 1.0) <= 0:
        raise ConfigError(f"{keys.where}: factor {keys.get('factor', float, 1.0)} must be positive")
    if kind == "linear":
        return RopeScaling(kind, factor=keys.need("factor", float))
    longest = text.need("max_position_embeddings", int)
    original = _original(text, keys, kind, longest)
    if kind == "dynamic":
        return RopeScaling(kind, factor=keys.need("factor", float), original_positions=original)
    if kind == "llama3":
        low, high = keys.need("low_freq_factor", float), keys.need("high_freq_factor", float)
        if high <= low:
            raise ConfigError(f"{keys.where}: high_freq_factor {high} must be more than low_freq_factor {low}")
        return RopeScaling(
            kind,
            factor=keys.need("factor", float),
            original_positions=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    stretch = {
        "factor": keys.get("factor", float, longest / original),
        "original_positions": original,
        "attention_factor": keys.get("attention_factor", float, None),
    }
    if kind == "longrope":
        return RopeScaling(
            kind,
            **stretch,
            short_factors=_numbers(keys, "short_factor"),
            long_factors=_numbers(keys, "long_factor"),
        )
    return RopeScaling(
        kind,
        **stretch,
        beta_fast=keys.get("beta_fast", float, 0.0) or RopeScaling.beta_fast,
        beta_slow=keys.get("beta_slow", float, 0.0) or RopeScaling.beta_slow,
        mscale=keys.get("mscale", float, None),
        mscale_all_dim=keys.get("mscale_all_dim", float, None),
        truncate=keys.get("truncate", bool, True),
    )


def _original(text: Keys, keys: Keys, kind: _Kind, longest: int) -> int:
    """Context of the pre-training; Phi-3 keeps it outside, and there it counts."""
    inner, outer = keys.get(_ORIGINAL, int, None), text.get(_ORIGINAL, int, None)
    if inner is not None and outer is not None and inner != outer:
        raise ConfigError(f"{text.where}: {_ORIGINAL} {outer} contradicts {keys.where}.{_ORIGINAL} {inner}")
    original = int(next((value for value in (outer, inner) if value is not None), longest))
    if kind == "dynamic" and original != longest:
        raise ConfigError(
            f"{text.where}: {_ORIGINAL} {original} with a dynamic rope type has to be max_position_embeddings {longest}"
        )
    if original < 1:
        raise ConfigError(f"{text.where}: {_ORIGINAL} {original} must be at least 1")
    return original


def _numbers(keys: Keys, name: str) -> tuple[float, ...]:
    numbers = keys.need(name, list)
    wrong = [n for n in numbers if not isinstance(n, (int, float)) or isinstance(n, bool) or n <= 0]
    if wrong:
        raise ConfigError(f"{keys.where}: {name} holds {wrong[0]!r}; positive numbers are needed")
    return tuple(map(float, numbers))
