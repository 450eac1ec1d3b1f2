"""The tower of SAM as transformers writes it, in GOT-OCR 2.0 and DeepSeek-OCR 2."""

from __future__ import annotations

from rave_mlx.config import WindowVisionConfig
from rave_mlx.convert.families.base import Origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

_TOP = {
    "patch_embed": "patch_embed.projection",
    "neck1": "neck.conv1",
    "neck_norm1": "neck.layer_norm1",
    "neck2.proj": "neck.conv2",
    "neck_norm2": "neck.layer_norm2",
}
_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention": "attn",
    "rows": "rel_pos_h",
    "columns": "rel_pos_w",
    "fc1": "mlp.lin1",
    "fc2": "mlp.lin2",
}


def read_sam(vision: Keys, mlp_size: int) -> WindowVisionConfig:
    """The tower, over the defaults of its classes.

    Args:
        vision: its section.
        mlp_size: width of the MLP where `mlp_dim` is not given.

    Raises:
        ConfigError: for settings that are malformed or not supported.
    """
    depth = vision.get("num_hidden_layers", int, 12)
    whole = vision.get("global_attn_indexes", list, [2, 5, 8, 11])
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in whole):
        raise ConfigError(f"{vision.where}: global_attn_indexes {whole} should be numbers of layers")
    return WindowVisionConfig(
        depth=depth,
        hidden_size=vision.get("hidden_size", int, 768),
        intermediate_size=vision.get("mlp_dim", int, mlp_size),
        num_heads=vision.get("num_attention_heads", int, 12),
        tile_size=_square(vision, "image_size", 1024),
        patch_size=_square(vision, "patch_size", 16),
        window_size=vision.get("window_size", int, 14),
        output_size=vision.get("output_channels", int, 256),
        full_attention_layers=tuple(i for i in range(depth) if i in whole),
        channels=vision.get("num_channels", int, 3),
        norm_eps=vision.get("layer_norm_eps", float, 1e-6),
        activation=vision.choice("hidden_act", ACTIVATIONS, "gelu"),
        qkv_bias=vision.get("qkv_bias", bool, True),
        positions=vision.get("use_abs_pos", bool, True),
        relative_positions=vision.get("use_rel_pos", bool, True),
    )


def _square(vision: Keys, name: str, default: int) -> int:
    """A side in pixels, given as a number or as (height, width)."""
    value = vision.get(name, (int, list), default)
    sides = value if isinstance(value, list) else [value]
    if not sides or any(side != sides[0] or not isinstance(side, int) for side in sides) or sides[0] < 1:
        raise ConfigError(f"{vision.where}: {name} {value!r} is no square of whole pixels")
    return int(sides[0])


def sam_origin(path: str, vision: WindowVisionConfig, stem: str) -> Origin:
    """Where a tensor of the tower lies.

    Args:
        path: its canonical name, without what precedes the tower.
        vision: the tower.
        stem: what precedes `layers`, `neck` and `patch_embed` in the checkpoint.
    """
    if path == "positions":
        return Origin(f"{stem}pos_embed", (1, vision.side, vision.side, vision.hidden_size))
    module, _, leaf = path.rpartition(".")
    if module in _TOP:
        return Origin(f"{stem}{_TOP[module]}.{leaf}", _kernel(module, vision) if leaf == "weight" else None)
    index, *parts = path.removeprefix("layers.").split(".")
    return Origin(f"{stem}layers.{index}.{'.'.join(_LAYER.get(part, part) for part in parts)}")


def _kernel(module: str, vision: WindowVisionConfig) -> tuple[int, ...] | None:
    """The shape of a convolution's weights, which are a matrix here; None for what is no convolution."""
    width, side = vision.output_size, vision.patch_size
    shapes = {
        "patch_embed": (vision.hidden_size, vision.channels, side, side),
        "neck1": (width, vision.hidden_size, 1, 1),
        "neck2.proj": (width, width, 3, 3),
    }
    return shapes.get(module)
