"""One module a model family: how its configuration and its tensor names translate.

A family module has `config(source) -> LMMConfig` and `foreign_name(canonical) -> str`, the checkpoint's (era-free)
name of a canonical tensor. One direction is enough: the runtime knows the canonical names it expects, and looks each
of them up.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from rave_mlx.convert.families import qwen2_5_vl
from rave_mlx.errors import ModelError

FAMILIES: dict[str, ModuleType] = {"qwen2_5_vl": qwen2_5_vl}


def detect(config: dict[str, Any], where: str) -> ModuleType:
    """The family of a checkpoint's configuration.

    Raises:
        ModelError: for a model type that is not supported; the message lists those that are.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ModelError(f"{where}: model type {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[name]
