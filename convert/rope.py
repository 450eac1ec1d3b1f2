"""Rotary settings of a foreign configuration, of every era."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import RopeConfig
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError


def read_rope(text: Keys, *, default_theta: float | None = None) -> RopeConfig:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4.x); contradictions are refused."""
    modern = text.get("rope_parameters", dict, None)
    flat = text.get("rope_theta", float, None)
    scaling: dict[str, Any] = modern or text.get("rope_scaling", dict, {})
    theta = (modern or {}).get("rope_theta", flat)
    theta = default_theta if theta is None else theta
    if theta is None:
        raise ConfigError(f"{text.where}: neither rope_parameters.rope_theta nor rope_theta is given")
    if modern and flat is not None and float(modern.get("rope_theta", flat)) != flat:
        raise ConfigError(f"{text.where}: rope_theta {flat} contradicts rope_parameters.rope_theta {theta}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ConfigError(f"{text.where}: rope type {kind!r} is not supported for this family")
    sections = scaling.get("mrope_section")
    return RopeConfig(theta=float(theta), sections=None if sections is None else tuple(sections))
