"""Qwen3-VL (arXiv 2511.21631), the dense models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

from rave_mlx.config import ExpertsConfig, LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.qwen import (
    ACTIVATIONS,
    ERAS,
    assemble,
    qwen_origin,
    read_multimodal_rope,
    read_parts,
    read_tower,
)
from rave_mlx.convert.families.text import read_text
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
}
"""Defaults of the decoder. The rotary base has none: it is 5e6 in transformers 4 and 5e5 in transformers 5."""
TOWER: HubConfig = {
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
"""Defaults of the tower, of Qwen3.5's as well."""
VISION: HubConfig = {**TOWER, "deepstack_visual_indexes": [8, 16, 24]}
"""Defaults of the tower with its DeepStack."""
LINEAR_NAMES = {"fc1": "linear_fc1", "fc2": "linear_fc2"}
"""Names in the merger and in the tower's MLPs."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    return read_model(source, "qwen3_vl", TEXT)


def read_model(
    source: Source, kind: str, defaults: HubConfig, experts: Callable[[Keys], ExpertsConfig | None] | None = None
) -> LMMConfig:
    """The canonical configuration of a model with this tower.

    Args:
        source: the checkpoint.
        kind: its model type.
        defaults: of its decoder.
        experts: reads what the decoder has in the place of MLPs; None: nothing.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole, text, vision = read_parts(source, defaults, VISION)
    text.require("use_sliding_window", False)
    rope = read_multimodal_rope(text, (24, 20, 20), interleaved=True)
    fields: dict[str, Any] = {}
    if experts is not None:
        # In the classes with experts, the decoder's own section says nothing of its head.
        fields = {"experts": experts(text), "tie_embeddings": whole.get("tie_word_embeddings", bool, False)}
    decoder = read_text(text, whole, kind, rope=rope, sliding_window=None, **fields)
    vision.require("out_hidden_size", decoder.hidden_size)
    tower = read_tower(
        vision,
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        norm="layer",
        mlp="plain",
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        patch_bias=True,
        position_side=read_side(vision),
        deepstack_layers=_deepstack(vision),
    )
    return assemble(kind, source, whole, text, decoder, tower)


def read_side(vision: Keys) -> int:
    """Learned positions a side of the tower's table.

    Raises:
        ConfigError: where they are no square.
    """
    count: int = vision.need("num_position_embeddings", int)
    if count < 0 or isqrt(count) ** 2 != count:
        raise ConfigError(f"{vision.where}: num_position_embeddings {count} is not the square of a whole number")
    return isqrt(count)


def _deepstack(vision: Keys) -> tuple[int, ...]:
    layers: list[int] = vision.need("deepstack_visual_indexes", list)
    if layers != sorted(set(layers)) or not set(layers) <= set(range(vision.need("depth", int))):
        raise ConfigError(
            f"{vision.where}: deepstack_visual_indexes {layers} should name layers of the tower, in order"
        )
    return tuple(layers)


origin = partial(qwen_origin, merger=LINEAR_NAMES | {"norm": "norm"}, mlp=LINEAR_NAMES)
FAMILY = Family(config, origin, ERAS)
