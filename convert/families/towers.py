"""The CLIP and SigLIP towers of transformers: their configuration, and where their tensors lie."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import TileVisionConfig
from rave_mlx.convert.families.base import Origin
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}
"""Activations by their names in transformers."""

_CLIP: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _CLIP | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
"""What configurations leave out, by model type."""

IGNORED = (r".*\.vision_tower\.head\..*",)
"""SigLIP's pooling, which features do not pass through."""

_TOP = {
    "patch_embed": "embeddings.patch_embedding",
    "pre_norm": "pre_layrnorm",
    "post_norm": "post_layernorm",
}
_WHOLE = {"class_token": "embeddings.class_embedding", "positions": "embeddings.position_embedding.weight"}
_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def read_tower(vision: Keys, kind: str, **changes: Any) -> TileVisionConfig:
    """A tower from its section of a configuration.

    Args:
        vision: the section.
        kind: its model type, `clip_vision_model` or `siglip_vision_model`.
        changes: fields that the family decides.

    Raises:
        ConfigError: for another model type, and for keys of the wrong type.
    """
    if kind not in DEFAULTS:
        raise ConfigError(f"{vision.where}: model_type {kind!r} is not supported, only {', '.join(DEFAULTS)}")
    default, clip = DEFAULTS[kind], kind == "clip_vision_model"
    fields: dict[str, Any] = {
        "depth": vision.get("num_hidden_layers", int, default["num_hidden_layers"]),
        "hidden_size": vision.get("hidden_size", int, default["hidden_size"]),
        "intermediate_size": vision.get("intermediate_size", int, default["intermediate_size"]),
        "num_heads": vision.get("num_attention_heads", int, default["num_attention_heads"]),
        "tile_size": vision.get("image_size", int, default["image_size"]),
        "patch_size": vision.get("patch_size", int, default["patch_size"]),
        "activation": vision.choice("hidden_act", ACTIVATIONS, default["hidden_act"]),
        "norm_eps": vision.get("layer_norm_eps", float, default["layer_norm_eps"]),
        "channels": vision.get("num_channels", int, 3),
        "class_token": clip,
        "pre_norm": clip,
        "patch_bias": not clip,
    }
    return TileVisionConfig(**(fields | changes))


def state_indices(layers: int | list[Any], depth: int, where: str) -> tuple[int, ...]:
    """Indices of a tower's `hidden_states` (the embeddings, then what each layer puts out) as `feature_layers`.

    The last of them has not passed the final norm, in CLIP and SigLIP alike.

    Args:
        layers: one index or several; negative ones count from the end.
        depth: layers of the tower.
        where: the file, for errors.

    Raises:
        ConfigError: for an index that the tower does not have.
    """
    chosen = layers if isinstance(layers, list) else [layers]
    wrong = [i for i in chosen if not isinstance(i, int) or not -depth - 1 <= i <= depth]
    if wrong or not chosen:
        raise ConfigError(f"{where}: vision_feature_layer {layers}; a tower of {depth} layers has {depth + 1} states")
    return tuple(i % (depth + 1) for i in chosen)


def tower_origin(canonical: str, vision: TileVisionConfig, stem: str = "model.vision_tower.") -> Origin:
    """Where a canonical `vision.*` tensor lies; `stem` precedes `embeddings`, `encoder` and `post_layernorm`.

    Args:
        canonical: the canonical name.
        vision: the tower's configuration.
        stem: what precedes `embeddings`, `encoder` and `post_layernorm` there.
    """
    path = canonical.removeprefix("vision.")
    if path in _WHOLE:
        return Origin(stem + _WHOLE[path])
    name, _, leaf = path.rpartition(".")
    if name in _TOP:
        patch = (vision.hidden_size, vision.channels, vision.patch_size, vision.patch_size)
        return Origin(f"{stem}{_TOP[name]}.{leaf}", patch if path == "patch_embed.weight" else None)
    _, index, inner = name.split(".", 2)
    return Origin(f"{stem}encoder.layers.{index}.{_LAYER[inner]}.{leaf}")
